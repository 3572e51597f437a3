"""Where a case lies, and what of all that happens meanwhile is none of the library's business.

case/       the files; nothing may be written
outside/    bait beside it: nothing in it may be read
work/       the working directory, home/ and tmp/ for temporary files: nothing may stay
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.fuzz.case import Files, write

__all__ = ["Yard"]

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.utime",
)
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile", "pty.spawn")
_TALKS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_FORBIDDEN = frozenset((*_CHANGES, *_STARTS, *_TALKS))


class Yard:
    """The directories of one process's cases.

    Attributes:
        case: where the files are.
        printed: the file that stands in for stdout and stderr.
        seen: what was done meanwhile that nothing should do.

    Args:
        root: an empty directory, or none yet. The process is in it from now on, its home and temporary files too.
    """

    def __init__(self, root: Path) -> None:
        self.case, self.printed, self._root = root / "case", root / "printed", root
        self.seen: list[str] = []
        self._watching = False
        for name in ("outside", "work", "home", "tmp"):
            (root / name).mkdir(parents=True)
        (root / "outside/model.safetensors").write_bytes(b"bait")
        os.environ |= {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), "HF_HOME": str(root / "home/hub")}
        os.environ |= {"XDG_CACHE_HOME": str(root / "home/cache"), "TOKENIZERS_PARALLELISM": "false"}
        os.chdir(root / "work")
        sys.addaudithook(self._hear)

    def place(self, name: str) -> Path:
        """A directory to make sound files in."""
        (found := self._root / "bases" / name).mkdir(parents=True)
        return found

    def lay(self, files: Files) -> None:
        """The case's files instead of the last one's."""
        shutil.rmtree(self.case, ignore_errors=True)
        self.case.mkdir()
        write(files, self.case)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Fills `seen`."""
        self.seen.clear()
        before = self._listed()
        self._watching = True
        try:
            yield
        finally:
            self._watching = False
            after = self._listed()
            self.seen += [f"{path} was written" for path in sorted(after) if after[path] != before.get(path)]
            self.seen += [f"{path} is gone" for path in sorted(before.keys() - after.keys())]

    def _listed(self) -> dict[str, tuple[int, ...]]:
        """Every file and directory but what the process prints, by its size and time of change."""
        found: dict[str, tuple[int, ...]] = {}
        for folder, _, names in os.walk(self._root):
            for path in (folder, *(os.path.join(folder, name) for name in names)):  # noqa: PTH118  # thousands a second
                status = os.lstat(path)
                if path != str(self.printed):
                    found[path] = (status.st_size, status.st_mtime_ns, status.st_ino)
        return found

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open":
            self._opened(*arguments)
        elif event in _FORBIDDEN:
            self.seen.append(f"{event}{tuple(map(str, arguments))}"[:300])

    def _opened(self, path: Any, _: Any, flags: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if isinstance(flags, int) and flags & _WRITES and place != os.devnull:
            self.seen.append(f"{place} was opened to be written")
        real = os.path.realpath(place)
        if real.startswith(str(self._root / "outside")) or real == "/etc/hostname":
            self.seen.append(f"{place} was read")
