import base64
import itertools
import json
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peelaudit.calibration import vocabulary_files
from peelaudit.calibration.encoder import Encoder
from peelaudit.calibration.tokenization import find_tokenizer
from peelaudit.errors import CalibrationError

TEXT = (
    "Once upon a time, in 1984, there was a BOY who'd found 12345678 things — naïve café.\n"
    "  Two  spaces,\ttabs and\r\n\n\n  odd ends'LL do: 你好, мир! CamelCase, __init__(self) == 0x1F;  \n"
)


def find(path: Path) -> Encoder:
    return find_tokenizer(str(path), path, 200_000)


def refused(path: Path) -> str:
    with pytest.raises(CalibrationError) as caught:
        find(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.fixture(scope="module")
def llama_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model made as Llama's was, of next to no text."""
    pytest.importorskip("google.protobuf")
    sentencepiece = pytest.importorskip("sentencepiece")
    (folder := tmp_path_factory.mktemp("pieces")).joinpath("text.txt").write_text(TEXT * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def ids_of(model: Path, text: str) -> list[int]:
    import sentencepiece

    ids: list[int] = sentencepiece.SentencePieceProcessor(model_file=str(model)).encode(text)
    return ids


def test_a_sentencepiece_model_alone_gives_its_librarys_ids(llama_like: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(llama_like.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for path in (tmp_path, tmp_path / "tokenizer.model"):
        encoder = find(path)
        assert (encoder.name, encoder.prefix, encoder.suffix) == (str(tmp_path / "tokenizer.model"), (1,), ())
        assert encoder.encode(TEXT) == ids_of(llama_like, TEXT)


def test_a_configured_sentencepiece_model_gives_them_too(llama_like: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(llama_like.read_bytes())
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "tokenizer.model"):
        encoder = find(path)
        assert (encoder.prefix, encoder.suffix) == ((1,), ())
        assert encoder.encode(TEXT) == ids_of(llama_like, TEXT)


@pytest.mark.parametrize("configured", [False, True])
def test_without_its_library_the_extra_is_named(
    tmp_path: Path, configured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>")
    if configured:
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    needs = "reading a sentencepiece model needs sentencepiece: pip install 'peelaudit[sentencepiece]'"
    assert refused(tmp_path) == f"{tmp_path / 'tokenizer.model'}: {needs}"


@pytest.mark.parametrize("kept", [0, 3, 1000])
def test_a_damaged_sentencepiece_model_is_told(llama_like: Path, tmp_path: Path, kept: int) -> None:
    (path := tmp_path / "tokenizer.model").write_bytes(llama_like.read_bytes()[:kept])
    assert refused(tmp_path).startswith(f"{path}: the tokenizer can't be loaded")


def pieces(count: int) -> list[bytes]:
    """Byte strings of which each longer one is two others: the bytes, then runs of letters, digits and blanks."""
    letters = (string.ascii_letters + string.digits + " '.").encode()
    found = [bytes([byte]) for byte in range(256)]
    for length in range(2, 5):
        found += map(bytes, itertools.islice(itertools.product(letters, repeat=length), count - len(found)))
    return found


def write_tiktoken(path: Path, count: int) -> Path:
    lines = [base64.b64encode(piece) + b" " + str(rank).encode() for rank, piece in enumerate(pieces(count))]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def published_pattern(count: int) -> str:
    """How the library's own definition of the vocabulary splits text, or transformers' of Qwen's."""
    if count == 151_643:
        from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

        return str(PRETOKENIZE_REGEX)
    public: Any = pytest.importorskip("tiktoken_ext.openai_public")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(public, "load_tiktoken_bpe", lambda *_, **__: {})
        patch.setattr(public, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: {})
        name = {50_256: "r50k_base", 199_998: "o200k_base"}.get(count, "cl100k_base")
        return str(getattr(public, name)()["pat_str"])


def ids_by_rank(count: int, pattern: str, text: str) -> list[int]:
    tiktoken: Any = pytest.importorskip("tiktoken")
    ranks = {piece: rank for rank, piece in enumerate(pieces(count))}
    ids: list[int] = tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode(text)
    return ids


def test_a_file_of_gpt2s_size_gives_its_librarys_ids(tmp_path: Path) -> None:
    path = write_tiktoken(tmp_path / "some.tiktoken", 50_256)
    encoder = find(tmp_path)
    assert (encoder.name, encoder.prefix) == (str(path), (50_256,))
    assert encoder.encode(TEXT * 3) == ids_by_rank(50_256, published_pattern(50_256), TEXT * 3)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has a vocabulary of 3,000 pieces taken for one of another size, which would be slow to convert."""

    def take(count: int) -> None:
        monkeypatch.setattr(vocabulary_files, "_KNOWN", {3000: vocabulary_files._KNOWN[count]})

    return take


@pytest.mark.parametrize(
    ("count", "prefix"),
    [(50_256, (50_256,)), (100_256, (100_257,)), (128_000, (128_000,)), (151_643, ()), (199_998, ())],
)
def test_each_known_vocabulary_splits_text_as_its_publisher_does(
    tmp_path: Path, few: Callable[[int], None], count: int, prefix: tuple[int, ...]
) -> None:
    few(count)
    write_tiktoken(tmp_path / "some.tiktoken", 3000)
    encoder = find(tmp_path)
    assert encoder.prefix == prefix
    assert encoder.encode(TEXT * 3) == ids_by_rank(3000, published_pattern(count), TEXT * 3)


def test_a_configured_one_is_read_by_transformers_and_never_from_a_stale_copy(
    tmp_path: Path, few: Callable[[int], None]
) -> None:
    pytest.importorskip("tiktoken")
    few(128_000)
    path = write_tiktoken(tmp_path / "tokenizer.model", 3000)
    alone = find(path)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert find(tmp_path).encode(TEXT) == alone.encode(TEXT)
    lines = path.read_bytes().splitlines()
    swapped = [lines[0].split()[0] + b" 1", lines[1].split()[0] + b" 0", *lines[2:]]
    path.write_bytes(b"\n".join(swapped) + b"\n")
    assert find(tmp_path).encode("\x00\x01") == [1, 0]


def test_a_file_of_an_unknown_vocabulary_is_refused(tmp_path: Path) -> None:
    path = write_tiktoken(tmp_path / "tokenizer.model", 3000)
    advice = "name a tokenizer.json that was made of it with --tokenizer"
    assert refused(tmp_path).startswith(f"{path}: 3000 pieces are no vocabulary that is known")
    assert refused(tmp_path).endswith(advice)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    pytest.importorskip("tiktoken")
    assert "these 3000 pieces aren't its" in refused(tmp_path)


@pytest.mark.parametrize(
    "lines",
    [
        [b"IQ== 0", b"IQ"],
        [b"IQ== 0", b"I#== 1"],
        [b"IQ== 0", b"Ig== x"],
        [b"IQ== 0", b"Ig== 5"],
        [b"IQ== 0", b"Ig== 1"],
        [b"IQ== 0", base64.b64encode(b"a" * 2000) + b" 1"],
    ],
)
def test_a_damaged_tiktoken_file_is_told(tmp_path: Path, lines: list[bytes]) -> None:
    (path := tmp_path / "a.tiktoken").write_bytes(b"\n".join(lines) + b"\n")
    message = refused(tmp_path)
    assert message.startswith(str(path))
    assert "expected a piece in base64 and its rank" in message or "is it truncated?" in message


def test_two_tiktoken_files_in_a_directory_are_none(tmp_path: Path) -> None:
    for name in "ab":
        write_tiktoken(tmp_path / f"{name}.tiktoken", 3000)
    assert "the directory holds no tokenizer" in refused(tmp_path)
