"""A pickle machine that builds nothing but plain containers, tensors without bytes and placeholders.

Python's own unpickler imports and calls what a pickle names, hashes whatever it has for keys, and makes room for as
many memo entries as an instruction asks for. Here the instructions are read one after the other (`pickletools` only
lists them) and carried out on a stack of our own: work and memory are in proportion to the file, and nothing in it is
run.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.inert import Inert, Key, Named, make, storage_of
from peelaudit.errors import MalformedCheckpoint

__all__ = ["MAX_PICKLE", "unpickle"]

MAX_PICKLE = 64 << 20
"""Bytes; what is beside a model's tensors takes a few MB."""
_MAX_INSTRUCTIONS = 3_000_000
_LONGEST_NAME = 1000

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: Mapping[str, Callable[[], object]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Inert("builtins.set"),
}
_LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"}
    | {"SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"}
    | {"BINBYTES8", "BYTEARRAY8"}
)


def unpickle(data: bytes, subject: str) -> object:
    """What the pickle describes: dicts (with `Key` for what isn't text), lists, tuples, text, bytes and numbers,
    `StoredTensor`, and `Inert` or `Named` for all else.

    Args:
        data: the pickle, of any protocol.
        subject: the file, which begins the messages.

    Raises:
        MalformedCheckpoint: it isn't a sound pickle, or is too long.
    """
    if len(data) > MAX_PICKLE:
        raise MalformedCheckpoint(f"{subject}: {len(data)} bytes of pickle are too many for a model")
    machine = _Machine(subject)
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            if count > _MAX_INSTRUCTIONS:
                raise MalformedCheckpoint(f"{subject}: its pickle is longer than any model's")
            machine.carry_out(instruction.name, argument)
        return machine.result()
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeError, AttributeError, TypeError):
        raise MalformedCheckpoint(f"{subject}: its pickle is damaged") from None


class _Machine:
    """The stack, what stands below its marks, and the memo of one pickle."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._stack: list[object] = []
        self._below: list[list[object]] = []
        self._memo: list[object] = []

    def carry_out(self, name: str, argument: object) -> None:
        """One instruction.

        Raises:
            MalformedCheckpoint: it is none that a checkpoint has.
            ValueError, IndexError, TypeError: it doesn't fit what stands on the stack.
        """
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise MalformedCheckpoint(
                f"{self._subject}: its pickle has the instruction {name}, which no checkpoint has"
            )

    def result(self) -> object:
        """What is left on the stack."""
        return self._stack[-1]

    def _nothing(self, _: object) -> None:
        pass

    def _mark(self, _: object) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[object]:
        """What stands above the last mark, taken away with it."""
        found, self._stack = self._stack, self._below.pop()
        return found

    def _pop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def _pop_mark(self, _: object) -> None:
        self._marked()

    def _dup(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _tuple(self, count: int) -> None:
        found = tuple(self._stack[len(self._stack) - count :])
        if len(found) != count:
            raise IndexError
        del self._stack[len(self._stack) - count :]
        self._stack.append(found)

    def _marked_tuple(self, _: object) -> None:
        found = tuple(self._marked())
        self._stack.append(found)

    def _marked_list(self, _: object) -> None:
        found = self._marked()
        self._stack.append(found)

    def _marked_set(self, _: object) -> None:
        found = self._marked()
        self._stack.append(Inert("builtins.frozenset", (found,)))

    def _marked_dict(self, _: object) -> None:
        found = self._marked()
        self._stack.append({})
        self._set(found)

    def _append(self, _: object) -> None:
        value = self._stack.pop()
        self._extend([value])

    def _extend_marked(self, _: object) -> None:
        self._extend(self._marked())

    def _extend(self, values: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, Inert):
            target.add(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise TypeError

    def _set_one(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _set_marked(self, _: object) -> None:
        self._set(self._marked())

    def _set(self, values: list[object]) -> None:
        """Put keys and values, by turns, into what is on top."""
        target = self._stack[-1]
        if isinstance(target, Inert):
            target.add(values)
            return
        if not isinstance(target, dict):
            raise TypeError
        for given, value in zip(values[::2], values[1::2], strict=True):
            key = given if isinstance(given, str) else Key(given)
            if key in target:
                raise MalformedCheckpoint(f"{self._subject}: its pickle has the key {quoted(key)} twice")
            target[key] = value

    def _global(self, argument: object) -> None:
        module, _, name = str(argument).partition(" ")
        self._name(module, name)

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        if len(module) + len(name) > _LONGEST_NAME:
            raise ValueError
        self._stack.append(Named(f"{module}.{name}"))

    def _inst(self, argument: object) -> None:
        args = tuple(self._marked())
        self._global(argument)
        self._call(args)

    def _obj(self, _: object) -> None:
        found = self._marked()
        self._stack.append(found[0])
        self._call(tuple(found[1:]))

    def _reduce(self, _: object) -> None:
        self._call(self._stack.pop())

    def _new_with_names(self, _: object) -> None:
        names, args = self._stack.pop(), self._stack.pop()
        self._call((args, names) if names else args)

    def _call(self, args: object) -> None:
        """Replace the class or function on top by what it makes of `args`."""
        called = self._stack.pop()
        if not isinstance(args, tuple):
            raise TypeError
        path = called.path if isinstance(called, Named) else "what a call made"
        self._stack.append(make(path, args, self._subject))

    def _build(self, _: object) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Inert):
            target.state = state

    def _put(self, argument: object) -> None:
        at = int(str(argument))
        if at > len(self._memo) + 1:  # picklers count on; some begin at 1
            raise IndexError
        self._memo.extend([None] * (at + 1 - len(self._memo)))
        self._memo[at] = self._stack[-1]

    def _memoise(self, _: object) -> None:
        self._memo.append(self._stack[-1])

    def _get(self, argument: object) -> None:
        self._stack.append(self._memo[int(str(argument))])

    def _persistent(self, _: object) -> None:
        self._stack.append(storage_of(self._stack.pop(), self._subject))


_ACTIONS: Mapping[str, Callable[[_Machine, object], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine._nothing),
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "POP_MARK": _Machine._pop_mark,
    "DUP": _Machine._dup,
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "TUPLE": _Machine._marked_tuple,
    "LIST": _Machine._marked_list,
    "FROZENSET": _Machine._marked_set,
    "DICT": _Machine._marked_dict,
    "APPEND": _Machine._append,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Machine._extend_marked),
    "SETITEM": _Machine._set_one,
    "SETITEMS": _Machine._set_marked,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "INST": _Machine._inst,
    "OBJ": _Machine._obj,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine._reduce),
    "NEWOBJ_EX": _Machine._new_with_names,
    "BUILD": _Machine._build,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine._put),
    "MEMOIZE": _Machine._memoise,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    "BINPERSID": _Machine._persistent,
}
