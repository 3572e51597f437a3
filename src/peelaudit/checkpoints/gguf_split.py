"""The parts of a split GGUF file, as llama-gguf-split and the gguf library write them: any of them opens all.

Every part has `split.no` (from 0), `split.count` and `split.tensors.count` (of all parts together); the first has all
else that a header says.
"""

from __future__ import annotations

from pathlib import Path

from peelaudit.checkpoints.files import quoted, within
from peelaudit.checkpoints.gguf_header import GgufHeader
from peelaudit.checkpoints.gguf_part import GgufPart
from peelaudit.checkpoints.store import close_all
from peelaudit.errors import MalformedCheckpoint, UnreadableCheckpoint
from peelaudit.filenames import gguf_part, gguf_parts

__all__ = ["open_parts"]

_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"
_MOST = 2_000
_OWN = ("split.", "general.alignment")
"""Keys of each part's own; all others must be the first part's."""


def open_parts(path: Path) -> tuple[GgufPart, ...]:
    """The part of that path and all others of the same model, in order.

    Raises:
        UnreadableCheckpoint: a part is missing, or isn't GGUF.
        MalformedCheckpoint: a header is damaged, or the parts aren't those of one model.
        UnsupportedCheckpoint: the gguf library is missing, or doesn't know a tensor's type.
    """
    parts = [GgufPart(path)]
    try:
        here, count = _place(parts[0])
        for number, name in enumerate(gguf_parts(path.name) if count > 1 else ()):
            if number != here:
                parts.append(_open(path, name))
        parts.insert(here, parts.pop(0))
        if count > 1:
            _compare(parts)
    except BaseException:
        close_all(parts)
        raise
    return tuple(parts)


def _place(part: GgufPart) -> tuple[int, int]:
    """Which part it is, from 0 on, of how many; its name must say so too, for the others are found by theirs."""
    path, values = part.paths[0], part.header.values
    count, number = values.get(_COUNT, 1) or 1, values.get(_NUMBER, 0)
    if type(count) is not int or type(number) is not int or not 0 <= number < count <= _MOST:
        raise MalformedCheckpoint(
            f"{quoted(path)}: its {_NUMBER} is {quoted(number, 20)}, of a {_COUNT} of {quoted(count, 20)}"
        )
    named = gguf_part(path.name) or (1, 1)
    if named != (number + 1, count):
        raise MalformedCheckpoint(
            f"{quoted(path)}: its header makes it part {number + 1} of {count}, but its name part {named[0]} of"
            f" {named[1]}; give it the name that it was written with, and the others too"
        )
    return number, count


def _open(beside: Path, name: str) -> GgufPart:
    path = within(beside.parent, name)
    if not path.exists():
        raise UnreadableCheckpoint(f"{quoted(beside)}: its part {quoted(name)} is missing")
    return GgufPart(path)


def _compare(parts: list[GgufPart]) -> None:
    """Raise MalformedCheckpoint unless the headers are those of one model's parts, in this order."""
    first, tensors = parts[0].header, sum(len(part.tensors) for part in parts)
    for place, part in enumerate(parts):
        if _place(part) != (place, len(parts)):
            raise MalformedCheckpoint(f"{quoted(part.paths[0])}: isn't part {place + 1} of {len(parts)}")
        if (promised := part.header.values.get(_TENSORS)) != tensors:
            raise MalformedCheckpoint(
                f"{quoted(part.paths[0])}: its {_TENSORS} is {quoted(promised, 20)}, but the parts hold {tensors}"
            )
        for key in (*part.header.values, *part.header.lengths):
            if not key.startswith(_OWN) and _value(part.header, key) != _value(first, key):
                raise MalformedCheckpoint(f"{quoted(part.paths[0])}: its {quoted(key)} isn't the first part's")


def _value(header: GgufHeader, key: str) -> object:
    return header.values.get(key), header.lengths.get(key)
