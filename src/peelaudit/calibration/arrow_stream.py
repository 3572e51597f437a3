"""What an Arrow stream says of its own sizes, checked before the library that believes it reads it.

A stream is a row of messages, each of them 0xFFFFFFFF, the length of what describes it (int32), that description, a
flatbuffer, and its body. The file format is the same between 8 bytes of its own and a footer.
https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
"""

from __future__ import annotations

import struct
from typing import BinaryIO

__all__ = ["check_messages"]

_FILE_MAGIC = b"ARROW1\0\0"
_CONTINUATION = 0xFFFFFFFF
_MOST_DESCRIBED = 1 << 24
_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
"""Fields of a Message."""
_COMPRESSION = 3
"""Field of a RecordBatch."""
_DATA = 1
"""Field of a DictionaryBatch: its RecordBatch."""


def check_messages(file: BinaryIO, size: int) -> int:
    """Where the stream begins in a file of `size` bytes, 8 in the file format and else 0.

    Raises:
        ValueError: a message is longer than the file, damaged, or compressed: how far that expands can't be told.
    """
    begin = len(_FILE_MAGIC) if file.read(len(_FILE_MAGIC)) == _FILE_MAGIC else 0
    position = begin
    while position < size:
        file.seek(position)
        described = _described(file.read(8))
        if described == 0:
            break
        if described > _MOST_DESCRIBED or position + 8 + described > size:
            raise ValueError(f"the message at byte {position} is truncated, or no message")
        try:
            body, compressed = _message(file.read(described))
        except struct.error as error:
            raise ValueError(f"the message at byte {position} is damaged") from error
        if compressed:
            raise ValueError("its buffers are compressed; save it as .parquet instead")
        position += 8 + described + body
        if body < 0 or position > size:
            raise ValueError(f"a message promises {body} bytes, and the file ends before: it is truncated")
    return begin


def _described(prefix: bytes) -> int:
    """The length of a message's description; 0 where the stream ends."""
    if len(prefix) < 8:
        return 0
    continuation, length = struct.unpack("<Ii", prefix)
    if continuation != _CONTINUATION or length < 0:
        raise ValueError("it is no Arrow stream")
    return int(length)


def _message(raw: bytes) -> tuple[int, bool]:
    """The length of a message's body, and whether its buffers are compressed."""
    message = _follow(raw, 0)
    body = _field(raw, message, _BODY_LENGTH)
    header, kind = _field(raw, message, _HEADER), _field(raw, message, _HEADER_TYPE)
    length = 0 if body is None else struct.unpack_from("<q", raw, body)[0]
    if header is None or kind is None or raw[kind] not in (_RECORD_BATCH, _DICTIONARY_BATCH):
        return length, False
    batch = _follow(raw, header)
    if raw[kind] == _DICTIONARY_BATCH:
        data = _field(raw, batch, _DATA)
        if data is None:
            return length, False
        batch = _follow(raw, data)
    return length, _field(raw, batch, _COMPRESSION) is not None


def _follow(raw: bytes, at: int) -> int:
    """Where the table is that the offset at a place leads to."""
    return at + int(struct.unpack_from("<I", raw, at)[0])


def _field(raw: bytes, table: int, index: int) -> int | None:
    """Where a table's field is; None if it hasn't got it."""
    vtable = table - struct.unpack_from("<i", raw, table)[0]
    if vtable < 0:
        raise struct.error("a table's description lies before its beginning")
    entry = 4 + 2 * index
    if entry >= struct.unpack_from("<H", raw, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", raw, vtable + entry)[0]
    if table + offset >= len(raw):
        raise struct.error("a field lies behind the end")
    return table + offset if offset else None
