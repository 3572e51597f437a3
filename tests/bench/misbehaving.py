"""Formats whose use does what none should, for the tests of what notices it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from bench.fuzz.case import Files, Format
from peelaudit.errors import ConfigError, MalformedCheckpoint, PeelauditError

SOUND = {"file": b"sound"}


class Raw(PeelauditError):
    """One whose message isn't escaped."""

    def __str__(self) -> str:
        return f"{self.args[0]}\n"


def refuse(error: Callable[[str], PeelauditError]) -> Callable[[Path], None]:
    def use(folder: Path) -> None:
        raise error(f"{folder}: it is damaged")

    return use


def compute(_: Path) -> None:
    while True:
        pass


USES: dict[str, Callable[[Path], object]] = {
    "opens": lambda folder: (folder / "file").read_bytes(),
    "refuses": refuse(MalformedCheckpoint),
    "refuses settings": refuse(lambda text: ConfigError(text, text)),
    "raises": lambda _: {}["key"],
    "names nothing": refuse(lambda _: MalformedCheckpoint("it is damaged")),
    "is raw": refuse(Raw),
    "prints": lambda _: os.write(1, b"::error::"),
    "warns": lambda _: os.write(2, b"beware"),
    "writes": lambda folder: (folder / "file").write_bytes(b""),
    "makes": lambda _: Path("made").mkdir(),
    "removes": lambda folder: (folder / "file").unlink(),
    "reads": lambda folder: (folder / "../outside/model.safetensors").read_bytes(),
    "starts": lambda _: os.system("true"),
    "asks": lambda _: bytearray(3 << 30),
    "asks and hides it": refuse(lambda text: MalformedCheckpoint(f"{text} (MemoryError)")),
    "dies": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "leaves": lambda _: os._exit(7),
    "computes": compute,
    "waits": lambda _: time.sleep(60),
}


def _format(name: str, use: Callable[[Path], object]) -> Format:
    def used(folder: Path) -> None:
        if (folder / "file").read_bytes() != SOUND["file"]:
            use(folder)

    def change(*_: object) -> Files:
        return {"file": b"changed"}

    return Format(name.replace(" ", "-"), 1, lambda _: [SOUND], change, used)


FORMATS = {form.name: form for form in (_format(name, use) for name, use in USES.items())}
