"""Files to be damaged: safetensors by their header, archives of torch.save record by record."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

GOOD = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
"""The header of 24 bytes of data."""

Change = Callable[[str, bytes], list[tuple[str, bytes]]]
"""What to write for a record, by its name and bytes."""


def entry(shape: object, begin: object, end: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def build(header: object, data: bytes = bytes(24), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def rewrite(path: Path, change: Change, method: int = zipfile.ZIP_STORED) -> None:
    """Write the archive again, record by record, each replaced by what `change` gives for it."""
    with zipfile.ZipFile(path) as archive:
        records = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in records:
            for changed_name, changed in change(name, data):
                archive.writestr(changed_name, changed)


def without(part: str) -> Change:
    return lambda name, data: [] if name.endswith(part) else [(name, data)]


def replacing(part: str, new: bytes) -> Change:
    return lambda name, data: [(name, new if name.endswith(part) else data)]


def program(body: bytes) -> Change:
    """The archive's pickle replaced by these instructions."""
    return replacing("data.pkl", b"\x80\x02" + body)


def shared_tuples() -> bytes:
    """A tuple of two of the same, 60 deep, as a dictionary's key: to hash it visits 2^60 leaves."""
    steps = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) + b"0" for n in range(60))
    return b"}Nq\x000" + steps + b"h\x3cNs."


def colliding_integers() -> bytes:
    """20,000 keys of one hash."""
    keys = b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(1, 20_000))
    return b"}(" + keys + b"u."
