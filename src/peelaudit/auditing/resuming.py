"""Results of an audit's stages that outlive it: an audit that was killed takes them over and goes on where it was.

A stage is computed, or what an earlier process found is taken over, with the work and the time that it had cost, so
that the report is the one of an audit that nobody disturbed; only its timings are another's, as any run's are. States
and fitted blocks aren't kept: what is left to do makes them again, and that isn't counted.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from peelaudit.auditing.caching import Resumption
from peelaudit.auditing.encoding import decoded, encoded
from peelaudit.network.memory import Memory
from peelaudit.network.work import Work
from peelaudit.progress import SILENT, Clock, Progress

__all__ = ["Kept", "computing_code", "place_key"]

T = TypeVar("T")
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Segment:
    """A part of an item's making: the stage that began with it, if one did, its time, and all that was counted by its
    end.
    """

    stage: str | None
    seconds: float
    blocks: float
    head: float


@dataclass(frozen=True, slots=True)
class _Item:
    """A file's content: a result, and how it came about."""

    key: str
    name: str
    segments: tuple[_Segment, ...]
    result: str


class Kept:
    """The results of one audit's stages, and the progress that these tell of theirs.

    Args:
        clock: who is told of the stages.
        work: what is counted.
        resumption: where results are kept.
        key: of all that they depend on.
        memory: where it runs out, a result is begun anew on half as much at once.
    """

    def __init__(
        self,
        clock: Progress = SILENT,
        work: Work | None = None,
        resumption: Resumption | None = None,
        key: str = "",
        *,
        memory: Memory | None = None,
    ) -> None:
        self._clock, self._work, self._memory, self._key = clock, work or Work(), memory or Memory(), key
        self._resumption = resumption or Resumption()
        self._folder = self._resumption.opened(key)
        self._waiting: list[_Item] = []
        self._segments: list[_Segment] = []
        self._stage: str | None = None
        self._since = time.perf_counter()

    def stage(self, name: str, total: int) -> None:
        """Pass it on."""
        self._end_segment(name)
        self._memory.stage = name
        self._clock.stage(name, total)

    def advance(self, steps: int = 1) -> None:
        """Pass it on."""
        self._clock.advance(steps)

    def one(
        self,
        name: str,
        kind: Any,
        compute: Callable[[], T],
        *,
        anew: bool = False,
        taken: Callable[[], None] = lambda: None,
        given: Mapping[str, Any] = NOTHING,
    ) -> T:
        """A result: computed, or taken over.

        Args:
            name: of the result.
            kind: its annotation.
            compute: makes it.
            anew: it isn't taken over, whatever is kept.
            taken: called where it was.
            given: those of its fields that aren't kept.
        """
        found = self.each(
            name, kind, lambda found: iter(() if found else (compute(),)), anew=anew, taken=taken, given=given
        )
        return found[0]

    def each(
        self,
        name: str,
        kind: Any,
        compute: Callable[[Sequence[T]], Iterator[T]],
        *,
        anew: bool = False,
        taken: Callable[[], None] = lambda: None,
        given: Mapping[str, Any] = NOTHING,
    ) -> list[T]:
        """Results that are computed one after another: as many as are kept without a gap are taken over.

        Args:
            name: of all.
            kind: the annotation of one.
            compute: makes those after the ones it is given.
            anew: none is taken over, whatever is kept.
            taken: called where one was.
            given: those of the fields of one that aren't kept.
        """
        found: list[T] = [] if anew else list(self._taken_over(name, kind, given))
        if found:
            taken()
        self._begin_item()

        def go_on() -> None:
            for item in compute(tuple(found)):
                self._end_segment(None)
                if self._folder is not None:
                    self._keep(f"{name}-{len(found) + 1}", encoded(item, given))
                found.append(item)
                self._begin_item()

        self._memory.retried(go_on)
        return found

    def _begin_item(self) -> None:
        self._segments, self._stage, self._since = [], None, time.perf_counter()

    def _end_segment(self, following: str | None) -> None:
        """A stage ends, or an item: what was counted by now belongs to it."""
        now = time.perf_counter()
        self._segments.append(_Segment(self._stage, now - self._since, self._work.blocks, self._work.head))
        self._stage, self._since = following, now

    def _keep(self, name: str, result: str) -> None:
        """Write it, and what came before, once that is worth it."""
        self._waiting.append(_Item(self._key, name, tuple(self._segments), result))
        if not self._resumption.worth_it or self._folder is None:
            return
        for item in self._waiting:
            if not self._folder.write(item.name, encoded(item)):
                self._folder = None
                break
        self._waiting.clear()

    def _taken_over(self, name: str, kind: Any, given: Mapping[str, Any]) -> Iterator[Any]:
        number = 1
        while self._folder is not None and (text := self._folder.read(f"{name}-{number}")) is not None:
            try:
                item: _Item = decoded(_Item, text)
                if (item.key, item.name) != (self._key, f"{name}-{number}"):
                    return
                result = decoded(kind, item.result, **given)
            except (ValueError, TypeError):
                return
            for segment in item.segments:
                if isinstance(self._clock, Clock):
                    self._clock.took(segment.stage, segment.seconds)
                self._work.blocks, self._work.head = segment.blocks, segment.head
            yield result
            number += 1


def place_key(audit: str, device: str, wishes: Sequence[int]) -> str:
    """The key of all that unfinished results depend on to the last digit: the audit's, this very code, the libraries,
    the processor or the device, and the threads.

    Args:
        audit: the audit's key.
        device: where it computes.
        wishes: what else is done on the way and counts as work, and how much at once.
    """
    facts = (
        audit,
        computing_code(),
        torch.cuda.get_device_name() if device == "cuda" else device,
        _processor(),
        torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),
        list(wishes),
    )
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


@functools.cache
def computing_code() -> str:
    """Of peelaudit's own source, for one that is being worked on keeps its version, and of the libraries."""
    root = Path(__file__).parents[1]
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers", "numpy")]
    digest = hashlib.sha256(" ".join((platform.python_version(), *libraries)).encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _processor() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()}"
