"""Texts and chats out of .txt and .jsonl files, cut into documents."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from peelaudit.calibration.packing import beginning
from peelaudit.calibration.rows import Chat, Row, row_of
from peelaudit.calibration.sources import SourceFile
from peelaudit.errors import CalibrationError
from peelaudit.escape import printable

__all__ = ["Texts", "read_jsonl", "read_txt"]

_END_OF_TEXT = "<|endoftext|>"
_FORM_FEED = "\f"
_WIKITEXT_TITLE = re.compile(r"^(?= = (?!= )[^\r\n]* = ?\r?$)", re.MULTILINE)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of one file.

    `divided` says that they are the documents it names itself; otherwise it is one undivided text. `complete` says that
    the whole file was read, not just its beginning.
    """

    documents: Sequence[Row]
    divided: bool
    complete: bool


def read_txt(source: SourceFile, separator: str | None, budget: int) -> Texts:
    """The documents in the first `budget` bytes of a plain text.

    They are divided by `separator`; where it is None by `<|endoftext|>`, else by form feeds, else before WikiText's
    titles (` = Title = `); where there is none of these the text is undivided. White space around a document is
    dropped, and so is the last one where the budget cut it.

    Raises:
        CalibrationError: the file isn't UTF-8, holds nothing but white space, or is a Git LFS pointer.
    """
    raw, complete = beginning(source, budget)
    if raw.startswith(_LFS_POINTER):
        raise CalibrationError(f"{source}: the file is a Git LFS pointer; fetch the text itself with `git lfs pull`")
    text = _decode(source, raw, final=complete)
    pieces = _divide(text, separator)
    if len(pieces) > 1 and not complete:
        del pieces[-1]
    documents = [piece for piece in (piece.strip() for piece in pieces) if piece]
    if not documents:
        raise CalibrationError(f"{source}: the file holds no text")
    return Texts(documents, divided=len(documents) > 1, complete=complete)


def _decode(source: SourceFile, raw: bytes, *, final: bool) -> str:
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(raw, final)
    except UnicodeDecodeError as error:
        where = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
        raise CalibrationError(f"{source}: the text isn't UTF-8: {where}") from error


def _divide(text: str, separator: str | None) -> list[str]:
    if separator is not None:
        return text.split(separator)
    for marker in (_END_OF_TEXT, _FORM_FEED):
        if marker in text:
            return text.split(marker)
    return _WIKITEXT_TITLE.split(text)


def read_jsonl(source: SourceFile, field: str, budget: int) -> Texts:
    """The texts under `field`, or the chats, in the lines of the first `budget` bytes, one document a line.

    Blank ones are skipped.

    Raises:
        CalibrationError: a line isn't UTF-8 or isn't strict JSON (a duplicate key, NaN, too deep, an integer of
            thousands of digits, a lone surrogate), isn't an object, has no such text or chat, or has the one where
            those before it have the other; the message names the line.
    """
    documents: list[Row] = []
    raw, complete = beginning(source, budget)
    for number, line in _lines(source, raw, complete=complete):
        where = f"{source}, line {number}"
        try:
            row = _row_of(line, field, where)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{where}: {_reason(error)}") from error
        if row is None:
            continue
        if documents and isinstance(row, Chat) != isinstance(documents[0], Chat):
            one, other = ("chat", "texts") if isinstance(row, Chat) else ("text", "chats")
            raise CalibrationError(f"{where}: a {one}, and the rows before it are {other}: keep them in files apart")
        documents.append(row)
    if not documents:
        raise CalibrationError(f"{source}: the file holds no text")
    return Texts(documents, divided=True, complete=complete)


def _lines(source: SourceFile, raw: bytes, *, complete: bool) -> Iterator[tuple[int, bytes]]:
    """The lines that aren't blank, by number, less one that the budget cut."""
    for number, line in enumerate(io.BytesIO(raw), 1):
        if not line.endswith(b"\n") and not complete:
            if number == 1:
                raise CalibrationError(f"{source}, line 1: the line is longer than {len(raw)} bytes")
            return
        if line.strip():
            yield number, line


def _row_of(line: bytes, field: str, where: str) -> Row | None:
    if line.startswith(codecs.BOM_UTF8):
        raise ValueError("the file begins with a byte-order mark, which JSON does not allow")
    record = json.loads(line.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object with the key {field!r}, found {type(record).__name__}")
    return row_of(record, field, where)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {printable(twice)[:40]!r} occurs twice")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _reason(error: Exception) -> str:
    match error:
        case RecursionError():
            return "the JSON is nested too deeply"
        case json.JSONDecodeError():
            return f"not JSON: {error.msg} (column {error.colno})"
        case UnicodeDecodeError():
            return f"the text isn't UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start} of the line"
        case UnicodeEncodeError():
            return f"the text holds a lone surrogate, U+{ord(error.object[error.start]):04X}"
        case _ if "integer string conversion" in str(error):
            return "an integer has more than 4300 digits"
        case _:
            return str(error)
