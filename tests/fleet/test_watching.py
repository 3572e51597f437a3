"""The real `peelaudit watch`: what it waits for, tells once, keeps and ends by."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peelaudit.fleet.results import Results
from tests.cli.support import within
from tests.fleet.support import NANOGPT, QUICK, journal, members, reports, rows, started, until, write_model

FAST = ("--settle", "0.3", *QUICK)
ENDS = ("--idle", "0.5", *FAST)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for seed in (100, 200):
        write_model(tmp_path / f"run/ckpt-{seed}.pt", seed=seed)
    return tmp_path / "run"


def in_pieces(data: bytes, path: Path, pause: float) -> None:
    """As a slow writer does it, whose pauses are longer than what is waited for."""
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), len(data) // 3):
            file.write(data[start : start + len(data) // 3])
            time.sleep(pause)


def test_what_is_there_is_told_once_and_a_broken_one_once_until_it_is_mended(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    results = tmp_path / "results"
    whole = write_model(tmp_path / "other/ckpt-300.pt", seed=300).read_bytes()
    (run / "ckpt-300.pt").write_bytes(whole[:-100])
    done = within(capsys, "watch", run, "--out", results, *ENDS)
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("step ")][:2] == ["step 100", "step 200"]
    assert done.stderr.count("failed: ") == 1
    assert "truncated" in done.stderr
    assert "The YES cloud over 2 checkpoints" in done.stdout
    assert len((results / "summary.csv").read_text().splitlines()) == 3
    (run / "ckpt-300.pt").write_bytes(whole)
    again = within(capsys, "watch", run, "--out", results, "-f", "json", *ENDS)
    assert (again.returncode, again.stderr.count("failed")) == (0, 0)
    assert [(Path(row["checkpoint"]).name, row["state"]) for row in rows(again)] == [
        ("ckpt-100.pt", "kept"),
        ("ckpt-200.pt", "kept"),
        ("ckpt-300.pt", "done"),
    ]
    assert len(journal(results, "finish")) == 3


@pytest.fixture
def watched(run: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A directory that is watched by a process of its own until that is told to end."""
    results = tmp_path / "results"
    with started("watch", run, "--out", results, *FAST) as process:
        until(lambda: len(journal(results, "finish")) == 2, seconds=200)
        yield run, results
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 143
        assert errors.splitlines()[-1] == "peelaudit: terminated"
        until(lambda: not members(process.pid), seconds=20)


def test_a_half_written_one_is_waited_for_and_one_written_over_is_another_step(watched: tuple[Path, Path]) -> None:
    run, results = watched
    whole = write_model(run.parent / "other/last.pt", seed=300).read_bytes()
    in_pieces(whole, run / "last.pt", pause=0.8)
    until(lambda: len(journal(results, "finish")) == 3, seconds=200)
    later = write_model(run.parent / "other/last.pt", seed=400)
    shutil.move(later, run / "last.pt")
    until(lambda: len(journal(results, "finish")) == 4, seconds=200)
    until(lambda: len((results / "summary.csv").read_text().splitlines()) == 5)
    assert len(Results(results).reports()) == 4
    assert len(journal(results, "start")) == 4


def test_a_watch_that_was_killed_goes_on(run: Path, tmp_path: Path, capsys: Capture) -> None:
    results = tmp_path / "results"
    for seed in (300, 400):
        write_model(run / f"ckpt-{seed}.pt", seed=seed)
    with started("watch", run, "--out", results, *FAST) as process:
        until(lambda: len(journal(results, "start")) >= 2, seconds=200)
        process.kill()
        process.communicate()
        until(lambda: not members(process.pid), seconds=20)
    before = [line["task"] for line in journal(results, "finish")]
    done = within(capsys, "watch", run, "--out", results, *ENDS)
    assert done.returncode == 0
    assert len(reports(results)) == 4
    assert not set(before) & {line["task"] for line in journal(results, "start")[len(before) + 1 :]}


def test_it_ends_when_green_and_names_a_copy(tmp_path: Path, capsys: Capture) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    run.mkdir()
    for name in ("ckpt-001200.pt", "meta.pkl", "calibration.txt"):
        shutil.copy(NANOGPT / name, run)
    shutil.copy(NANOGPT / "ckpt-001200.pt", run / "ckpt-000600.pt")
    small = ("--tokens", "640", "--seq-len", "32", "--resamples", "100", "--effort", "quick")
    green = ("--schedules", "refined", "--tolerance", "0.5", "--settle", "0.3", *small)
    done = within(capsys, "watch", run, "--out", results, "--stop-when", "green", *green)
    assert done.returncode == 0
    assert "stop when green: step 1,200" in " ".join(done.stdout.split())
    told = within(capsys, "watch", run, "--out", results, "--idle", "0.5", "-f", "json", *green)
    notes = {note for row in json.loads(told.stdout) for note in row["notes"]}
    assert "Step 600 (ckpt-000600.pt) and step 1,200 (ckpt-001200.pt) have the same weights" in " ".join(notes)
    assert "ckpt-000600.pt records step 1,200" in " ".join(notes)
    assert "series: Step 600" in told.stderr
    assert "have the same weights" in (results / "series.html").read_text()


def test_mistakes_in_its_flags_are_told_at_once(run: Path, tmp_path: Path, capsys: Capture) -> None:
    flags = ("--settle", "0", "--idle", "soon", "--stop-when", "red")
    done = within(capsys, "watch", tmp_path / "none", "--out", tmp_path / "results", *flags)
    assert done.returncode == 2
    assert "4 mistakes in the settings" in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_gate_is_held_in_the_end(run: Path, tmp_path: Path, capsys: Capture) -> None:
    done = within(capsys, "watch", run, "--out", tmp_path / "results", "--fail-over", "trained_loss=1", *ENDS)
    assert done.returncode == 1
    assert done.stderr.count("gate failed") == 2
