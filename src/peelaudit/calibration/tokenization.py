"""Tokenizers as one small interface: Hugging Face's, sentencepiece's and nanoGPT's, read from local files only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from peelaudit.calibration.arrays import GPT2_VOCABULARIES, Tokens
from peelaudit.calibration.character_table import read_character_table
from peelaudit.calibration.rows import Chat, Rendered
from peelaudit.calibration.sources import printable
from peelaudit.errors import CalibrationError
from peelaudit.filenames import gguf_parts

__all__ = ["Encoder", "check_tokenizer", "encode_document", "find_tokenizer", "render_chat"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_META = "meta.pkl"
_SUFFIXES = (".pkl", ".model", ".json")
_DAY = {"d": "26", "m": "07", "Y": "2024", "y": "24", "b": "Jul", "B": "July", "a": "Fri", "A": "Friday"}
"""The day that Llama's templates fall back on where they aren't told one, by the letters that ask for it."""
_DAY_FILTERS = "".join(f" | replace('%{letter}', '{word}')" for letter, word in _DAY.items())
_TEMPLATE_DAY = f"{{% macro strftime_now(form) %}}{{{{ form{_DAY_FILTERS} }}}}{{% endmacro %}}{{{{ '' }}}}"
"""What has a chat template that asks for the date find that day."""
_CHARS_PER_TOKEN = 8
_MIN_PIECE = 4096


@dataclass(frozen=True, slots=True)
class Encoder:
    """A tokenizer. `encode` gives a text's ids without special tokens, which are `prefix` and `suffix`.

    `prefix` is what stands before a document, `suffix` after a whole one (see `_special_tokens`). `render` makes a text
    of a chat by the tokenizer's template; None where it has none.
    """

    name: str
    encode: Callable[[str], list[int]]
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    render: Callable[[Chat], str] | None = None


def render_chat(encoder: Encoder | None, chat: Chat) -> Rendered:
    """A chat as the tokenizer's template writes it, with all of its special tokens.

    Raises:
        CalibrationError: the tokenizer has no template, or the template doesn't take this chat.
    """
    if encoder is None or encoder.render is None:
        advice = "name a tokenizer that has one with --tokenizer, or give the text itself"
        whose = "there is" if encoder is None else f"{encoder.name} has"
        raise CalibrationError(f"{chat.where}: a chat needs a chat template, and {whose} none; {advice}")
    with _tokenizer_errors(chat.where, "has a chat template that can't render the chat"):
        text = encoder.render(chat)
        text.encode("utf-8")
        return Rendered(text)


def encode_document(encoder: Encoder, text: str, *, limit: int, vocabulary: int, whole: bool = True) -> Tokens:
    """The first `limit` ids of a document, or all of them where there are fewer. [tokens], int64.

    The text is encoded in pieces that end at a line's end, and none beyond the limit: the ids are those of one encoding
    of the whole, but for a token or two at a joint. `whole` is False for a part of an undivided text, which has neither
    prefix nor suffix.

    Raises:
        CalibrationError: an id isn't in the model's vocabulary, or the tokenizer failed.
    """
    ids = list(encoder.prefix) if whole else []
    for piece in _pieces(text, max(_MIN_PIECE, _CHARS_PER_TOKEN * limit)):
        if len(ids) >= limit:
            break
        with _tokenizer_errors(encoder.name, "can't encode the calibration text"):
            ids += encoder.encode(piece)
    else:
        ids += encoder.suffix if whole else ()
    tokens = np.asarray(ids[:limit], dtype=np.int64)
    if tokens.size and (tokens.max() >= vocabulary or tokens.min() < 0):
        wrong = next(int(token) for token in tokens if not 0 <= token < vocabulary)
        why = f"the tokenizer gives id {wrong}, and the model's vocabulary is {vocabulary}: they don't belong together"
        raise CalibrationError(f"{encoder.name}: {why}")
    return tokens


def _pieces(text: str, size: int) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            end = text.find("\n", end, end + size) + 1 or text.find(" ", end, end + size) or end
            end = max(end, start + size)
        yield text[start:end]
        start = end


@contextmanager
def _tokenizer_errors(name: str, what: str) -> Iterator[None]:
    """Turn what a tokenizer raises into a CalibrationError, without a hub's advice.

    The Rust library panics on some damaged files, and a PanicException is no Exception: it is told by its name alone,
    since the class can't be imported.
    """
    try:
        yield
    except CalibrationError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        first = printable((str(error).strip() or type(error).__name__).split("\n")[0])[:160]
        advice = "huggingface.co" in first or "trust_remote_code" in first
        raise CalibrationError(f"{name}: the tokenizer {what}{'' if advice else f': {first}'}") from error


def find_tokenizer(given: str | None, checkpoint: Path, vocabulary: int, *, config: str | None = None) -> Encoder:
    """The tokenizer that was given, else the one inside or beside the checkpoint, else the one beside the config.json
    (or in its directory) that was given for the checkpoint.

    Raises:
        CalibrationError: there is none, or it can't be loaded.
    """
    if given is not None:
        return _load(Path(given))
    if checkpoint.suffix.lower() == ".gguf" and checkpoint.is_file():
        return _from_directory(checkpoint.parent, gguf_file=gguf_parts(checkpoint.name)[0])
    folder = _folder(checkpoint)
    if _has_tokenizer(folder):
        return _load(folder)
    if config is not None and _has_tokenizer(beside := _folder(Path(config))):
        return _load(beside)
    hint = ""
    if vocabulary in GPT2_VOCABULARIES:
        hint = f" (a vocabulary of {vocabulary} is probably GPT-2's: the directory of a GPT-2 tokenizer will do)"
    raise CalibrationError(
        f"{printable(str(checkpoint))}: there is no tokenizer with the checkpoint; name one with --tokenizer{hint}, or "
        "give token ids as --data, a .bin or .npy file, which need none"
    )


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*_TOKENIZER_FILES, _META))


def _is_configured(path: Path) -> bool:
    """Whether a file is one of those that a tokenizer_config.json beside it says how to read."""
    return path.name in _TOKENIZER_FILES and (path.parent / "tokenizer_config.json").is_file()


def check_tokenizer(path: Path) -> None:
    """Raise CalibrationError where a tokenizer isn't there, or is of no kind that can be loaded."""
    shown = printable(str(path))
    if path.is_dir():
        if not _has_tokenizer(path):
            raise CalibrationError(
                f"{shown}: the directory holds no tokenizer ({', '.join((*_TOKENIZER_FILES, _META))})"
            )
    elif not path.is_file():
        raise CalibrationError(f"{shown}: there is no such tokenizer file or directory")
    elif path.suffix not in _SUFFIXES and not _is_configured(path):
        raise CalibrationError(
            f"{shown}: a tokenizer is a directory, a tokenizer.json, a sentencepiece .model or a meta.pkl"
        )


def _load(path: Path) -> Encoder:
    check_tokenizer(path)
    if path.is_dir():
        if not any((path / name).is_file() for name in _TOKENIZER_FILES):
            return _from_characters(path / _META)
        if (path / "tokenizer.json").is_file() and not (path / "tokenizer_config.json").is_file():
            return _from_json(path / "tokenizer.json")
        return _from_directory(path)
    if _is_configured(path):
        return _from_directory(path.parent)
    match path.suffix:
        case ".pkl":
            return _from_characters(path)
        case ".model":
            return _from_sentencepiece(path)
        case _:
            return _from_json(path)


def _special_tokens(with_special: list[int], without: list[int], bos: int | None, eos: int | None) -> dict[str, Any]:
    """What stands before and after a document, given the ids of a probe text with and without special tokens.

    What the tokenizer adds of its own accord is taken as it is. If it adds nothing, but its beginning-of-text and its
    end-of-text are one token (GPT-2's `<|endoftext|>`), then that stood between documents in training, and it is put in
    front. Otherwise nothing: the two tokens of a chat model, for instance, have no place around plain text.
    """
    for start in range(len(with_special) - len(without) + 1):
        if with_special[start : start + len(without)] == without and len(with_special) > len(without):
            return {"prefix": tuple(with_special[:start]), "suffix": tuple(with_special[start + len(without) :])}
    return {"prefix": (bos,) if bos is not None and bos == eos else ()}


def _serialised(path: Path) -> Any:
    """A tokenizer.json. On a panic the Rust library writes a backtrace to descriptor 2, which nobody should see."""
    from tokenizers import Tokenizer

    descriptor = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            return Tokenizer.from_file(str(path))
    finally:
        os.dup2(descriptor, 2)
        os.close(descriptor)


def _from_directory(folder: Path, gguf_file: str | None = None) -> Encoder:
    name = printable(str(folder if gguf_file is None else folder / gguf_file))
    with _tokenizer_errors(name, "can't be loaded"):
        if (serialised := folder / "tokenizer.json").is_file() and gguf_file is None:
            _serialised(serialised)  # before transformers: a panic is kept quiet here
        from transformers import AutoTokenizer

        options = {} if gguf_file is None else {"gguf_file": gguf_file}
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **options
        )

        def encode(text: str, *, special: bool = False) -> list[int]:
            ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
            return ids

        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        special = _special_tokens(encode("a", special=True), encode("a"), bos, eos)
        return Encoder(name, encode, render=partial(_render, tokenizer) if tokenizer.chat_template else None, **special)


def _render(tokenizer: Any, chat: Chat) -> str:
    """By the tokenizer's template, on the one day: equal settings are to give equal tokens tomorrow."""
    tools = [dict(tool) for tool in chat.tools] or None
    template: str = tokenizer.get_chat_template(tools=tools)
    if "strftime_now" in template:
        template = _TEMPLATE_DAY + template
    messages = [dict(message) for message in chat.messages]
    text: str = tokenizer.apply_chat_template(messages, tools=tools, chat_template=template, tokenize=False)
    return text


def _from_json(path: Path) -> Encoder:
    name = printable(str(path))
    with _tokenizer_errors(name, "can't be loaded"):
        tokenizer = _serialised(path)
        tokenizer.no_truncation()
        tokenizer.no_padding()

        def encode(text: str, *, special: bool = False) -> list[int]:
            ids: list[int] = tokenizer.encode(text, add_special_tokens=special).ids
            return ids

        added = tokenizer.get_added_tokens_decoder().items()
        end = next((token for token, text in added if text.special and text.content == "<|endoftext|>"), None)
        return Encoder(name, encode, **_special_tokens(encode("a", special=True), encode("a"), end, end))


def _from_sentencepiece(path: Path) -> Encoder:
    name = printable(str(path))
    try:
        import sentencepiece  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise CalibrationError(f"{name}: reading a .model needs sentencepiece: pip install sentencepiece") from error
    with _tokenizer_errors(name, "can't be loaded"):
        model: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
        bos = model.bos_id()
        return Encoder(name, lambda text: list(model.encode(text)), prefix=(bos,) if bos >= 0 else ())


def _from_characters(path: Path) -> Encoder:
    name = printable(str(path))
    ids = read_character_table(path)

    def encode(text: str) -> list[int]:
        try:
            return [ids[char] for char in text]
        except KeyError as error:
            char: str = error.args[0]
            shown = f"{printable(char)!r} (U+{ord(char):04X})"
            raise CalibrationError(f"{name}: the calibration text holds {shown}, which this tokenizer lacks") from error

    return Encoder(name, encode)
