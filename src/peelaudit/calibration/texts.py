"""Texts and chats out of .txt, .jsonl and .json files, cut into documents."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from peelaudit import json_text
from peelaudit.calibration.packing import beginning
from peelaudit.calibration.rows import Chat, Row, row_of
from peelaudit.calibration.sources import SourceFile
from peelaudit.errors import CalibrationError
from peelaudit.escape import printable

__all__ = ["Texts", "read_json", "read_jsonl", "read_txt"]

_END_OF_TEXT = "<|endoftext|>"
_FORM_FEED = "\f"
_WIKITEXT_TITLE = re.compile(r"^(?= = (?!= )[^\r\n]* = ?\r?$)", re.MULTILINE)
_BLANK = " \t\r\n"
_NEXT = re.compile(r"[ \t\r\n]*")
_NEXT_SIGN = re.compile(r"[ \t\r\n]*(,|(?=\]))")
_LONGEST_SIGN = len("-Infinity")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

T = TypeVar("T")


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
    raw, complete = beginning(source, budget)
    places = ((f"{source}, line {number}", line) for number, line in _lines(source, raw, complete=complete))
    return Texts(_documents(source, places, _of_line, field), divided=True, complete=complete)


def read_json(source: SourceFile, field: str, budget: int) -> Texts:
    """The same of a file that is one list of rows; one that is no list is read as JSON lines, as many are called so.

    Raises:
        CalibrationError: as for `read_jsonl`, or the file is one object.
    """
    raw, complete = beginning(source, budget)
    text = _decode(source, raw, final=complete).lstrip(_BLANK)
    if not text.startswith("["):
        _refuse_object(source, text)
        return read_jsonl(source, field, budget)
    try:
        json_text.check_count(text)
    except ValueError as error:
        raise CalibrationError(f"{source}: {error}, and is no list of texts") from None
    places = _items(source, text, complete=complete)
    return Texts(_documents(source, places, lambda item: item, field), divided=True, complete=complete)


def _documents(
    source: SourceFile, places: Iterable[tuple[str, T]], parsed: Callable[[T], object], field: str
) -> list[Row]:
    """The rows that aren't blank, of items that each stand somewhere."""
    documents: list[Row] = []
    for where, item in places:
        try:
            record = parsed(item)
            if not isinstance(record, dict):
                raise ValueError(f"expected a JSON object with the key {field!r}, found {type(record).__name__}")
            row = row_of(record, field, where)
        except ValueError as error:
            raise CalibrationError(f"{where}: {_reason(error)}") from error
        if row is None:
            continue
        if documents and isinstance(row, Chat) != isinstance(documents[0], Chat):
            one, other = ("chat", "texts") if isinstance(row, Chat) else ("text", "chats")
            raise CalibrationError(f"{where}: a {one}, and the rows before it are {other}: keep them in files apart")
        documents.append(row)
    if not documents:
        raise CalibrationError(f"{source}: the file holds no text")
    return documents


def _items(source: SourceFile, text: str, *, complete: bool) -> Iterator[tuple[str, object]]:
    """The items of a JSON list, by number, as far as they are there; less one that the budget cut."""
    decoder = json_text.decoder(_refuse_constant)
    at, number = 1, 0
    while True:
        at = _NEXT.match(text, at).end()  # type: ignore[union-attr]
        if text.startswith("]", at) or (at >= len(text) and not complete):
            return
        number += 1
        try:
            item, at = decoder.raw_decode(text, at)
            after = _NEXT_SIGN.match(text, at)
            if after is not None:
                at = after.end()
            elif complete or text[at:].strip(_BLANK):
                raise ValueError("no comma stands behind it")
        except (ValueError, RecursionError) as error:
            if not complete and _is_of_the_end(error, text):
                if number == 1:
                    raise CalibrationError(f"{source}, row 1: the row is longer than {len(text)} characters") from None
                return
            raise CalibrationError(f"{source}, row {number}: {_reason(error)}") from error
        yield f"{source}, row {number}", item


def _is_of_the_end(error: Exception, text: str) -> bool:
    """Whether what isn't JSON may be for a lack of what comes next."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated") or error.pos > len(text) - _LONGEST_SIGN


def _refuse_object(source: SourceFile, text: str) -> None:
    """Raise CalibrationError for a file that is one JSON object over several lines."""
    try:
        found = json_text.parse(text)
    except ValueError:
        return  # JSON lines, or what reading these will tell
    if isinstance(found, dict) and "\n" in text.strip(_BLANK):
        keys = ", ".join(printable(key)[:40] for key in list(found)[:8]) or "none"
        raise CalibrationError(f"{source}: one JSON object (keys: {keys}), not a list of rows; take the rows out of it")


def _lines(source: SourceFile, raw: bytes, *, complete: bool) -> Iterator[tuple[int, bytes]]:
    """The lines that aren't blank, by number, less one that the budget cut."""
    for number, line in enumerate(io.BytesIO(raw), 1):
        if not line.endswith(b"\n") and not complete:
            if number == 1:
                raise CalibrationError(f"{source}, line 1: the line is longer than {len(raw)} bytes")
            return
        if line.strip():
            yield number, line


def _of_line(line: bytes) -> object:
    if line.startswith(codecs.BOM_UTF8):
        raise ValueError("the file begins with a byte-order mark, which JSON does not allow")
    return json_text.parse(line.decode("utf-8"), constant=_refuse_constant)


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
