"""A GGUF header, byte by byte: what no library would write."""

from __future__ import annotations

import struct


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def value(key: bytes, kind: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


ARCHITECTURE = value(b"general.architecture", 8, text(b"llama"))


def tensor(name: bytes = b"a", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def header(*values: bytes, tensors: tuple[bytes, ...] = (), counts: tuple[int, int] | None = None) -> bytes:
    raw = struct.pack("<4sIQQ", b"GGUF", 3, *(counts or (len(tensors), len(values))))
    raw += b"".join(values) + b"".join(tensors)
    return raw + bytes(-len(raw) % 32)


def array(item: int, length: int, data: bytes = b"") -> bytes:
    return value(b"x", 9, struct.pack("<IQ", item, length) + data)


def aligned(number: int, kind: int = 4) -> bytes:
    return value(b"general.alignment", kind, struct.pack("<I", number))
