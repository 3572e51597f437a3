"""Tensors that transformers stacks, joins or cuts as it reads them, made of the stored ones by the same code.

A mixture's experts are stored one by one in most families, and computed with as one tensor. What is made is known by
shape from the headers alone, and made each time it is read; no part is read before.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.matching import Origin, conversions, outer_changes, rename, unwrapped
from peelaudit.checkpoints.store import Store
from peelaudit.errors import MismatchedWeights
from peelaudit.records import TensorInfo

__all__ = ["Converted", "named"]


@dataclass(slots=True)
class _Group:
    """Stored tensors that one conversion makes others of: by the conversion's pattern, in its order."""

    entry: Any
    target: str
    parts: defaultdict[str, list[tuple[int | None, str]]] = field(default_factory=lambda: defaultdict(list))

    def names(self) -> list[str]:
        """The stored names, those of numbered parts in their order."""
        return [name for found in self.parts.values() for _, name in sorted(found, key=lambda part: part[0] or 0)]


def named(store: Store, skeleton: Any, *, within_wrapper: bool) -> tuple[Store, Mapping[str, Origin]]:
    """The tensors as transformers has them once it has read them, by its names."""
    made = Converted(store, skeleton, within_wrapper=within_wrapper)
    return made, rename(made, skeleton, made=made.made, within_wrapper=within_wrapper)


class Converted:
    """The tensors of `store`, those that are made of others under the module's names."""

    def __init__(self, store: Store, skeleton: Any, *, within_wrapper: bool) -> None:
        """Find what is made by the headers.

        Args:
            store: of the tensors as stored.
            skeleton: transformers' module.
            within_wrapper: whether it is the text part of a multimodal file.

        Raises:
            MismatchedWeights: the parts of one don't fit together, or one is missing.
        """
        self._store, self._skeleton = store, skeleton
        self.format, self.paths, self.floats = store.format, store.paths, store.floats
        self._made: dict[str, _Group] = {}
        self._tensors = dict(store.tensors)
        for group in _groups(store, skeleton, within_wrapper=within_wrapper):
            self._present(group)

    def _present(self, group: _Group) -> None:
        """Put what a group makes in the place of its parts."""
        infos = [self._store.tensors[name] for name in group.names()]
        made = self._convert(group, {info.name: torch.empty(info.shape, device="meta") for info in infos})
        dtypes = {info.dtype for info in infos}
        if len(dtypes) > 1:
            raise self._mismatched(group, f"its parts are stored as {' and '.join(sorted(dtypes))}")
        for info in infos:
            del self._tensors[info.name]
        size = sum(info.bytes for info in infos)
        for name, tensor in made.items():
            if name in self._tensors:
                raise self._mismatched(group, "it is stored whole too")
            self._tensors[name] = TensorInfo(name, tuple(tensor.shape), infos[0].dtype, size // len(made))
            self._made[name] = group

    @property
    def made(self) -> Mapping[str, int]:
        """The names of the tensors that are made of others, and of how many matrices of one size, one's outputs behind
        the other's.
        """
        return {name: self._parts(name, group) for name, group in self._made.items()}

    def _parts(self, name: str, group: _Group) -> int:
        joints = [getattr(one, "dim", None) for one in group.entry.operations if type(one).__name__ == "Concatenate"]
        sizes = {self._store.tensors[part].shape for part in group.names()}
        return len(group.parts) if joints == [len(self._tensors[name].shape) - 2] and len(sizes) == 1 else 1

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor: what is made of others stands for these."""
        return self._tensors

    def _convert(self, group: _Group, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """What transformers makes of a group's tensors, by the module's names."""
        _check_numbers(group, self._mismatched)
        entry = copy.deepcopy(group.entry)
        for pattern, found in group.parts.items():
            for _, name in sorted(found, key=lambda part: part[0] or 0):
                entry.add_tensor(group.target, name, pattern, tensors[name])
        try:
            made = entry.convert(group.target, model=self._skeleton, config=self._skeleton.config)
        except Exception as error:
            raise self._mismatched(group, f"its parts don't fit together ({type(error).__name__})") from None
        return {name: one[0] if isinstance(one, list) else one for name, one in made.items()}

    def _mismatched(self, group: _Group, what: str) -> MismatchedWeights:
        first = quoted(group.names()[0])
        return MismatchedWeights(
            f"{quoted(self.paths[0])}: {quoted(group.target)} can't be made of {first} and what belongs to it: {what}"
        )

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that name, on the CPU; one that is made of others is made anew."""
        group = self._made.get(name)
        if group is None:
            return self._store.read(name)
        return self._convert(group, {part: self._store.read(part) for part in group.names()})[name]

    def close(self) -> None:
        """Release the files."""
        self._store.close()


def _groups(store: Store, skeleton: Any, *, within_wrapper: bool) -> Collection[_Group]:
    """What is made of others, with the outer change of the stored names that fits the module best."""
    entries = copy.deepcopy(conversions(skeleton))
    if not any(_converts(entry) for entry in entries):
        return ()
    wanted = set(skeleton.state_dict(keep_vars=True))
    best: Mapping[str, _Place] = {}
    fits = -1
    bare = {stored: unwrapped(stored) for stored in store.tensors}
    for outer in outer_changes(tuple(bare.values()), skeleton, within_wrapper=within_wrapper):
        places = {stored: _place(outer(name), entries) for stored, name in bare.items() if name not in wanted}
        fit = len(wanted.intersection(place.name for place in places.values()))
        if fit > fits:
            best, fits = places, fit
    groups: dict[tuple[str, int], _Group] = {}
    for stored, place in best.items():
        if place.entry is not None and place.name in wanted:
            group = groups.setdefault((place.name, place.entry), _Group(entries[place.entry], place.name))
            group.parts[place.pattern].append((place.number, stored))
    return groups.values()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where transformers puts a stored tensor: under `name`, by the conversion `entry` if it is made into others, which
    knows it by its `pattern`, as that `number` of several.
    """

    name: str
    entry: int | None = None
    pattern: str = ""
    number: int | None = None


def _place(name: str, entries: Sequence[Any]) -> _Place:
    """All renamings in turn, then the first conversion that knows the name, as transformers has it."""
    for entry in entries:
        if not _converts(entry):
            name = entry.rename_source_key(name)[0]
    for index, entry in enumerate(entries):
        if _converts(entry):
            renamed, pattern = entry.rename_source_key(name)
            if pattern is not None:
                return _Place(renamed, index, pattern, _number(name, pattern))
    return _Place(name)


def _number(name: str, pattern: str) -> int | None:
    """Which of several tensors a pattern with a star stands for."""
    found = re.search(pattern.replace("*.", r"(?P<number>\d{1,9})\.", 1), name) if "*." in pattern else None
    return None if found is None else int(found["number"])


def _check_numbers(group: _Group, error: Any) -> None:
    """Raise MismatchedWeights where numbered parts don't count from 0 without a gap: transformers would close it up."""
    for pattern, found in group.parts.items():
        numbers = sorted(number for number, _ in found if number is not None)
        if "*." in pattern and numbers != list(range(len(found))):
            raise error(group, f"those of {quoted(pattern)} aren't numbered from 0 to {len(found) - 1}")
        if "*." not in pattern and len(found) > 1:
            raise error(group, f"{quoted(pattern)} is stored twice")


def _converts(entry: Any) -> bool:
    return bool(getattr(entry, "operations", None))
