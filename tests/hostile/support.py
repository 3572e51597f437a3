"""A command that refuses, with what memory it may ask for; files to be refused."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peelaudit.cli import main

MEMORY = 512 << 20
"""Bytes that a refusal may ask for: the smallest of the bombs would take eight times that."""

MARKS = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are the system's"),
]
IDS = np.random.default_rng(0).integers(0, 64, 4000)
"""Calibration data of the tiny models' vocabulary."""

Make = Callable[[Path], object]
"""Writes what is hostile to a path."""


@contextmanager
def bounded() -> Iterator[None]:
    """No more memory than now and `MEMORY`: what asks for it gets a MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refused(arguments: list[str], folder: Path, capfd: pytest.CaptureFixture[str], *, code: int = 3) -> str:
    """The one sentence that the command ends in, and nothing else: nothing on stdout, nothing written in the folder."""
    before = sorted(folder.rglob("*"))
    capfd.readouterr()
    quiet = ["--quiet"] if arguments[0] == "run" else []  # on a slow machine its stages are told
    with bounded():
        found = main([*arguments, *quiet])
    out, error = capfd.readouterr()
    assert (found, out) == (code, ""), error
    assert error.startswith("peelaudit: error: ")
    assert error.count("\n") == 1, error
    assert error.rstrip("\n").isprintable()
    assert "Traceback" not in error
    assert "weights_only" not in error
    assert "not enough memory" not in error
    assert sorted(folder.rglob("*")) == before, "something was written"
    return error


def content(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def tokens(folder: Path) -> str:
    """Calibration data that need no tokenizer."""
    np.save(path := folder / "data.npy", IDS)
    return str(path)


def audit(checkpoint: Path, data: str) -> list[str]:
    """A small audit's command."""
    options = ["--tokens", "1024", "--seq-len", "16", "--resamples", "100", "--effort", "quick"]
    return ["run", str(checkpoint), "--data", data, *options]
