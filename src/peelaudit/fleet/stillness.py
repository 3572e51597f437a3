"""Which checkpoints below a directory are whole, told by their files lying still. Nothing is opened.

A checkpoint that is being written changes: the size, the time or the number of its files. One that hasn't for a while
is ready, to be tried. If it turns out to be damaged, its writer may only have paused: that counts as settled once the
files have lain still for as long again, and is forgotten as soon as they change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from peelaudit.filenames import CHECKPOINT_SUFFIXES, DISTRIBUTED, gguf_parts
from peelaudit.records import TaskRow

__all__ = ["Stillness"]

_Look = tuple[tuple[str, int, int, int, int], ...]
"""The files of a checkpoint: name, inode, size in bytes, and when content and file were changed, ns."""

_COUNT = (*CHECKPOINT_SUFFIXES, ".json", ".model", ".distcp", DISTRIBUTED)
"""The ends of the names that count in a directory. Logs that grow beside the weights don't."""


@dataclass(slots=True)
class _Seen:
    """A checkpoint: how it looks, since when, how it looked when it was last tried, and what failed then and when."""

    look: _Look
    since: float
    tried: _Look | None = None
    failure: TaskRow | None = None
    failed: float = 0.0


class Stillness:
    """What was seen of each checkpoint.

    Args:
        settle_s: for how long its files must lie still.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._seen: dict[str, _Seen] = {}
        self._gone: list[TaskRow] = []

    def look(self, paths: Sequence[str], now: float) -> bool:
        """Look at all that is there; whether anything has changed. One that was removed is forgotten."""
        changed = False
        for path in self._seen.keys() - set(paths):
            if failure := self._seen.pop(path).failure:
                self._gone.append(failure)
            changed = True
        for path in paths:
            look, seen = _look(path), self._seen.get(path)
            if seen is None:
                self._seen[path] = _Seen(look, now)
            elif look != seen.look:
                seen.look, seen.since, seen.failure = look, now, None
            else:
                continue
            changed = True
        return changed

    def ready(self, now: float) -> tuple[str, ...]:
        """Those that lie still and weren't tried as they are, in the order in which they were given."""
        return tuple(
            path for path, seen in self._seen.items() if seen.look != seen.tried and now - seen.since >= self._settle_s
        )

    def tried(self, paths: Sequence[str]) -> None:
        """They are being tried, as they looked last."""
        for path in paths:
            self._seen[path].tried = self._seen[path].look

    def failed(self, row: TaskRow, now: float) -> None:
        """One of them failed."""
        seen = self._seen[row.checkpoint]
        seen.failure, seen.failed = row, now

    def lost(self, now: float) -> Iterator[TaskRow]:
        """What failed and has lain still since, or was removed: each once."""
        yield from self._gone
        self._gone.clear()
        for seen in self._seen.values():
            if seen.failure is not None and now - seen.failed >= self._settle_s:
                yield seen.failure
                seen.failure = None

    def waiting(self) -> bool:
        """Whether something is still to become ready, or to fail for good."""
        return any(seen.look != seen.tried or seen.failure is not None for seen in self._seen.values())


def _look(path: str) -> _Look:
    """How a checkpoint looks now; a part that is gone meanwhile doesn't count."""
    place = Path(path)
    if place.is_dir():
        names = [name for name in _names(place) if name.endswith(_COUNT)]
        folder = place
    else:
        names, folder = [*gguf_parts(place.name), "config.json"], place.parent
    found = []
    for name in sorted(names):
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        found.append((name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  # names alone
    except OSError:
        return []
