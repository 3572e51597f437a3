r"""Tokenizers that are one file of pieces: sentencepiece's models, and tiktoken's lists of byte strings by rank.

A sentencepiece model says all of itself, and its own library reads it. A tiktoken file doesn't say how text is split
before pieces are joined: that is known of the vocabularies that many models share, which are told by their sizes, and
of no other. transformers takes every one for Llama 3's.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peelaudit.calibration.encoder import Encoder, tokenizer_errors
from peelaudit.errors import CalibrationError
from peelaudit.escape import printable

__all__ = ["check_convertible", "read_vocabulary", "uncached", "vocabulary_file"]

_NAMES = ("tokenizer.model", "spiece.model", "tiktoken.model")
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]{1,9}\r?\n")
_MOST_BYTES = 1 << 24
_LONGEST = 512
"""Bytes of a piece: no known one has half of it, and all of its divisions are looked at."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class _Known:
    """How a vocabulary splits text, and what stands before a document."""

    pattern: str
    prefix: tuple[int, ...]


_KNOWN = {
    50_256: _Known(_GPT2, (50_256,)),  # GPT-2, r50k_base
    100_256: _Known(_GPT4, (100_257,)),  # cl100k_base
    128_000: _Known(_GPT4, (128_000,)),  # Llama 3
    151_643: _Known(_GPT4.replace("{1,3}", ""), ()),  # Qwen
    199_998: _Known(_GPT4O, ()),  # o200k_base
}


def vocabulary_file(folder: Path) -> Path | None:
    """The file of pieces in a directory: one of the usual names, or the only .tiktoken; None if there is none."""
    named = next((path for name in _NAMES if (path := folder / name).is_file()), None)
    listed = [] if named else sorted(path for path in folder.glob("*.tiktoken") if path.is_file())
    return listed[0] if len(listed) == 1 else named


def read_vocabulary(path: Path) -> Encoder:
    """The tokenizer that a sentencepiece model or a tiktoken file is by itself.

    Raises:
        CalibrationError: it is damaged, its library isn't installed, or how it splits text isn't known.
    """
    return _tiktoken(path) if _is_tiktoken(path) else _sentencepiece(path)


def check_convertible(path: Path) -> None:
    """Whether transformers will read the file as it was meant.

    Raises:
        CalibrationError: a library that it reads it with isn't there, or it isn't Llama 3's way to split text.
    """
    if not _is_tiktoken(path):
        _need(path, "sentencepiece", "sentencepiece", "google.protobuf")
        return
    _need(path, "tiktoken", "tiktoken")
    count = len(_ranks(path))
    if count in _KNOWN and _KNOWN[count].pattern == _GPT4:
        return
    advice = "name a tokenizer.json that was made of it with --tokenizer"
    raise CalibrationError(
        f"{_shown(path)}: transformers would split text as for Llama 3, and these {count} pieces aren't its; {advice}"
    )


@contextmanager
def uncached() -> Iterator[None]:
    """Tiktoken reads the file itself: by default it keeps a copy by the file's name, whatever is in it by now."""
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


def _need(path: Path, extra: str, *modules: str) -> None:
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # a package around it is missing, or it was put out of reach
            found = None
        if found is None:
            kind = "a tiktoken file" if extra == "tiktoken" else "a sentencepiece model"
            raise CalibrationError(f"{_shown(path)}: reading {kind} needs {extra}: pip install 'peelaudit[{extra}]'")


def _is_tiktoken(path: Path) -> bool:
    with path.open("rb") as file:
        return _TIKTOKEN_LINE.fullmatch(file.readline(4 * _LONGEST)) is not None


def _sentencepiece(path: Path) -> Encoder:
    _need(path, "sentencepiece", "sentencepiece")
    import sentencepiece  # type: ignore[import-not-found, unused-ignore]

    name = _shown(path)
    with tokenizer_errors(name, "can't be loaded"):
        model: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
        bos = model.bos_id()
        return Encoder(name, lambda text: list(model.encode(text)), prefix=(bos,) if bos >= 0 else ())


def _tiktoken(path: Path) -> Encoder:
    """By transformers' conversion, of pieces that were read here: it needs no tiktoken then."""
    name, ranks = _shown(path), _ranks(path)
    if (known := _KNOWN.get(len(ranks))) is None:
        advice = "name a tokenizer.json that was made of it with --tokenizer"
        raise CalibrationError(
            f"{name}: {len(ranks)} pieces are no vocabulary that is known, and the file doesn't say how text is split; "
            f"{advice}"
        )
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class _Converter(TikTokenConverter):  # type: ignore[misc, unused-ignore]
        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            return ranks

    with tokenizer_errors(name, "can't be loaded"):
        tokenizer: Any = _Converter(vocab_file=str(path), pattern=known.pattern).converted()

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    return Encoder(name, encode, prefix=known.prefix)


def _ranks(path: Path) -> dict[bytes, int]:
    """The byte strings of a tiktoken file and their ranks, which are 0 to one less than how many they are."""
    with path.open("rb") as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise CalibrationError(f"{_shown(path)}: over {_MOST_BYTES} bytes are more than a vocabulary has")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(raw.splitlines(), 1):
        if not line:
            continue
        try:
            piece, rank = line.split()
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CalibrationError(f"{_shown(path)}, line {number}: expected a piece in base64 and its rank") from error
    sound = sorted(ranks.values()) == list(range(len(ranks))) and all(0 < len(piece) <= _LONGEST for piece in ranks)
    if not sound or not all(bytes([byte]) in ranks for byte in range(256)):
        raise CalibrationError(f"{_shown(path)}: the pieces and ranks aren't those of a vocabulary; is it truncated?")
    return ranks


def _shown(path: Path) -> str:
    return printable(str(path))
