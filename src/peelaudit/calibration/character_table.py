"""Character-level tokenizers: nanoGPT's, a pickle that is read without letting it do anything, and the same in JSON."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from peelaudit import json_text
from peelaudit.errors import CalibrationError
from peelaudit.escape import printable
from peelaudit.plain_files import read_plain

__all__ = ["is_character_table", "read_character_table"]

MAX_BYTES = 2**22
MAX_OPCODES = 2**20
PLAIN_OPCODES = frozenset(
    {"PROTO", "FRAME", "MARK", "STOP", "NONE", "NEWTRUE", "NEWFALSE"}
    | {"EMPTY_DICT", "EMPTY_LIST", "DICT", "LIST"}
    | {"SETITEM", "SETITEMS", "APPEND", "APPENDS"}
    | {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"}
    | {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "BINFLOAT", "FLOAT"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE"}
)
"""Without tuples, which as keys of a dictionary can be made to take for ever, or a stack without an end, to hash."""
MOST = 2**63
"""Integers beyond are no ids: of such there can be any number with one hash."""


def read_character_table(path: Path) -> dict[str, int]:
    """The id of each character: `stoi` of nanoGPT's meta.pkl, or of the same as JSON, or a JSON object of ids alone.

    Raises:
        CalibrationError: a pickle holds anything but plain containers, strings and numbers, or a file no such table.
    """
    table = _json(path) if path.suffix == ".json" else _plain_pickle(path)
    stoi = table.get("stoi") if isinstance(table, dict) else None
    if stoi is None and path.suffix == ".json":
        stoi = table
    if not isinstance(stoi, dict) or not stoi or not all(_is_character(key, value) for key, value in stoi.items()):
        expected = "expected nanoGPT's meta.pkl, a dictionary whose `stoi` maps characters to ids, or the like as JSON"
        raise CalibrationError(f"{printable(str(path))}: {expected}")
    if len(set(stoi.values())) < len(stoi):
        raise CalibrationError(f"{printable(str(path))}: two characters have one id")
    return stoi


def is_character_table(path: Path) -> bool:
    """Whether a JSON file is a table of characters, or at least no tokenizer.json and no vocabulary of pieces."""
    try:
        table = _json(path)
    except CalibrationError:
        return False
    if not isinstance(table, dict) or "model" in table:
        return False
    return "stoi" in table or (bool(table) and all(len(key) == 1 for key in table))


def _json(path: Path) -> object:
    try:
        raw = read_plain(path, MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES} bytes are more than a character table has")
        return json_text.parse(raw.decode("utf-8"))
    except (OSError, ValueError) as error:
        first = printable(str(error).strip().split("\n")[0])[:120]
        raise CalibrationError(f"{printable(str(path))}: not a table of characters: {first}") from error


def _is_character(key: object, value: object) -> bool:
    return isinstance(key, str) and len(key) == 1 and type(value) is int and 0 <= value < 2**31


class _PlainUnpickler(pickle.Unpickler):
    """Builds nothing but plain values: whatever would import or call is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside")


def _plain_pickle(path: Path) -> object:
    """The opcodes are vetted before the unpickler sees them: a few bytes can ask it for gigabytes."""
    name = printable(str(path))
    try:
        raw = read_plain(path, MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise pickle.UnpicklingError(f"over {MAX_BYTES} bytes are more than a character table has")
        _vet(raw)
        return _PlainUnpickler(io.BytesIO(raw)).load()
    except Exception as error:  # a damaged pickle raises nearly anything
        first = printable(str(error).strip().split("\n")[0])[:120] or type(error).__name__
        raise CalibrationError(f"{name}: not a plain pickle, which is all that is ever read: {first}") from error


def _vet(raw: bytes) -> None:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
        if opcode.name not in PLAIN_OPCODES or count > MAX_OPCODES:
            raise pickle.UnpicklingError(f"opcode {opcode.name} is not for plain data")
        if type(argument) is int and abs(argument) >= MOST:
            raise pickle.UnpicklingError("it holds an integer that is no id")
        if opcode.name.endswith("PUT") and int(argument or 0) > MAX_OPCODES:
            raise pickle.UnpicklingError(f"memo index {argument}")
