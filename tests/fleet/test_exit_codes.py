"""Every exit code of the real commands, told by a table. What a failed gate returns is tested with the gate."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from tests.cli.support import within
from tests.fleet.support import COMMAND, LONG, QUICK, environ, journal, members, started, until, write_model

ROOM_BYTES = 12 << 10  # on the full disk: enough for what a batch writes first, too little for a report


@dataclass(frozen=True, slots=True)
class Case:
    """A command line, in which {x} is a path of the fixture, what happens to it, its exit code, and words on stderr."""

    line: str
    code: int
    words: str = ""
    event: Literal["", "stdout closed", "stdout full", "SIGTERM", "SIGINT", "SIGHUP", "replaced", "disk full"] = ""


def slow(case: Case) -> Any:
    """One that `make test-all` runs: each of these computes for seconds."""
    return pytest.param(case, marks=pytest.mark.slow)


def name(case: Case) -> str:
    return f"{case.line.split()[0]}-{case.code}-{case.event or case.words}"


TABLE = [
    slow(Case("run {good} QUICK", 0)),
    Case("run {good} --tokens many", 2, "--tokens is 'many'"),
    slow(Case("run {good} QUICK --seq-len 128", 2, "context is 64")),
    Case("run {missing} QUICK", 3, "no such file or directory"),
    Case("run {torn} QUICK", 3, "truncated"),
    slow(Case("run {nan} QUICK", 3, "NaN or Inf")),
    slow(Case("run {good} QUICK --data {missing}", 3, "can't be read")),
    Case("run {bare} QUICK", 5, "layer"),
    Case("run {good} QUICK", 3, "stdout is closed", "stdout closed"),
    slow(Case("run {good} QUICK", 3, "stdout can't be written", "stdout full")),
    Case("run {good} LONG", 143, "terminated", "SIGTERM"),
    slow(Case("run {good} LONG", 130, "interrupted", "SIGINT")),
    slow(Case("run {good} LONG", 129, "hung up", "SIGHUP")),
    slow(Case("run {good} SOME", 3, "was replaced, edited or removed", "replaced")),
    Case("run {good} QUICK -o {disk}/report.json", 3, "No space left on device", "disk full"),
    slow(Case("batch {good} --out {out} QUICK", 0)),
    Case("batch {good} --out {out} QUICK --jobs 0 --shard 3/2 --engine spark", 2, "3 mistakes in the settings"),
    Case("batch {good} --out {folder} QUICK", 2, "holds other things"),
    Case("batch {good} --out {good}/results QUICK", 3, "can't be made"),
    slow(Case("batch {missing} --out {out} QUICK", 3, "no such file or directory")),
    Case("batch {folder}/none* --out {out} QUICK", 5, "no checkpoint found"),
    Case("batch {empty} --out {out} QUICK", 5, "no checkpoint found"),
    slow(Case("batch {good} {empty} --out {out} QUICK", 5, "error: no checkpoint found in {empty}")),
    slow(Case("batch {torn} {empty} --out {out} QUICK", 5, "error: no checkpoint found in {empty}")),
    Case("batch {good} --out {out} QUICK", 3, "stdout is closed", "stdout closed"),
    slow(Case("batch {good} --out {out} QUICK", 3, "stdout can't be written", "stdout full")),
    slow(Case("batch {good} --out {out} LONG", 143, "terminated", "SIGTERM")),
    slow(Case("batch {good} --out {out} LONG", 130, "interrupted", "SIGINT")),
    Case("batch {good} --out {out} SOME", 3, "was replaced, edited or removed", "replaced"),
    slow(Case("batch {good} --out {disk}/results QUICK", 3, "No space left on device", "disk full")),
    Case("status {empty}", 2, "no results of peelaudit batch"),
    Case("status {missing}", 2, "no results of peelaudit batch"),
    Case("status {empty} -f csv", 2, "--format is 'csv'"),
]
SOME = ("--tokens", "4096", "--seq-len", "32", "--solver", "adam", "--steps", "200")
"""An audit of a few seconds: something may happen meanwhile."""


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[dict[str, Path]]:
    folder = tmp_path / "run"
    good = write_model(folder / "good.pt", seed=1, layers=2)
    torn = folder / "torn.pt"
    torn.write_bytes(good.read_bytes()[:-50])
    nan = torch.load(good)
    nan["model"]["transformer.h.0.mlp.c_fc.weight"][0, 0] = torch.nan
    torch.save(nan, folder / "nan.pt")
    bare = write_model(folder / "bare.pt", seed=1, layers=0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "disk").mkdir()
    names = ("missing", "out", "empty", "disk")
    found = {name: tmp_path / name for name in names}
    yield found | {"folder": folder, "good": good, "torn": torn, "nan": folder / "nan.pt", "bare": bare}
    if (tmp_path / "disk").is_mount():
        subprocess.run(["umount", tmp_path / "disk"], check=True)


def fill(disk: Path) -> None:
    """A small file system in which only `ROOM_BYTES` are left."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a tmpfs can't be mounted here: {done.stderr.strip()}")
    (disk / "filler").write_bytes(b"x" * ((64 << 10) - ROOM_BYTES))


@pytest.mark.parametrize("case", TABLE, ids=name)
def test_exit_codes(case: Case, paths: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"QUICK": QUICK, "LONG": LONG, "SOME": SOME}
    words = [part for word in case.line.split() for part in settings.get(word, (word.format(**paths),))]
    if case.event == "disk full":
        fill(paths["disk"])
    if case.event and case.event != "disk full":
        code, out, errors = run(case, words, paths)
    else:
        done = within(capsys, *words)
        code, out, errors = done.returncode, done.stdout, done.stderr
    assert code == case.code, errors
    assert case.words.format(**paths) in errors
    assert "Traceback" not in errors
    assert out == "" or code in (0, 3) or "{empty}" in case.line
    places, patterns = (paths["out"], paths["disk"]), ("**/reports/*", "**/report.json")
    left = [path for place in places for pattern in patterns for path in place.glob(pattern)]
    audited = code == 0 or ("{good}" in case.line and "{empty}" in case.line)
    assert (left != []) == (audited and "--out" in words) or case.event.startswith("stdout")


def run(case: Case, words: list[str], paths: dict[str, Path]) -> tuple[int, str, str]:
    """The command in a process of its own, and what happens to it."""
    if case.event == "stdout closed":
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *words], env=environ(), capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr
    if case.event == "stdout full":
        with Path("/dev/full").open("w") as full, started(*words, stdout=full) as process:
            _, errors = process.communicate(timeout=120)
            return process.returncode, "", errors
    with started(*words) as process:
        wait_for_the_audit(process, paths["out"], batch=words[0] == "batch")
        if case.event == "replaced":
            other = write_model(paths["folder"] / "other.pt", seed=2, layers=2)
            other.replace(paths["good"])
        elif case.event.startswith("SIG"):
            process.send_signal(signal.Signals[case.event])
        out, errors = process.communicate(timeout=120)
        until(lambda: not members(process.pid), seconds=20)
        return process.returncode, out, errors


def wait_for_the_audit(process: subprocess.Popen[str], results: Path, *, batch: bool) -> None:
    if batch:
        until(lambda: journal(results, "start"))
        return
    assert process.stderr is not None
    while "reference blocks" not in (line := process.stderr.readline()):
        assert line, "it ended too early"
