"""Which of the tasks are this machine's: every N-th, so that the shards are disjoint, complete and alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from peelaudit.errors import ConfigError

__all__ = ["Shard", "parse_shard"]

_Item = TypeVar("_Item")
_SLURM = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count`, from 1."""

    index: int = 1
    count: int = 1

    def of(self, tasks: Sequence[_Item]) -> Sequence[_Item]:
        """This shard's tasks, in their order."""
        return tasks[self.index - 1 :: self.count]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str | None, environ: Mapping[str, str]) -> Shard:
    """`--shard`'s value; without one, the place in SLURM's job array, if this is one.

    Raises:
        ConfigError: it isn't I/N with 1 ≤ I ≤ N, or SLURM's array isn't a range.
    """
    if text is not None:
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"--shard is {text!r}: expected I/N with I from 1 to N, such as 1/4")
        return Shard(int(found[1]), int(found[2]))
    if not environ.get(_SLURM + "ID"):
        return Shard()
    try:
        number, count, least = (int(environ[_SLURM + name]) for name in ("ID", "COUNT", "MIN"))
        step = int(environ.get(_SLURM + "STEP") or 1)
        index, rest = divmod(number - least, step)
    except (KeyError, ValueError, ZeroDivisionError):
        raise ConfigError(f"{_SLURM}ID is set, but ID, COUNT and MIN make no job array: give --shard") from None
    if rest or not 0 <= index < count:
        # An array of single numbers (1,3,7) doesn't tell a task which of them it is.
        raise ConfigError(f"{_SLURM}ID is {number}: task {index + 1} of {count}? For such an array give --shard")
    return Shard(index + 1, count)
