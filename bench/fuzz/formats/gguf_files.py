"""GGUF files: counts, values of every type, tensors' names, dimensions, types and offsets, and the data."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from random import Random
from typing import Any

from bench.fuzz.mutation import NUMBERS, TEXTS, change_bytes, change_number, change_text, several

__all__ = ["change_gguf"]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_KEYS = (
    *("general.alignment", "general.architecture", "general.file_type", "split.count", "split.no", "llama.block_count"),
    *(
        "llama.rope.scaling.type",
        "llama.rope.scaling.factor",
        "llama.rope.scale_linear",
        "llama.attention.sliding_window",
    ),
    *("llama.expert_count", "llama.expert_used_count", "llama.attention.head_count_kv", "llama.logit_scale"),
    *("llama.attention.key_length", "llama.final_logit_softcapping", "llama.vocab_size", "llama.rope.dimension_count"),
    *("tokenizer.ggml.tokens", "tokenizer.ggml.model", "llama.use_parallel_residual", "adapter.type"),
)
_ARCHITECTURES = ("llama", "qwen2", "gemma3", "gpt2", "mamba", "clip", "phi3", "", "x")


@dataclass
class _Text:
    raw: bytes
    length: int | None = None


@dataclass
class _List:
    kind: int
    items: list[Any]
    length: int | None = None


@dataclass
class _Tensor:
    name: _Text
    shape: list[int]
    kind: int
    offset: int
    rank: int | None = None


@dataclass
class _Model:
    values: list[tuple[_Text, int, Any]]
    tensors: list[_Tensor]
    data: bytes
    version: int = 3
    magic: bytes = b"GGUF"
    counts: dict[str, int] = field(default_factory=dict)


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def number(self, code: str) -> Any:
        (found,) = struct.unpack_from(f"<{code}", self.raw, self.at)
        self.at += struct.calcsize(f"<{code}")
        return found

    def text(self) -> _Text:
        length = self.number("Q")
        self.at += length
        return _Text(self.raw[self.at - length : self.at])

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            item, length = self.number("I"), self.number("Q")
            return _List(item, [self.value(item) for _ in range(length)])
        return self.number(_SCALARS[kind])


def _parsed(raw: bytes) -> _Model:
    reader = _Reader(raw)
    reader.at = 4
    version, tensors, values = reader.number("I"), reader.number("Q"), reader.number("Q")
    model = _Model([], [], b"", version)
    for _ in range(values):
        key, kind = reader.text(), reader.number("I")
        model.values.append((key, kind, reader.value(kind)))
    for _ in range(tensors):
        name, rank = reader.text(), reader.number("I")
        shape = [reader.number("Q") for _ in range(rank)]
        model.tensors.append(_Tensor(name, shape, reader.number("I"), reader.number("Q")))
    model.data = raw[-(-reader.at // 32) * 32 :]
    return model


def change_gguf(draw: Random, raw: bytes) -> bytes:
    """A file with some changes of its header or its data."""
    if draw.random() < 0.1:
        return change_bytes(draw, raw)
    model = _parsed(raw)

    def change() -> None:
        pick = draw.random()
        if pick < 0.5:
            _change_value(draw, model)
        elif pick < 0.8:
            _change_tensor(draw, model)
        elif pick < 0.9:
            model.data = change_bytes(draw, model.data)
        else:
            _change_counts(draw, model)

    several(draw, change)
    return _written(model)


def _change_value(draw: Random, model: _Model) -> None:
    if not model.values:
        return
    at = draw.randrange(len(model.values))
    key, kind, value = model.values[at]
    match draw.randrange(6):
        case 0:
            del model.values[at]
            return
        case 1:
            model.values.insert(draw.randrange(len(model.values) + 1), model.values[at])
            return
        case 2:
            text = draw.choice((*_KEYS, change_text(draw, key.raw.decode("utf-8", "replace"))))
            key = _text(draw, text)
        case 3:
            kind, value = draw.choice((*_SCALARS, _STRING, _ARRAY, 13, 255)), draw.choice(NUMBERS)
            value = _text(draw, draw.choice(TEXTS)) if kind == _STRING else value
            value = _List(draw.choice((*_SCALARS, 13)), [0] * draw.choice((0, 1, 5000))) if kind == _ARRAY else value
        case _:
            value = _other(draw, value)
    model.values[at] = key, kind, value


def _other(draw: Random, value: Any) -> Any:
    if isinstance(value, _Text):
        return _text(draw, draw.choice((change_text(draw, value.raw.decode("utf-8", "replace")), *_ARCHITECTURES)))
    if isinstance(value, _List):
        length = draw.choice((None, draw.choice(NUMBERS), len(value.items) + 1))
        items = draw.choice((value.items, value.items[1:], value.items * 2, value.items[::-1], []))
        return _List(draw.choice((value.kind, value.kind, draw.choice((*_SCALARS, 8, 9, 13)))), items, length)
    return change_number(draw, value)


def _text(draw: Random, text: str) -> _Text:
    raw = text.encode("utf-8", "surrogatepass")
    return _Text(raw, draw.choice((*NUMBERS, len(raw) + 1)) if draw.random() < 0.1 else None)


def _change_tensor(draw: Random, model: _Model) -> None:
    if not model.tensors:
        return
    at = draw.randrange(len(model.tensors))
    tensor, other = model.tensors[at], draw.choice(model.tensors)
    match draw.randrange(8):
        case 0:
            del model.tensors[at]
        case 1:
            model.tensors.insert(at, draw.choice(model.tensors))
        case 2:
            tensor.name = draw.choice(
                (other.name, _text(draw, change_text(draw, tensor.name.raw.decode("utf-8", "replace"))))
            )
        case 3:
            place = draw.randrange(len(tensor.shape) or 1)
            tensor.shape = [
                *tensor.shape[:place],
                change_number(draw, (tensor.shape or [1])[0]),
                *tensor.shape[place + 1 :],
            ]
        case 4:
            tensor.shape = draw.choice(
                (tensor.shape[::-1], [], [*tensor.shape, 1], tensor.shape * 4, [0], [2**32, 2**32])
            )
        case 5:
            tensor.kind = draw.choice((*range(42), 255, 2**31))
        case 6:
            tensor.offset = draw.choice((other.offset, change_number(draw, tensor.offset), tensor.offset + 1))
        case _:
            tensor.rank = draw.choice((0, 5, 2**31, 3))


def _change_counts(draw: Random, model: _Model) -> None:
    match draw.randrange(4):
        case 0:
            model.counts["tensors"] = draw.choice((*NUMBERS, len(model.tensors) - 1, len(model.tensors) + 1))
        case 1:
            model.counts["values"] = draw.choice((*NUMBERS, len(model.values) - 1, len(model.values) + 1))
        case 2:
            model.version = draw.choice((0, 1, 2, 4, 3 << 24, 2**32 - 1))
        case _:
            model.magic = draw.choice((b"FUGG", b"GGML", b"", b"GGUF" * 2))


def _written(model: _Model) -> bytes:
    raw = bytearray(model.magic + _scalar("I", model.version))
    raw += _scalar("Q", model.counts.get("tensors", len(model.tensors)))
    raw += _scalar("Q", model.counts.get("values", len(model.values)))
    for key, kind, value in model.values:
        raw += _value(_STRING, key) + _scalar("I", kind) + _value(kind, value)
    for tensor in model.tensors:
        raw += _value(_STRING, tensor.name) + _scalar("I", len(tensor.shape) if tensor.rank is None else tensor.rank)
        raw += (
            b"".join(_scalar("Q", size) for size in tensor.shape)
            + _scalar("I", tensor.kind)
            + _scalar("Q", tensor.offset)
        )
    return bytes(raw + bytes(-len(raw) % 32) + model.data)


def _value(kind: int, value: Any) -> bytes:
    """A value as the type that is told has it, and by its own where that can't be."""
    if isinstance(value, _Text):
        return _scalar("Q", len(value.raw) if value.length is None else value.length) + value.raw
    if isinstance(value, _List):
        items = b"".join(_value(value.kind, item) for item in value.items)
        return (
            _scalar("I", value.kind) + _scalar("Q", len(value.items) if value.length is None else value.length) + items
        )
    return _scalar(_SCALARS.get(kind, "I"), value)


def _scalar(code: str, value: Any) -> bytes:
    """`struct.pack`, a number cut to its field."""
    if code in "fd":
        try:
            return struct.pack(f"<{code}", value)
        except OverflowError:
            return struct.pack(f"<{code}", float("inf"))
    width = struct.calcsize(code)
    try:
        return (int(value) % 2 ** (8 * width)).to_bytes(width, "little")
    except (OverflowError, ValueError):  # NaN, infinity
        return b"\xff" * width
