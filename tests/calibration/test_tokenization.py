import json
import os
import pickle
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peelaudit.calibration import Calibration
from peelaudit.calibration.bounded import Limits
from peelaudit.calibration.encoder import Encoder, encode_document
from peelaudit.calibration.tokenization import find_tokenizer, write_tokenizer
from peelaudit.errors import CalibrationError
from tests.calibration.support import CHARACTERS, character_tokenizer, decode, load, refusal, shared, tokenizer_json
from tests.checkpoints import gguf_models, models
from tests.places import ROOT

TEXT = "\f".join(f"document {number} " + "abc def " * 20 for number in range(60))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (path := tmp_path / "a.txt").write_text(TEXT)
    return path


def beginnings(calibration: Calibration) -> Any:
    """The first token of each cluster of *fit*."""
    first = np.unique(calibration.fit.clusters, return_index=True)[1]
    return calibration.fit.tokens[first, 0]


def test_pieces_are_encoded_no_further_than_needed() -> None:
    seen: list[str] = []

    def encode(piece: str) -> list[int]:
        seen.append(piece)
        return [ord(char) for char in piece]

    text = "a line of text\n" * 10_000
    tokens = encode_document(Encoder("t", encode, (1,), (2,)), text, limit=5000, vocabulary=128)
    assert bytes(tokens[1:].tolist()).decode() == text[:4999]
    assert len("".join(seen)) < 50_000
    whole = encode_document(Encoder("t", encode, (1,), (2,)), text, limit=10**6, vocabulary=128)
    assert (whole[0], whole[-1], whole.size) == (1, 2, len(text) + 2)
    assert all(piece.endswith("\n") for piece in seen)


def test_row_53_a_tokenizer_of_another_model_is_told(tmp_path: Path, text: Path) -> None:
    message = refusal(tmp_path, text, vocabulary=20)
    assert "the tokenizer gives id" in message
    assert message.endswith("the model's vocabulary is 20: they don't belong together")


def test_a_character_table_beside_the_checkpoint_is_taken(tmp_path: Path, text: Path) -> None:
    calibration = load(tmp_path, text)
    assert calibration.info.tokenizer == str(tmp_path / "meta.pkl")
    assert decode(calibration.fit.tokens[0]).startswith("document ")


def test_a_character_that_the_table_lacks_is_named(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_text(TEXT.replace("document 7", "€"))
    assert "holds '€' (U+20AC), which this tokenizer lacks" in refusal(tmp_path, path, tokens=50_000)


class Hostile:
    def __reduce__(self) -> Any:
        return print, ("executed",)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "raw",
    [
        pickle.dumps(Hostile()),
        pickle.dumps({"stoi": {"a": Hostile()}}),
        b"\x80\x02r\xff\xff\xff\x7f.",
        b"\x80\x04}r" + struct.pack("<I", 2**31 - 1) + b".",
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
        b"garbage",
        b"\x80\x04]" + b"\x94h\x00a" * 3 + b".",
        b"\x80\x04K\x01.",
        pickle.dumps({"itos": {}}),
        pickle.dumps({"stoi": {"ab": 1}}),
        pickle.dumps({"stoi": {"a": -1}}),
        pickle.dumps({"stoi": {"a": True}}),
        pickle.dumps({"stoi": {}}),
        b"\x80\x04" + b"N0" * 2_100_000,
    ],
)
def test_a_hostile_character_table_does_nothing(
    tmp_path: Path, text: Path, raw: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (path := tmp_path / "meta.pkl").write_bytes(raw)
    message = refusal(tmp_path, text)
    assert message.startswith(f"{path}: ")
    assert "plain pickle" in message or "nanoGPT's meta.pkl" in message
    assert capsys.readouterr().out == ""


def test_without_a_tokenizer_the_sentence_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no tokenizer with the checkpoint; name one with --tokenizer, or give"):
        find_tokenizer(None, tmp_path / "ckpt.pt", 65)
    with pytest.raises(CalibrationError, match=r"50304 is probably GPT-2's.*\.bin or \.npy file, which need none"):
        find_tokenizer(None, tmp_path / "ckpt.pt", 50_304)


def test_a_given_tokenizer_that_is_none_is_named(tmp_path: Path, text: Path) -> None:
    (empty := tmp_path / "empty").mkdir()
    assert "empty: the directory holds no tokenizer" in refusal(tmp_path, text, tokenizer=str(empty))
    assert "there is no such tokenizer file" in refusal(tmp_path, text, tokenizer=str(tmp_path / "x.json"))
    assert "a tokenizer is a directory, a tokenizer.json" in refusal(tmp_path, text, tokenizer=str(text))


def test_a_given_character_table_goes_before_the_checkpoints(tmp_path: Path, text: Path) -> None:
    (other := tmp_path / "other").mkdir()
    table = character_tokenizer(other, CHARACTERS[::-1])
    assert load(tmp_path, text, tokenizer=str(table)).info.tokenizer == str(table)
    assert load(tmp_path, text, tokenizer=str(other)).info.tokenizer == str(table)


def test_a_bare_tokenizer_json_puts_the_end_of_text_between_documents(tmp_path: Path, text: Path) -> None:
    plain = load(tmp_path, text, tokenizer=str(tokenizer_json(tmp_path)))
    assert decode(plain.fit.tokens[0]).startswith("document ")
    ended = load(tmp_path, text, tokenizer=str(tokenizer_json(tmp_path, special=True)))
    assert (beginnings(ended) == len(CHARACTERS)).all()


@pytest.mark.parametrize("content", ["", "{}", "[" * 10_000, "\x00", '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_json_is_named(tmp_path: Path, text: Path, content: str) -> None:
    (path := tmp_path / "tokenizer.json").write_text(content)
    assert refusal(tmp_path, text).startswith(f"{path}: the tokenizer can't be loaded")


@pytest.mark.parametrize("configured", [False, True])
def test_row_46_a_merge_overrun_is_an_error_without_a_backtrace(
    tmp_path: Path, text: Path, configured: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    vocabulary = {"a": 0, "b": 1, "ab": 2}
    tokenizer_json(tmp_path, vocab=vocabulary, merges=[["a", "b"]], continuing_subword_prefix="######")
    if configured:
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    message = refusal(tmp_path, text)
    assert "the tokenizer can't be loaded: range end index" in message
    assert capfd.readouterr().err == ""


def changed(folder: Path, **changes: Any) -> Path:
    path = tokenizer_json(folder, special=True)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


MANY = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}] * 65
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [*MANY, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [len(CHARACTERS)], "tokens": ["<|endoftext|>"]}},
}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}, "can't be loaded: it takes"),
        ({"post_processor": TEMPLATE}, "puts 65 tokens before a document and 0 behind it, over 64 in all"),
    ],
    ids=["aborting", "a long template"],
)
def test_row_80_a_tokenizer_without_an_end_is_given_up(
    changes: dict[str, Any],
    why: str,
    tmp_path: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("peelaudit.calibration.encoder.LIMITS", Limits(computing=2, memory=1 << 28))
    assert why in refusal(tmp_path, text, tokenizer=str(changed(tmp_path, **changes)))
    assert capfd.readouterr().err == ""


def test_row_46_other_base_exceptions_pass(tmp_path: Path) -> None:
    def interrupted(_: str) -> list[int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_document(Encoder("t", interrupted), "text", limit=5, vocabulary=5)


@pytest.mark.parametrize("name", ["meta.json", "vocab.json"])
@pytest.mark.parametrize("nested", [True, False])
def test_a_table_of_characters_may_be_json(tmp_path: Path, text: Path, name: str, nested: bool) -> None:
    plain = load(tmp_path, text).info
    (tmp_path / "meta.pkl").unlink()
    stoi = {char: index for index, char in enumerate(CHARACTERS)}
    (path := tmp_path / name).write_text(json.dumps({"stoi": stoi, "vocab_size": 9} if nested else stoi))
    (tmp_path / "other").mkdir()
    for given in (str(tmp_path), str(path)):
        info = load(tmp_path / "other", text, tokenizer=given).info
        assert (info.tokenizer, info.tokens_sha256) == (str(path), plain.tokens_sha256)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 100_000,
        "[]",
        "{}",
        '{"stoi": {"a": 1, "a": 2}}',
        '{"stoi": {"a": 1, "b": 1}}',
        '{"stoi": {"a": -1}}',
        '{"stoi": {"ab": 1}}',
        '{"stoi": {"a": true}}',
        '{"stoi": {"a": 1.0}}',
        '{"stoi": 3}',
        '{"stoi": {"a": ' + "9" * 5000 + "}}",
        '{"a": "b"}',
    ],
)
def test_a_damaged_table_in_json_is_named(tmp_path: Path, text: Path, content: str) -> None:
    (tmp_path / "tables").mkdir()
    (path := tmp_path / "tables/meta.json").write_text(content)
    assert refusal(tmp_path, text, tokenizer=str(path.parent)).startswith(f"{path}: ")


def test_a_sentencepiece_model_without_sentencepiece_is_one_sentence(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    (path := tmp_path / "tok.model").write_bytes(b"\x0a")
    assert refusal(tmp_path, text, tokenizer=str(path)).endswith("pip install 'peelaudit[sentencepiece]'")


def test_importing_and_reading_token_ids_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 99, 9999))
    code = (
        "import sys; from tests.calibration.support import *\n"
        f"load(Path({str(tmp_path)!r}), Path({str(tmp_path / 'a.npy')!r}))\n"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["stories260K", "bitllama-3M"])
def test_a_real_directory_begins_documents_with_its_own_token(tmp_path: Path, name: str) -> None:
    model = shared(f"models/{name}")
    encoder = find_tokenizer(None, model, 512)
    assert (encoder.prefix, encoder.suffix) == ((1,), ())
    assert find_tokenizer(None, model / "model.safetensors", 512).prefix == (1,)
    text = shared("data/tinystories.txt").read_text()[:3000]
    tokens = encode_document(encoder, text, limit=2000, vocabulary=512)
    assert tokens[1:].tolist() == encoder.encode(text)[: len(tokens) - 1]


@pytest.mark.usefixtures("offline")
def test_wikitext_with_a_real_tokenizer(tmp_path: Path) -> None:
    model, data = shared("models/stories260K"), shared("data/wikitext-2/valid.txt")
    calibration = load(tmp_path, data, vocabulary=512, tokenizer=str(model), tokens=16_384)
    info = calibration.info
    assert (info.unit, info.documents, info.seq_len) == ("document", 60, 128)
    assert info.held_out.clusters >= 15
    assert (beginnings(calibration) == 1).all()


@pytest.mark.usefixtures("offline")
def test_custom_code_of_a_tokenizer_is_never_executed(tmp_path: Path, text: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a")
    (tmp_path / "custom.py").write_text("raise SystemExit('executed')")
    config = {"tokenizer_class": "Custom", "auto_map": {"AutoTokenizer": ["custom.Custom", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    message = refusal(tmp_path, text)
    assert message.startswith(f"{tmp_path}: the tokenizer can't be loaded")
    assert "trust_remote_code" not in message
    assert "huggingface.co" not in message


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_the_first_part_of_a_split_gguf_has_the_tokenizer(tmp_path: Path) -> None:
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(CalibrationError, match="m-00001-of-00002"):
        find_tokenizer(None, tmp_path / "m-00002-of-00002.gguf", 64)


def test_a_gguf_brings_its_tokenizer(tmp_path: Path) -> None:
    if not (gguf := Path(os.environ.get("PEELAUDIT_SMOLLM2", ""))).is_file():
        pytest.skip("SmolLM2 is not at hand")
    encoder = find_tokenizer(None, gguf, 49_152)
    assert (encoder.prefix, encoder.suffix) == ((), ())
    assert encoder.encode("Hello there") == [19556, 665]


@pytest.mark.usefixtures("offline")
def test_a_tokenizer_inside_a_gguf_is_written_beside(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    words = [f"w{number}" for number in range(60)] + list("abĠ") + ["ab"]

    def metadata(writer: Any) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(words)
        writer.add_token_types([1] * 64)
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)

    made = gguf_models.convert(models.model("llama"), tmp_path / "x.gguf", metadata=metadata)
    (tmp_path / "out").mkdir()
    write_tokenizer(made, tmp_path / "out")
    inside, beside = (find_tokenizer(None, place, 64) for place in (made, tmp_path / "out"))
    assert inside.encode("ab a") == beside.encode("ab a") == [63, 62, 60]
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(CalibrationError, match="can't be written"):
        write_tokenizer(tmp_path / "bad.gguf", tmp_path / "out")


def test_pieces_without_a_configuration_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\na\nb\n")
    with pytest.raises(CalibrationError, match=r"can't be loaded without its tokenizer_config.json: \w"):
        find_tokenizer(str(tmp_path), tmp_path, 3)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    assert find_tokenizer(str(tmp_path), tmp_path, 3).encode("a b") == [1, 2]
