"""A pickle's instructions, one of them changed: what it names, its memo, its numbers, its order."""

from __future__ import annotations

import pickletools
from random import Random

from bench.fuzz.mutation import NUMBERS, TEXTS, change_bytes, change_number, change_text

__all__ = ["change_pickle"]

_NAMES = (
    *("os system", "builtins eval", "builtins bytearray", "__builtin__ bytearray", "builtins getattr", "torch load"),
    *("torch FloatStorage", "torch LongStorage", "torch BoolStorage", "torch ComplexDoubleStorage", "torch Size"),
    *("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
    *(
        "torch._utils _rebuild_parameter",
        "torch._tensor _rebuild_from_type_v2",
        "torch float8_e4m3fn",
        "torch.nn Linear",
    ),
    *(
        "collections OrderedDict",
        "collections defaultdict",
        "numpy dtype",
        "argparse Namespace",
        "x" * 2000 + " y",
        " ",
    ),
)
_PIECES = (
    *(b"0", b"(", b"R", b"b", b"s", b"u", b"a", b"e", b"2", b"t", b"\x85", b"\x86", b"\x87", b"\x81", b"\x92", b"\x93"),
    *(b"]", b"}", b")", b"Q", b"N", b".", b"1", b"d", b"l", b"o", b"\x8f", b"\x90", b"\x91", b"\x94", b"h\0", b"h\xff"),
    *(
        b"q\0",
        b"q\xff",
        b"r\xff\xff\xff\x7f",
        b"j\xff\xff\xff\x7f",
        b"ios\nsystem\n",
        b"Pabc\n",
        b"\x80\x05",
        b"\x95" + b"\xff" * 8,
    ),
    *(
        b"\x8d" + b"\xff" * 8,
        b"B\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\x7f",
        b"I9999999999999999999\n",
        b"Fnan\n",
        b"Vx\n",
        b"G" + b"\xff" * 8,
    ),
    *(
        b"\x82\x01",
        b"]q\x00h\x00a",
        b"}q\x00Nh\x00s",
        b"N" * 3000,
        b"(" * 3000,
        b"]" + b"\x85" * 3000,
        b"S'\\xff'\n",
        b"L1L\n",
    ),
)


def change_pickle(draw: Random, raw: bytes) -> bytes:
    """A pickle with one instruction changed; where it isn't sound any more, its bytes."""
    try:
        starts = [(position, code.name, argument) for code, argument, position in pickletools.genops(raw)]
    except Exception:
        return change_bytes(draw, raw)
    ends = [position for position, _, _ in starts[1:]] + [len(raw)]
    at = draw.randrange(len(starts))
    (begin, name, argument), end = starts[at], ends[at]
    before, own, behind = raw[:begin], raw[begin:end], raw[end:]
    match draw.randrange(8):
        case 0:
            return before + behind
        case 1:
            return before + own * draw.choice((2, 300)) + behind
        case 2:
            return before + draw.choice(_PIECES) + own + behind
        case 3:
            other = draw.randrange(len(starts))
            return before + raw[starts[other][0] : ends[other]] + behind
        case _:
            return before + _with_other_argument(draw, name, argument, own) + behind


def _with_other_argument(draw: Random, name: str, argument: object, own: bytes) -> bytes:
    if name == "GLOBAL":
        module, _, thing = draw.choice(_NAMES).partition(" ")
        return f"c{module}\n{thing}\n".encode()
    if name in ("BINGET", "BINPUT"):
        return own[:1] + bytes([draw.randrange(256)])
    if isinstance(argument, bool) or argument is None:
        return draw.choice(_PIECES)
    if isinstance(argument, int) and name.startswith(("BININT", "LONG", "INT")):
        number = change_number(draw, argument)
        return _number(number) if isinstance(number, int) else f"F{number!r}\n".encode()
    if isinstance(argument, str) and "UNICODE" in name:
        text = draw.choice((change_text(draw, argument), draw.choice(TEXTS))).encode("utf-8", "surrogatepass")
        return b"X" + len(text).to_bytes(4, "little") + text
    return draw.choice((_number(draw.choice(NUMBERS)), draw.choice(_PIECES)))


def _number(number: int) -> bytes:
    raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw if len(raw) < 256 else b"I0\n"
