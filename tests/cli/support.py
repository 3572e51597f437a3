"""The command as a process: the real one, and the one over a canned audit; and a stream for it in this process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from peelaudit.cli import main
from tests.places import ROOT

Canned = Callable[..., subprocess.CompletedProcess[str]]

STUB = [sys.executable, "-m", "tests.cli.stub"]
MODULE = [sys.executable, "-m", "peelaudit"]
COMMAND = [sys.executable, "-c", "import sys; from peelaudit.cli import main; sys.exit(main())"]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def environ(**more: str) -> dict[str, str]:
    """The environment without settings and without a cluster, in which `tests` can be imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PEELAUDIT_", "SLURM_", "RAY_"))}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def stubbed(mode: str, *arguments: str, cwd: Path = ROOT, **options) -> subprocess.CompletedProcess[str]:
    return call([*STUB, mode, *arguments], cwd=cwd, **options)


def real(*arguments: str, cwd: Path = ROOT, **options) -> subprocess.CompletedProcess[str]:
    return call([*COMMAND, *arguments], cwd=cwd, **options)


def within(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The real command in this process: without the seconds that torch takes to be imported, by a fork server too."""
    capsys.readouterr()
    code = main([*map(str, arguments)])
    told = capsys.readouterr()
    return subprocess.CompletedProcess(arguments, code, told.out, told.err)


def call(command: list[str], *, cwd: Path, env: dict[str, str] | None = None, **options):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60, "text": True} | options
    return subprocess.run(command, cwd=cwd, env=environ(**(env or {})), check=False, **streams)
