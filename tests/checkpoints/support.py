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
