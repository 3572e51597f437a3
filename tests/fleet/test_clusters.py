"""How `peelaudit batch --engine ray` ends where Ray fails. A module in its place fails at will; the real one is in
test_ray.py.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.fleet.support import QUICK, ROOT, environ, members, peelaudit, started, until, write_model

GONE = "Ray's driver is gone: its process ended without a result"
ABSENT = "raise ImportError('no such thing')"
UNREACHABLE = "def init(**_): raise ConnectionError('nobody answers')"
LOST = "import os\ndef init(**_): os._exit(1)"
ABORTS = """
import os, pathlib, time

class Remote:
    def options(self, **_): return self
    def remote(self, *_): return object()

def init(**_): print("on stdout")
def remote(**_): return lambda _: Remote()
def wait(*_, **__):
    pathlib.Path("waits").touch()
    time.sleep(60)
def shutdown(): os._exit(1)
"""
"""As Ray 2.60 does where a task completes while its driver leaves."""


@pytest.fixture
def arguments(tmp_path: Path) -> tuple[str | Path, ...]:
    return (
        "batch",
        write_model(tmp_path / "run/ckpt.pt", seed=1),
        "--engine",
        "ray",
        "--out",
        tmp_path / "out",
        *QUICK,
    )


def instead(source: str, folder: Path) -> dict[str, str]:
    (folder / "ray.py").write_text(source)
    return environ(PYTHONPATH=f"{folder}{os.pathsep}{ROOT}")


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        (ABSENT, 2, "--engine ray needs Ray: pip install 'peelaudit[ray]'"),
        (UNREACHABLE, 3, "no Ray cluster can be reached: nobody answers"),
        (LOST, 3, f"{GONE} (exit code 1); what is done is kept, run it again"),
    ],
    ids=["absent", "unreachable", "lost"],
)
def test_errors(source: str, code: int, words: str, arguments: tuple[str | Path, ...], tmp_path: Path) -> None:
    done = peelaudit(*arguments, "-q", env=instead(source, tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"peelaudit: error: {words}\n")


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        pytest.param(
            ABSENT, 2, "--engine ray needs Ray: pip install 'peelaudit[ray]'", id="absent", marks=pytest.mark.slow
        ),
        pytest.param(UNREACHABLE, 3, "nobody answers", id="unreachable"),
    ],
)
def test_errors_of_one_audit(source: str, code: int, words: str, tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path / "run/ckpt.pt", seed=1, layers=2)
    settings = ("--engine", "ray", "--tokens", "640", "--seq-len", "32", "--schedules", "refined", "-q", "--no-resume")
    done = peelaudit("run", checkpoint, *settings, env=instead(source, tmp_path))
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("peelaudit: error: ")
    assert done.stderr.endswith(f"{words}\n")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--engine", "slurm"), "--engine is 'slurm': expected local | ray"),
        (("--jobs", "2"), "--jobs needs --engine ray"),
        (("--gpus-per-task", "0.5"), "--gpus-per-task needs --engine ray"),
        (("--engine", "ray", "--jobs", "0"), "--jobs is '0': expected a whole number from 1"),
        (("--engine", "ray", "--effort", "quick"), "--engine ray needs --effort default or thorough"),
    ],
)
def test_what_one_audit_cannot_be_asked_for(flags: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = peelaudit("run", tmp_path / "ckpt.pt", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_an_abort_is_not_the_exit_code(
    number: signal.Signals, code: int, arguments: tuple[str | Path, ...], tmp_path: Path
) -> None:
    with started(*arguments, cwd=tmp_path, env=instead(ABORTS, tmp_path)) as process:
        until((tmp_path / "waits").exists)
        os.killpg(process.pid, number)
        out, _ = process.communicate(timeout=60)
        until(lambda: not members(process.pid), seconds=20)
    assert (process.returncode, out) == (code, "")
