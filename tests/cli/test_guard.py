"""How a command ends: exit codes, one sentence and no traceback, closed and full pipes, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.support import COMMAND, STUB, Canned, call, environ, real, stubbed
from tests.places import ROOT


@pytest.mark.parametrize(
    ("mode", "code", "message"),
    [
        ("unreadable", 3, r"error: no file \x1b[31m[bold]x"),
        ("calibration", 3, "error: too few tokens"),
        ("non-finite", 3, "error: layer 3 became NaN"),
        ("nan", 3, "baselines.unigram.value is nan"),
        ("nothing", 5, "error: no layer"),
        ("config", 2, "no such family"),
        ("memory", 3, "not enough memory"),
        ("torch memory", 3, "not enough memory"),
        ("disk", 3, "No space left on device"),
        ("exit", 3, ""),
    ],
)
def test_failures(mode: str, code: int, message: str, canned: Canned) -> None:
    done = canned(mode, "run", "ckpt.pt")
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr


def test_a_bug_is_a_traceback_but_never_a_failed_gate() -> None:
    done = stubbed("bug", "run", "ckpt.pt")
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" in done.stderr
    assert "this is a bug in peelaudit" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        pytest.param(arguments, where, marks=() if "schema" in arguments or where == "full" else pytest.mark.slow)
        for arguments in (["schema"], ["--help"], ["--version"], ["run", "--help"])
        for where in ("full", "closed", "broken")
    ],
)
def test_row_65_stdout_that_takes_nothing(arguments: list[str], where: str) -> None:
    if where == "full":
        with Path("/dev/full").open("w") as full:
            done = real(*arguments, stdout=full)
    elif where == "broken":
        read, write = os.pipe()
        os.close(read)
        done = real(*arguments, stdout=write)
        os.close(write)
    else:
        done = call(["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *arguments], cwd=ROOT)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_full_stdout_of_a_report() -> None:
    with Path("/dev/full").open("w") as full:
        done = stubbed("ok", "run", "c", stdout=full)
    assert done.returncode == 3
    assert "stdout can't be written: No space left on device" in done.stderr


def test_closed_stderr_is_no_reason_to_fail() -> None:
    done = call(["sh", "-c", 'exec "$@" 2>&-', "sh", *STUB, "ok", "run", "c", "-f", "json"], cwd=ROOT)
    assert done.returncode == 0
    assert json.loads(done.stdout)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")],
)
def test_row_60_signals(number: signal.Signals, code: int, word: str, tmp_path: Path) -> None:
    command = [*STUB, "wait", "run", "c", "-o", "a.json"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
    assert line == "ready\n"
    assert (process.returncode, out, errors) == (code, "", f"peelaudit: {word}\n")
    assert list(tmp_path.iterdir()) == []
