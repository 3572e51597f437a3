"""The directory in which finished results of audits lie that haven't ended: sound after kill -9 at any moment.

    <directory>/<key>/<name>.json     a line with the SHA-256 of what follows, then a line of JSON

Every file is written under another name and renamed. What is there is a file of the user's own with the right hash, or
nothing: a pipe, a link, another user's file, one that is damaged or that can't be read is as if it weren't there. What
can't be written isn't kept: an audit doesn't fail for want of a place to go on from. Nothing is locked: runs of one
audit write the same, and whoever ends first removes it, which costs the others no more than that.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peelaudit.errors import ConfigError
from peelaudit.plain_files import read_plain

__all__ = ["MOST_BYTES", "PATIENCE_S", "Cache", "Folder", "Resumption"]

PATIENCE_S = 60.0
"""How long an audit runs before anything of it is written."""
MOST_BYTES = 1 << 30
"""Of all audits together; those that were written to longest ago go first."""
_KEY = re.compile(r"[0-9a-f]{32}")
_SOON = 16
"""It is looked whether there is room as often as this part of it was written."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A directory for results.

    Attributes:
        root: the directory.
        patience_s: how long an audit runs before anything of it is written.
        most_bytes: how many may lie there.
    """

    root: Path
    patience_s: float = PATIENCE_S
    most_bytes: int = MOST_BYTES

    @classmethod
    def found(cls, environ: Mapping[str, str]) -> Cache | None:
        """The user's, $PEELAUDIT_CACHE, or `peelaudit` where caches are; None where no such place is known.

        Raises:
            ConfigError: $PEELAUDIT_RESUME_AFTER is no number of seconds.
        """
        text = environ.get("PEELAUDIT_RESUME_AFTER") or str(PATIENCE_S)
        try:
            patience_s = float(text)
        except ValueError:
            patience_s = math.nan
        if not patience_s >= 0:
            raise ConfigError(f"PEELAUDIT_RESUME_AFTER is {text!r}: expected seconds, 0 or more")
        root = _directory(environ)
        return None if root is None else cls(root, patience_s)

    def folder(self, key: str) -> Folder:
        """Where the results of one audit are, 32 hexadecimal digits its key."""
        return Folder(self, self.root / key)

    def audits(self) -> dict[Path, int]:
        """Bytes by the audits' folders, the one that was written to longest ago first."""
        found: list[tuple[float, Path, int]] = []
        with contextlib.suppress(OSError):
            for path in self.root.iterdir():
                if _KEY.fullmatch(path.name) and not path.is_symlink() and path.is_dir():
                    found.append((_changed(path), path, _size(path)))
        return {path: size for _, path, size in sorted(found)}

    def clear(self) -> None:
        """Remove all of them; other files in the directory stay."""
        for path in self.audits():
            _remove(path)

    def make_room(self, wanted: int, keep: Path) -> bool:
        """Remove what was written to longest ago, but for `keep`, until so many bytes more fit; whether they do."""
        sizes = self.audits()
        total = sum(sizes.values()) + wanted
        for path, size in sizes.items():
            if total <= self.most_bytes:
                break
            if path != keep:
                _remove(path)
                total -= size
        return total <= self.most_bytes


@dataclass(slots=True)
class Resumption:
    """Where an audit keeps what it has found, until its report is where it belongs.

    Attributes:
        cache: the directory; None keeps nothing.
    """

    cache: Cache | None = None
    _begun: float = field(default_factory=time.monotonic)
    _folder: Folder | None = None

    def opened(self, key: str) -> Folder | None:
        """Where the results of the audit with this key are."""
        self._folder = None if self.cache is None else self.cache.folder(key)
        return self._folder

    @property
    def worth_it(self) -> bool:
        """Whether the audit takes so long that its results are worth keeping."""
        return self.cache is not None and time.monotonic() - self._begun >= self.cache.patience_s

    def end(self) -> None:
        """The report is where it belongs: forget what it was made of."""
        if self._folder is not None:
            self._folder.remove()


class Folder:
    """One audit's results by name."""

    def __init__(self, cache: Cache, path: Path) -> None:
        self._cache, self._path = cache, path
        self._room = 0
        """Bytes that may be written before it is looked again how many there are."""

    def read(self, name: str) -> str | None:
        """What was kept under this name, whole and as it was."""
        path = self._path / f"{name}.json"
        try:
            if not _is_own(self._path, stat.S_IFDIR) or not _is_own(path, stat.S_IFREG):
                return None
            digest, _, text = read_plain(path, self._cache.most_bytes).partition(b"\n")
            return text.decode() if hashlib.sha256(text).hexdigest().encode() == digest else None
        except (OSError, ValueError):
            return None

    def write(self, name: str, text: str) -> bool:
        """Keep it; whether that was done."""
        data = text.encode()
        data = hashlib.sha256(data).hexdigest().encode() + b"\n" + data
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_own(self._path, stat.S_IFDIR) or not self._has_room(len(data)):
                return False
            handle, temporary = tempfile.mkstemp(dir=self._path, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(temporary).replace(self._path / f"{name}.json")
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
                raise
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Forget this audit."""
        _remove(self._path)

    def _has_room(self, wanted: int) -> bool:
        if self._room < wanted:
            self._room = self._cache.most_bytes // _SOON
            if not self._cache.make_room(max(wanted, self._room), self._path):
                self._room = 0
                return False
        self._room -= wanted
        return True


def _directory(environ: Mapping[str, str]) -> Path | None:
    if given := environ.get("PEELAUDIT_CACHE"):
        return Path(given).absolute()
    if Path(xdg := environ.get("XDG_CACHE_HOME", "")).is_absolute():
        return Path(xdg) / "peelaudit"
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or "")
    if not home.is_absolute():
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "peelaudit"


def _is_own(path: Path, kind: int) -> bool:
    """Whether it is of this kind, no link to one, and this user's. Raises OSError where there is nothing."""
    found = path.lstat()
    return stat.S_IFMT(found.st_mode) == kind and (not hasattr(os, "getuid") or found.st_uid == os.getuid())


def _changed(path: Path) -> float:
    """When a file was last added to a folder."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for entry in path.iterdir():
            total += entry.lstat().st_size
    return total


def _remove(path: Path) -> None:
    """A folder; a link to one is left alone."""
    if not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
