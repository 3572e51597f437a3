"""Archives of torch.save: the zip directory, its records, the pickle, and the bytes of tensors."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from bench.fuzz.formats.pickles import change_pickle
from bench.fuzz.mutation import NUMBERS, change_bytes, several

__all__ = ["change_archive"]

_MAGICS = (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7")


@dataclass
class _Record:
    """One record, and what the directory says of it where that is another thing than it is."""

    name: str
    data: bytes
    deflated: bool = False
    lies: dict[str, Any] = field(default_factory=dict)


@dataclass
class _End:
    """What stands around the records, and what the end record says where that is no truth."""

    before: bytes = b""
    behind: bytes = b""
    lies: dict[str, int] = field(default_factory=dict)


def change_archive(draw: Random, raw: bytes) -> bytes:
    """An archive with some changes of its records or of its directory."""
    if draw.random() < 0.1:
        return change_bytes(draw, raw)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        records = [_Record(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    end = _End()

    def change() -> None:
        draw.choice(_CHANGES)(draw, records, end)

    several(draw, change)
    return _written(records, end)


def _pickle(draw: Random, records: list[_Record], _: _End) -> None:
    found = next((record for record in records if record.name.endswith("data.pkl")), None)
    if found is not None:
        found.data = change_pickle(draw, found.data)


def _bytes(draw: Random, records: list[_Record], _: _End) -> None:
    found = _any(draw, records)
    found.data = change_bytes(draw, found.data)


def _values(draw: Random, records: list[_Record], _: _End) -> None:
    """A tensor's values that are none, or far from the others."""
    found = _any(draw, records)
    value = draw.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\xff" * 4))
    at = draw.randrange(len(found.data) // 4 + 1) * 4
    found.data = found.data[:at] + value + found.data[at + 4 :]


def _count(draw: Random, records: list[_Record], _: _End) -> None:
    """One fewer, or one twice, under its own name or another."""
    found = _any(draw, records)
    if draw.random() < 0.5:
        records.remove(found)
    else:
        names = (
            found.name,
            found.name.upper(),
            f"{found.name}x",
            "other/data.pkl",
            "x/constants.pkl",
            "",
            "/",
            "a/../b",
        )
        records.insert(draw.randrange(len(records) + 1), replace(found, name=draw.choice(names), lies={}))


def _name(draw: Random, records: list[_Record], end: _End) -> None:
    found = _any(draw, records)
    root, _, rest = found.name.partition("/")
    found.name = draw.choice(
        ("x/" + rest, rest, found.name.upper(), root + "//" + rest, "../outside/" + rest, "\x1b" + found.name)
    )


def _size(draw: Random, records: list[_Record], _: _End) -> None:
    found = _any(draw, records)
    found.data = draw.choice(
        (found.data[: len(found.data) // 2], found.data + bytes(draw.choice((1, 4, 5000))), b"", found.data[:-1])
    )


def _lie(draw: Random, records: list[_Record], _: _End) -> None:
    found = _any(draw, records)
    found.lies[
        draw.choice(("crc", "size", "packed", "offset", "flags", "method", "name", "extra", "comment", "magic"))
    ] = draw.choice((*NUMBERS, len(found.data) - 1, len(found.data) + 1, 64))


def _compress(draw: Random, records: list[_Record], _: _End) -> None:
    found = _any(draw, records)
    found.deflated = True
    found.data = draw.choice((found.data, bytes(1 << 20)))


def _around(draw: Random, _: list[_Record], end: _End) -> None:
    some = draw.choice((b"\0", b"x" * 100, b"PK\5\6" + bytes(18), b"PK\3\4", bytes(5000)))
    if draw.random() < 0.5:
        end.before = some
    else:
        end.behind = some


def _end_lies(draw: Random, records: list[_Record], end: _End) -> None:
    what = draw.choice(("disk", "count", "size", "offset", "comment", "magic", "wide"))
    end.lies[what] = draw.choice((*NUMBERS, len(records) - 1, len(records) + 1))


def _any(draw: Random, records: Sequence[_Record]) -> _Record:
    return draw.choice(records) if records else _Record("x/y", b"")


_CHANGES: Sequence[Callable[[Random, list[_Record], _End], None]] = (
    *(_pickle,) * 8,
    *(_bytes, _values, _count, _name, _size, _lie, _lie, _compress, _around, _end_lies),
)


def _written(records: Sequence[_Record], end: _End) -> bytes:
    """The archive, as the records and their lies say."""
    body, directory = bytearray(end.before), bytearray()
    for record in records:
        name, lies = record.name.encode("utf-8", "replace"), record.lies
        data = zlib.compress(record.data)[2:-4] if record.deflated else record.data
        true = {"flags": 0x800, "method": 8 * record.deflated, "crc": zlib.crc32(record.data)}
        true |= {"packed": len(data), "size": len(record.data), "name": len(name), "extra": 0, "comment": 0}
        told = {key: lies.get(key, number) for key, number in true.items()}
        sizes = (told["crc"], told["packed"], told["size"], told["name"], told["extra"], told["comment"])
        offset = lies.get("offset", len(body))
        directory += _magic(lies, 1) + _numbers("222222", 0, 0, told["flags"], told["method"], 0, 0)
        directory += _numbers("4442222244", *sizes, 0, 0, 0, offset) + name
        body += b"PK\3\4" + _numbers("22222", 0, true["flags"], told["method"], 0, 0)
        body += _numbers("44422", true["crc"], true["packed"], true["size"], true["name"], 0) + name + data
    begin, count, lies = len(body), len(records), end.lies
    body += directory
    if "wide" in lies:
        body += b"PK\6\6" + _numbers("8224488", 44, 0, 0, 0, 0, count, count) + _numbers("88", len(directory), begin)
        at = lies["wide"] if lies["wide"] % 2 else begin + len(directory)
        body += b"PK\6\7" + _numbers("484", 0, at, 1)
    told = {"disk": 0, "count": count, "size": len(directory), "offset": begin, "comment": 0} | lies
    body += _magic(lies, 2) + _numbers("2222", told["disk"], 0, told["count"], told["count"])
    return bytes(body + _numbers("442", told["size"], told["offset"], told["comment"]) + end.behind)


def _magic(lies: dict[str, Any], usual: int) -> bytes:
    return _MAGICS[lies["magic"] % len(_MAGICS)] if "magic" in lies else _MAGICS[usual]


def _numbers(widths: str, *numbers: int) -> bytes:
    """Numbers of so many bytes each, cut to them."""
    return b"".join(
        (number % 256 ** int(width)).to_bytes(int(width), "little")
        for width, number in zip(widths, numbers, strict=True)
    )
