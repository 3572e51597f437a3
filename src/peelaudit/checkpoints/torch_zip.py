"""The directory of the zip archive that `torch.save` writes, checked before torch opens it.

torch stores every record uncompressed and ends the file with the directory's end record. Anything else (a deflated
bomb, appended bytes, records that overlap or appear twice) isn't what torch writes and is refused. Checksums are
compared when a record is first read: torch itself never looks at them.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from peelaudit.checkpoints.files import OpenFile, quoted
from peelaudit.checkpoints.store import MAX_TENSORS
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint

__all__ = ["Record", "read_directory", "verify"]

_END = struct.Struct("<4s4H2LH")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_DIRECTORY = 64 << 20
_CRC_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the archive: `offset` is that of its bytes in the file. A `crc` of 0 was never computed."""

    name: str
    offset: int
    size: int
    crc: int


def read_directory(file: OpenFile) -> Mapping[str, Record]:
    """The archive's records by name, without the archive's own folder in front.

    Raises:
        MalformedCheckpoint: the archive is truncated, appended to, or not as torch writes it.
        UnsupportedCheckpoint: it is a TorchScript program, or of the other byte order.
    """
    subject = quoted(file.path)
    _check_end(file)
    try:
        with file.path.open("rb") as handle, zipfile.ZipFile(handle) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, UnicodeError):
        raise MalformedCheckpoint(f"{subject}: the directory of its zip archive is damaged") from None
    roots = {entry.filename.partition("/")[0] for entry in entries}
    if len(roots) != 1:
        raise MalformedCheckpoint(f"{subject}: isn't an archive that torch.save wrote")
    if f"{roots.pop()}/constants.pkl" in {entry.filename for entry in entries}:
        raise UnsupportedCheckpoint(f"{subject}: is a TorchScript program; save the model's state_dict instead")
    records: dict[str, Record] = {}
    for entry in entries:
        record = _record(file, entry)
        if record.name in records:
            raise MalformedCheckpoint(f"{subject}: has the record {quoted(record.name)} twice")
        records[record.name] = record
    _check_ranges(file, records)
    _check_contents(file, records)
    return records


def verify(file: OpenFile, record: Record) -> None:
    """Raise MalformedCheckpoint unless the record's bytes have its checksum."""
    if not record.crc:
        return
    crc = 0
    for done in range(0, record.size, _CRC_CHUNK):
        crc = zlib.crc32(file.read(record.offset + done, min(_CRC_CHUNK, record.size - done)), crc)
    if crc != record.crc:
        raise MalformedCheckpoint(f"{quoted(file.path)}: the record {quoted(record.name)} doesn't have its checksum")


def _check_end(file: OpenFile) -> None:
    """The end record is the file's last 22 bytes, and the directory that it names is of a sane size."""
    subject = quoted(file.path)
    if file.size < _END.size:
        raise MalformedCheckpoint(f"{subject}: is truncated")
    signature, *_, entries, size, _offset, comment = _END.unpack(file.read(file.size - _END.size, _END.size))
    if signature != b"PK\5\6" or comment:
        raise MalformedCheckpoint(f"{subject}: is truncated, or something was appended to it")
    large = size == 0xFFFFFFFF or entries == 0xFFFF
    if not large and (entries > MAX_TENSORS or size > _MAX_DIRECTORY):
        raise MalformedCheckpoint(f"{subject}: its zip directory is larger than any model needs")
    if large and file.size >= 98:
        wide = bytes(file.read(file.size - 98, 56))
        entries, size = struct.unpack_from("<QQ", wide, 32)
        if wide[:4] != b"PK\6\6" or entries > MAX_TENSORS or size > _MAX_DIRECTORY:
            raise MalformedCheckpoint(f"{subject}: its zip directory is damaged, or larger than any model needs")


def _record(file: OpenFile, entry: zipfile.ZipInfo) -> Record:
    """One entry of the directory, compared with the local header in front of its bytes."""
    where = f"{quoted(file.path)}: the record {quoted(entry.filename)}"
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
        raise MalformedCheckpoint(f"{where} is compressed or encrypted, which torch.save never does")
    if not 0 <= entry.header_offset <= file.size - _LOCAL.size:
        raise MalformedCheckpoint(f"{where} lies outside the file")
    signature, _, _, method, *_, name, extra = _LOCAL.unpack(file.read(entry.header_offset, _LOCAL.size))
    if signature != b"PK\3\4" or method != zipfile.ZIP_STORED:
        raise MalformedCheckpoint(f"{where} doesn't begin where the directory says")
    begin = entry.header_offset + _LOCAL.size + name + extra
    return Record(entry.filename.partition("/")[2], begin, entry.file_size, entry.CRC)


def _check_ranges(file: OpenFile, records: Mapping[str, Record]) -> None:
    """Raise MalformedCheckpoint where records overlap or leave the file."""
    end = 0
    for record in sorted(records.values(), key=lambda record: record.offset):
        if record.offset < end or record.offset + record.size > file.size:
            raise MalformedCheckpoint(f"{quoted(file.path)}: the record {quoted(record.name)} overlaps another")
        end = record.offset + record.size


def _check_contents(file: OpenFile, records: Mapping[str, Record]) -> None:
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
