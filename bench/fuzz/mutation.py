"""Changes of what all formats are made of: trees of values, texts, numbers and bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

__all__ = ["NUMBERS", "TEXTS", "change_bytes", "change_json", "change_number", "change_tree", "json_of", "several"]

NUMBERS = (
    *(0, 1, -1, 2, 3, 5, 7, 16, 31, 32, 64, 127, 128, 255, 256, 1000, 4096, 65_535, 65_536, 1_000_000, 300_000_000),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**61 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64),
    *(-2, -(2**31), -(2**63), 10**30),
)
FLOATS = (0.0, -0.0, 0.5, 1.5, -1.0, 1e-320, 1e-45, 1e38, 1e39, 1e308, -1e308, math.nan, math.inf, -math.inf)
TEXTS = (
    *(
        "",
        " ",
        "\0",
        "\x1b[31mred",
        "\n::error::told",
        "\r",
        "\x85",
        "\u2028",
        "\u202e",
        "\ud800",
        "é",
        "=1+1",
        "@SUM(A1)",
    ),
    *("<img src=x>", "a|b", "`x`", "%s%n{0}{x}{{y}}", "../outside/model.safetensors", "../outside", "/etc/hostname"),
    *("outside", ".", "..", "model.safetensors", "C:\\x", "a" * 5000, "layers.0.", "model.layers.999999999.x", "null"),
    *("true", "nan", "1e999", "0", "-1", "auto", "float16", "linear", "yarn", "dynamic", "sliding_attention"),
)
KEYS = ("__metadata__", "model", "text_config", "auto_map", "quantization_config", "num_labels", "id2label", "x")
DAMAGES: Sequence[Callable[[Random, str], str]] = (
    lambda draw, text: text[: draw.randrange(len(text) + 1)],
    lambda _, text: "\ufeff" + text,
    lambda draw, text: text.replace(":", ":" + "[" * draw.choice((3, 900, 50_000)), 1),
    lambda _, text: text.replace(":", ":" + "9" * 5000 + ",", 1),
    lambda draw, text: text.replace(
        ":", f":{draw.choice(('NaN', 'Infinity', '-Infinity', '1e999', '01', '0x1', '+1'))},", 1
    ),
    lambda draw, text: text + draw.choice(("\0", "{}", " ", ",", "]", "}", "\n" * 1000)),
    lambda draw, text: draw.choice((" ", "\n", "\t", "\0", "//\n", "'")) + text,
    lambda _, text: text.replace('"', "'"),
    lambda _, text: text.replace('"', '"\t', 1),
    lambda draw, text: _twice(draw, text),
    lambda draw, text: draw.choice(("", "null", "[]", "{}", "0", '""', "[[]]", "{", '{"a":', "[1]")),
)


def several(draw: Random, change: Callable[[], object]) -> None:
    """A change once as a rule, sometimes a few times."""
    for _ in range(draw.choice((1, 1, 1, 2, 2, 4))):
        change()


def change_number(draw: Random, number: float) -> Any:
    """Another number, mostly near it or at an end of some type."""
    near = (number + 1, number - 1, number * 2, -number, number + draw.choice((8, 32, 1000)), float(number))
    whole = (int(number) // 2, int(number) ^ 1 << draw.randrange(64)) if math.isfinite(number) else (0,)
    return draw.choice((draw.choice(near), draw.choice(whole), draw.choice(NUMBERS), draw.choice(FLOATS)))


def change_text(draw: Random, text: str) -> str:
    """Another text."""
    at = draw.randrange(len(text) + 1)
    return draw.choice(
        (draw.choice(TEXTS), text[:at] + draw.choice(TEXTS) + text[at:], text[at:], text.swapcase(), text * 2)
    )


def change_tree(draw: Random, tree: Any) -> Any:
    """One change of a tree of dicts, lists and values: of a value, a type, a key or an item; near the root oftener."""
    root = [tree]
    found = _places(root)
    holder, key = found[int(len(found) * draw.random() ** draw.choice((1, 2, 4)))]
    if draw.random() < 0.6:
        holder[key] = _changed(draw, holder[key], found)
    elif isinstance(holder, dict):
        _change_keys(draw, holder, key, found)
    elif holder is not root:
        _change_items(draw, holder, key)
    return root[0]


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    """Where every value stands: what holds it and under which key, the nearest to the root first."""
    found: list[tuple[Any, Any]] = []
    level: list[Any] = [root]
    while level:
        below: list[Any] = []
        for holder in level:
            for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
                found.append((holder, key))
                if isinstance(value, dict | list):
                    below.append(value)
        level = below
    return found


def _changed(draw: Random, value: Any, found: Sequence[tuple[Any, Any]]) -> Any:
    if draw.random() < 0.6:
        if isinstance(value, bool):
            return not value
        if isinstance(value, int | float):
            return change_number(draw, value)
        if isinstance(value, str):
            return change_text(draw, value)
        if isinstance(value, list) and value:
            return draw.choice(
                (value[::-1], value * draw.choice((2, 500)), value[:1], value[1:], sorted(value, key=str))
            )
    holder, key = draw.choice(found)
    other = json.loads(json.dumps(holder[key]))  # a copy: a tree that holds itself has no text
    return draw.choice(
        (
            other,
            None,
            draw.random() < 0.5,
            draw.choice(NUMBERS),
            draw.choice(FLOATS),
            draw.choice(TEXTS),
            [],
            {},
            [value],
            {"a": value},
            [[]] * draw.choice((1, 2000)),
            {str(n): n for n in range(draw.choice((1, 3000)))},
            [None],
            str(value),
        )
    )


def _change_keys(draw: Random, holder: dict[Any, Any], key: Any, found: Sequence[tuple[Any, Any]]) -> None:
    value = holder[key]
    match draw.randrange(4):
        case 0:
            del holder[key]
        case 1:
            del holder[key]
            holder[change_text(draw, str(key))] = value
        case 2:
            holder[draw.choice((*KEYS, *TEXTS))] = value
        case _:
            names = [name for place, name in found if isinstance(place, dict)]
            holder[draw.choice(names)] = value


def _change_items(draw: Random, holder: list[Any], at: int) -> None:
    value = holder[at]
    match draw.randrange(3):
        case 0:
            del holder[at]
        case 1:
            holder.insert(draw.randrange(len(holder) + 1), value)
        case _:
            other = draw.randrange(len(holder))
            holder[at], holder[other] = holder[other], value


def json_of(draw: Random, tree: Any) -> bytes:
    """A tree's JSON, and now and then no JSON any more."""
    text = json.dumps(tree, ensure_ascii=draw.random() < 0.9, separators=draw.choice(((",", ":"), (", ", ": "))))
    if draw.random() < 0.1:
        text = draw.choice(DAMAGES)(draw, text)
    raw = text.encode("utf-8", "surrogatepass")
    return change_bytes(draw, raw) if draw.random() < 0.03 else raw


def change_json(draw: Random, raw: bytes) -> bytes:
    """A JSON file with changes of its tree, or of its text."""
    tree = json.loads(raw)

    def change() -> None:
        nonlocal tree
        tree = change_tree(draw, tree)

    several(draw, change)
    return json_of(draw, tree)


def _twice(draw: Random, text: str) -> str:
    """A key and its value once more."""
    begins = [at for at in range(len(text)) if text.startswith('"', at)]
    ends = [at for at in range(len(text)) if text.startswith(",", at)]
    if not begins or not ends:
        return text
    begin = draw.choice(begins)
    end = next((at for at in ends if at > begin), ends[-1])
    return text[: end + 1] + text[begin : end + 1] + text[end + 1 :]


def change_bytes(draw: Random, raw: bytes) -> bytes:
    """One change of bytes that knows nothing of what they are."""
    at = draw.randrange(len(raw) + 1)
    size = draw.choice((1, 1, 2, 4, 8, 100, 4000))
    number = draw.choice(NUMBERS) % 2 ** (8 * min(size, 8))
    match draw.randrange(8):
        case 0:
            bits = bytearray(raw)
            for _ in range(draw.choice((1, 1, 8))):
                if bits:
                    bits[draw.randrange(len(bits))] ^= 1 << draw.randrange(8)
            return bytes(bits)
        case 1:
            return raw[:at]
        case 2:
            return raw[:at] + raw[at + size :]
        case 3:
            return raw[:at] + draw.randbytes(size) + raw[at:]
        case 4:
            return raw[:at] + bytes(size) + raw[at + size :]
        case 5:
            return raw[:at] + raw[at : at + size] * draw.choice((2, 50)) + raw[at + size :]
        case 6:
            return raw[:at] + number.to_bytes(min(size, 8), "little") + raw[at + min(size, 8) :]
        case _:
            begin = draw.randrange(len(raw) + 1)
            return raw[:at] + raw[begin : begin + size] + raw[at + size :]
