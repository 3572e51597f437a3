"""The directory of the zip archive that `torch.save` writes: read here, entry by entry, and believed nowhere else.

torch stores every record uncompressed, puts the directory behind the last and the end record behind that, as the file's
last bytes. Anything else (a deflated bomb, appended bytes, a directory that lies elsewhere, records that overlap or
whose names differ in case alone) isn't what torch writes and is refused. Checksums are compared when a record is first
read: torch itself never looks at them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from peelaudit.checkpoints.files import Readable, quoted
from peelaudit.checkpoints.store import MAX_TENSORS
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint

__all__ = ["Record", "read_directory", "seal", "verify"]

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_WIDE_LOCATOR = struct.Struct("<4sLQL")
_WIDE_END = struct.Struct("<4sQ2H2L4Q")
_WIDE = 0xFFFFFFFF
_BEHIND = b"PK\7\x08"
"""Before the checksum and the sizes that stand behind a record's bytes, where they do."""
_MAX_DIRECTORY = 64 << 20
_CRC_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the archive: `offset` is that of its bytes in the file, `header` that of its local header, `entry`
    that of its entry in the directory. A `crc` of 0 was never computed.
    """

    name: str
    offset: int
    size: int
    crc: int
    header: int
    entry: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the directory as it stands there: `offset` is that of the record's local header, `place` its own."""

    name: str
    offset: int
    size: int
    crc: int
    plain: bool
    place: int


def read_directory(file: Readable) -> Mapping[str, Record]:
    """The archive's records by name, without the archive's own folder in front.

    Raises:
        MalformedCheckpoint: the archive is truncated, appended to, or not as torch writes it.
        UnsupportedCheckpoint: it is a TorchScript program, or of the other byte order.
    """
    subject = quoted(file.path)
    entries = list(_entries(file))
    roots = {entry.name.partition("/")[0] for entry in entries}
    if len(roots) != 1:
        raise MalformedCheckpoint(f"{subject}: isn't an archive that torch.save wrote")
    if f"{roots.pop()}/constants.pkl" in {entry.name for entry in entries}:
        raise UnsupportedCheckpoint(f"{subject}: is a TorchScript program; save the model's state_dict instead")
    records: dict[str, Record] = {}
    names: set[str] = set()
    for entry in entries:
        record = _record(file, entry)
        if record.name.lower() in names:
            raise MalformedCheckpoint(f"{subject}: has the record {quoted(record.name)} twice")
        names.add(record.name.lower())
        records[record.name] = record
    _check_ranges(file, records)
    _check_contents(file, records)
    return records


def verify(file: Readable, record: Record) -> None:
    """Raise MalformedCheckpoint unless the record's bytes have its checksum."""
    if not record.crc:
        return
    crc = 0
    for done in range(0, record.size, _CRC_CHUNK):
        crc = zlib.crc32(file.read(record.offset + done, min(_CRC_CHUNK, record.size - done)), crc)
    if crc != record.crc:
        raise MalformedCheckpoint(f"{quoted(file.path)}: the record {quoted(record.name)} doesn't have its checksum")


def seal(handle: BinaryIO, record: Record) -> None:
    """Make a record's checksum that of its bytes, wherever the archive says it: `handle` is open for both.

    torch writes it behind the bytes, others into the local header, all into the directory.
    """
    if not record.crc:
        return
    handle.seek(record.offset)
    crc, left = 0, record.size
    while left:
        chunk = handle.read(min(_CRC_CHUNK, left))
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    told = struct.pack("<L", record.crc)
    behind = record.offset + record.size + len(_BEHIND)
    for place, before in ((record.header + 14, b""), (behind, _BEHIND), (record.entry + 16, b"")):
        handle.seek(place - len(before))
        if handle.read(len(before) + 4) == before + told:
            handle.seek(place)
            handle.write(struct.pack("<L", crc))


def _entries(file: Readable) -> Iterator[_Entry]:
    """The directory, which holds exactly the entries that it says and ends where its end record begins."""
    subject = quoted(file.path)
    begin, end, count = _place(file)
    raw = bytes(file.read(begin, end - begin))
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > len(raw):
            raise MalformedCheckpoint(f"{subject}: the directory of its zip archive is damaged")
        entry, at = _entry(raw, at, begin, subject)
        yield entry
    if at != len(raw):
        raise MalformedCheckpoint(f"{subject}: the directory of its zip archive is damaged")


def _place(file: Readable) -> tuple[int, int, int]:
    """Where the directory begins and ends in the file, and how many entries it has."""
    subject = quoted(file.path)
    if file.size < _END.size:
        raise MalformedCheckpoint(f"{subject}: is truncated")
    end = file.size - _END.size
    signature, *disks, count, size, offset, comment = _END.unpack(file.read(end, _END.size))
    if signature != b"PK\5\6" or comment:
        raise MalformedCheckpoint(f"{subject}: is truncated, or something was appended to it")
    locator = end - _WIDE_LOCATOR.size
    if locator >= _WIDE_END.size and bytes(file.read(locator, 4)) == b"PK\6\7":
        _, _, at, _ = _WIDE_LOCATOR.unpack(file.read(locator, _WIDE_LOCATOR.size))
        end = locator - _WIDE_END.size
        narrow = ((count, 0xFFFF), (size, _WIDE), (offset, _WIDE))
        signature, *_, count, size, offset = _WIDE_END.unpack(file.read(end, _WIDE_END.size))
        agree = all(told in (wide, full) for (told, full), wide in zip(narrow, (count, size, offset), strict=True))
        if signature != b"PK\6\6" or at != end or not agree:
            raise MalformedCheckpoint(f"{subject}: its zip directory is damaged")
    if offset + size != end or any(disks[:2]):
        raise MalformedCheckpoint(f"{subject}: its zip directory doesn't lie where its end record says")
    if count > MAX_TENSORS or size > _MAX_DIRECTORY:
        raise MalformedCheckpoint(f"{subject}: its zip directory is larger than any model needs")
    return offset, end, count


def _entry(raw: bytes, at: int, start: int, subject: str) -> tuple[_Entry, int]:
    """The entry at that byte of the directory, which begins at `start`, and where the next one begins."""
    signature, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, _, _, _, offset = (
        _CENTRAL.unpack_from(raw, at)
    )
    begin = at + _CENTRAL.size
    end = begin + name + extra + comment
    try:
        text = raw[begin : begin + name].decode("utf-8")
        size, packed, offset = _wide(raw[begin + name : begin + name + extra], [size, packed, offset])
    except (UnicodeDecodeError, struct.error):
        raise MalformedCheckpoint(f"{subject}: the directory of its zip archive is damaged") from None
    if signature != b"PK\1\2" or end > len(raw):
        raise MalformedCheckpoint(f"{subject}: the directory of its zip archive is damaged")
    plain = method == 0 and packed == size and not flags & 1
    return _Entry(text, offset, size, crc, plain, start + at), end


def _wide(extra: bytes, sizes: list[int]) -> list[int]:
    """The sizes, those that didn't fit 32 bits taken from the entry's extra field of kind 1."""
    at = 0
    while _WIDE in sizes and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{sizes.count(_WIDE)}Q", extra, at + 4))
            return [next(wide) if size == _WIDE else size for size in sizes]
        at += 4 + length
    return sizes


def _record(file: Readable, entry: _Entry) -> Record:
    """One entry of the directory, compared with the local header in front of its bytes."""
    where = f"{quoted(file.path)}: the record {quoted(entry.name)}"
    if not entry.plain:
        raise MalformedCheckpoint(f"{where} is compressed or encrypted, which torch.save never does")
    if not 0 <= entry.offset <= file.size - _LOCAL.size:
        raise MalformedCheckpoint(f"{where} lies outside the file")
    signature, _, _, method, *_, name, extra = _LOCAL.unpack(file.read(entry.offset, _LOCAL.size))
    if signature != b"PK\3\4" or method:
        raise MalformedCheckpoint(f"{where} doesn't begin where the directory says")
    begin = entry.offset + _LOCAL.size + name + extra
    return Record(entry.name.partition("/")[2], begin, entry.size, entry.crc, entry.offset, entry.place)


def _check_ranges(file: Readable, records: Mapping[str, Record]) -> None:
    """Raise MalformedCheckpoint where records overlap or leave the file."""
    end = 0
    for record in sorted(records.values(), key=lambda record: record.offset):
        if record.offset < end or record.offset + record.size > file.size:
            raise MalformedCheckpoint(f"{quoted(file.path)}: the record {quoted(record.name)} overlaps another")
        end = record.offset + record.size


def _check_contents(file: Readable, records: Mapping[str, Record]) -> None:
    """Raise unless it is an archive of torch.save, in little-endian order."""
    subject = quoted(file.path)
    for name in ("data.pkl", "version"):
        if name not in records:
            raise MalformedCheckpoint(f"{subject}: has no record {quoted(name)}, so torch.save didn't write it")
    order = records.get("byteorder")
    if order is None:
        return
    found = bytes(file.read(order.offset, min(order.size, 16)))
    if found == b"big":
        raise UnsupportedCheckpoint(f"{subject}: was written on a big-endian machine; save it again on this one")
    if found != b"little":
        raise MalformedCheckpoint(f"{subject}: its byte order is neither little nor big")
