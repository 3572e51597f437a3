"""Safetensors files: the header's length, its tree, and the bytes behind it."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from bench.fuzz.mutation import NUMBERS, TEXTS, change_bytes, change_number, change_tree, json_of, several

__all__ = ["change_safetensors"]

_DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "I64",
    "I32",
    "I8",
    "U8",
    "BOOL",
    "F4",
    "C64",
    "F31",
    "f32",
    "",
)
_NONE = (b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\0\x7f\0\x7f")


def change_safetensors(draw: Random, raw: bytes) -> bytes:
    """A file with some changes of its header or its data."""
    if draw.random() < 0.1:
        return change_bytes(draw, raw)
    length = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]

    def change() -> None:
        nonlocal header, data
        if draw.random() < 0.15:
            data = _other_data(draw, data)
        elif draw.random() < 0.4 or not isinstance(header, dict):
            header = change_tree(draw, header)
        else:
            _change_entry(draw, header, len(data))

    several(draw, change)
    text = json_of(draw, header)
    if draw.random() < 0.1:
        text += b" " * draw.choice((1, 7, 8, 5000))
    told = draw.choice((*NUMBERS, len(text) - 1, len(text) + 1, (100 << 20) + 1)) if draw.random() < 0.08 else len(text)
    return struct.pack("<Q", told % 2**64) + text + data


def _other_data(draw: Random, data: bytes) -> bytes:
    at = draw.randrange(len(data) // 4 + 1) * 4
    return draw.choice(
        (change_bytes(draw, data), data[:at] + draw.choice(_NONE) + data[at + 4 :], data + bytes(4), data[:-4])
    )


def _change_entry(draw: Random, header: dict[str, Any], size: int) -> None:
    """A tensor's name, dtype, shape or place."""
    names = [name for name, entry in header.items() if _is_sound(entry)]
    if not names:
        return
    name, other = draw.choice(names), draw.choice(names)
    entry = dict(header[name])
    shape, (begin, end) = entry["shape"] or [1], entry["data_offsets"]
    match draw.randrange(8):
        case 0:
            entry["dtype"] = draw.choice(_DTYPES)
        case 1:
            at = draw.randrange(len(shape))
            entry["shape"] = [*shape[:at], change_number(draw, shape[at]), *shape[at + 1 :]]
        case 2:
            entry["shape"] = draw.choice(
                (shape[::-1], [*shape, 1], [1, *shape], shape[1:], [], [0], [0, 2**62], shape * 40)
            )
        case 3:
            entry["data_offsets"] = [change_number(draw, begin), end]
        case 4:
            entry["data_offsets"] = draw.choice(
                ([begin, change_number(draw, end)], [end, begin], [begin], [begin, end, end])
            )
        case 5:
            entry["data_offsets"] = header[other]["data_offsets"]
        case 6:
            del header[name]
            name = draw.choice(
                (draw.choice(TEXTS), name + ".x", "model." + name, name.removeprefix("model."), name.upper())
            )
        case _:
            header[f"{name}{draw.choice(('.y', '_scale', '_scale_inv', '.lora_A', '2'))}"] = {
                **entry,
                "data_offsets": [size, size],
            }
    header[name] = entry


def _is_sound(entry: Any) -> bool:
    """Whether it can still be changed as a tensor's."""
    found = (
        isinstance(entry, dict) and isinstance(entry.get("shape"), list) and isinstance(entry.get("data_offsets"), list)
    )
    return (
        found
        and len(entry["data_offsets"]) == 2
        and all(type(one) is int for one in (*entry["shape"], *entry["data_offsets"]))
    )
