"""The real `peelaudit batch`: what it finds, skips and says; kills at random moments; signals; broken inputs."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.cli.support import within
from tests.fleet.support import (
    LONG,
    NANOGPT,
    QUICK,
    environ,
    journal,
    members,
    peelaudit,
    reports,
    rows,
    started,
    until,
    write_model,
)

STEPS = ("ckpt-000000.pt", "ckpt-000100.pt", "ckpt-000250.pt", "ckpt-000600.pt", "ckpt-001200.pt", "ckpt.pt")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three checkpoints, one of which is damaged."""
    for seed in (9, 10):
        write_model(tmp_path / f"run/ckpt-{seed}.pt", seed=seed)
    whole = (tmp_path / "run/ckpt-10.pt").read_bytes()
    (tmp_path / "run/ckpt-11.pt").write_bytes(whole[:-100])
    return tmp_path / "run"


def test_row_66_a_bad_one_is_a_row_and_the_rest_is_done_once(run: Path, tmp_path: Path, capsys: Capture) -> None:
    results = tmp_path / "results"
    done = within(capsys, "batch", run, "--out", results, "--jobs", "2", "-f", "json", *QUICK)
    assert done.returncode == 3
    assert [(Path(row["checkpoint"]).name, row["state"], row["exit_code"]) for row in rows(done)] == [
        ("ckpt-9.pt", "done", 0),
        ("ckpt-10.pt", "done", 0),
        ("ckpt-11.pt", "failed", 3),
    ]
    assert "truncated" in rows(done)[2]["reason"]
    assert done.stderr.splitlines()[-1] == "peelaudit: error: 1 of 3 checkpoints could not be audited"
    lines = [line.removeprefix("peelaudit: ") for line in done.stderr.splitlines()]
    for place, name in enumerate(("ckpt-9.pt", "ckpt-10.pt", "ckpt-11.pt"), 1):
        begins = lines.index(f"{place} of 3 begins: {run / name}")
        word, path = "failed" if place == 3 else "done", re.escape(str(run / name))
        ends = re.compile(rf"{place} of 3 {word} in [0-9.]+ s: {path}: {'.*truncated' if place == 3 else 'verdict '}")
        assert any(ends.match(line) for line in lines[begins:])
    assert len((results / "summary.csv").read_text().splitlines()) == 3

    shutil.copy(run / "ckpt-9.pt", run / "ckpt-11.pt")  # mended, and the same as another
    again = within(capsys, "batch", run, "--out", results, "-f", "json", *QUICK)
    assert (again.returncode, again.stderr.count("error")) == (0, 0)
    assert [row["state"] for row in rows(again)] == ["kept"] * 3
    assert again.stderr.count(" of 3 kept in ") == 3
    assert rows(again)[2]["reason"] == f"the same content as {run / 'ckpt-9.pt'}"
    assert [line["event"] for line in journal(results)].count("finish") == 2

    status = within(capsys, "status", results, "-f", "json")
    assert status.returncode == 0
    assert [row["state"] for row in rows(status)] == ["done"] * 3
    table = within(capsys, "status", results)
    assert table.returncode == 0
    assert table.stdout.startswith("3 checkpoints: 3 done\n")


@pytest.mark.parametrize("flag", ["--data", "--tokenizer"])
def test_a_wrong_path_in_the_settings_is_one_mistake_and_no_row_for_each(
    flag: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    done = within(capsys, "batch", run, "--out", tmp_path / "results", flag, tmp_path / "missing", *QUICK)
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"{tmp_path / 'missing'}: " in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_shards_share_a_directory(run: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    slurm = environ(SLURM_ARRAY_TASK_ID="5", SLURM_ARRAY_TASK_MIN="4", SLURM_ARRAY_TASK_COUNT="2")
    (run / "ckpt-11.pt").unlink()
    second = peelaudit("batch", run, "--out", results, "-f", "json", *QUICK, env=slurm)
    assert [Path(row["checkpoint"]).name for row in rows(second)] == ["ckpt-10.pt"]
    beyond = peelaudit("batch", run, "--out", results, "-f", "json", "--shard", "3/3", *QUICK)
    assert (beyond.returncode, rows(beyond)) == (0, [])
    first = peelaudit("batch", run, "--out", results, "-f", "json", "--shard", "1/2", *QUICK)
    assert [Path(row["checkpoint"]).name for row in rows(first)] == ["ckpt-9.pt"]
    assert len((results / "summary.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_row_63_two_runs_on_one_directory_share_the_work(run: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    (run / "ckpt-11.pt").unlink()
    for seed in (12, 13, 14):
        write_model(run / f"ckpt-{seed}.pt", seed=seed)
    arguments = ("batch", run, "--out", results, "-f", "json", "-q", *QUICK)
    with started(*arguments) as one, started(*arguments) as other:
        states = [[row["state"] for row in json.loads(run.communicate()[0])] for run in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    assert all(sorted(pair) == ["done", "kept"] for pair in zip(*states, strict=True))
    assert len(journal(results, "start")) == 5


def series(folder: Path) -> Path:
    folder.mkdir()
    for name in (*STEPS, "meta.pkl", "calibration.txt"):
        shutil.copy(NANOGPT / name, folder)
    return folder


def check_undisturbed(results: Path, expected: dict[str, dict[str, object]]) -> None:
    """The reports are those, and no audit was begun again after it had ended."""
    assert reports(results) == expected
    ended: set[object] = set()
    for line in journal(results):
        assert line["event"] in ("start", "finish"), line
        assert line["task"] not in ended, line
        if line["event"] == "finish":
            ended.add(line["task"])
    assert len(ended) <= len(expected)


def killed_at_random(
    run: Path, tmp_path: Path, capsys: Capture, *, kills: int, settings: tuple[str, ...], seed: int
) -> None:
    arguments = ["batch", run, "--jobs", "2", "-q", *settings]
    begun = time.monotonic()
    assert peelaudit(*arguments, "--out", tmp_path / "undisturbed").returncode == 0
    duration = time.monotonic() - begun
    expected = reports(tmp_path / "undisturbed")
    results = tmp_path / "results"
    draw = random.Random(seed)
    for _ in range(kills):
        with started(*arguments, "--out", results) as process:
            time.sleep(draw.uniform(0, duration))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        until(lambda: not members(process.pid))  # called at once
    final = within(capsys, *arguments, "--out", results, "-f", "json")
    assert final.returncode == 0, final.stderr
    assert {row["state"] for row in rows(final)} <= {"done", "kept"}
    check_undisturbed(results, expected)
    assert all(not path.name.endswith(".tmp") for path in results.glob("**/.*"))


def test_a_batch_that_was_killed_is_taken_up_again(run: Path, tmp_path: Path, capsys: Capture) -> None:
    (run / "ckpt-11.pt").unlink()
    killed_at_random(run, tmp_path, capsys, kills=1, settings=QUICK, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_series_killed_ten_times(tmp_path: Path, capsys: Capture) -> None:
    settings = ("--tokens", "2048", "--schedules", "direct;final", "--resamples", "200")
    killed_at_random(series(tmp_path / "run"), tmp_path, capsys, kills=10, settings=settings, seed=4)


def begun(results: Path, count: int = 1) -> list[dict[str, object]]:
    """Wait until so many audits have begun; their lines of the journal."""
    until(lambda: len(journal(results, "start")) >= count)
    return journal(results, "start")


def test_ctrl_c_stops_everything(run: Path, tmp_path: Path, capsys: Capture) -> None:
    results = tmp_path / "results"
    with started("batch", run, "--out", results, "--jobs", "2", "-q", *LONG) as process:
        begun(results, 2)
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (130, "", "peelaudit: interrupted\n")
        until(lambda: not members(process.pid), seconds=20)
    assert reports(results) == {}
    assert [row["state"] for row in rows(within(capsys, "status", results, "-f", "json"))] == ["pending"] * 3


def test_nothing_outlives_a_killed_parent(run: Path, tmp_path: Path, capsys: Capture) -> None:
    results = tmp_path / "results"
    with started("batch", run, "--out", results, "--jobs", "2", "-q", *LONG) as process:
        begun(results, 2)
        running = rows(within(capsys, "status", results, "-f", "json"))
        assert [row["state"] for row in running] == ["running", "running", "pending"]
        process.kill()
        process.communicate()
        until(lambda: not members(process.pid), seconds=20)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGKILL, "was killed (SIGKILL), as the system does"),
        pytest.param(signal.SIGSEGV, "SIGSEGV", marks=pytest.mark.slow),
    ],
)
def test_row_61_a_lost_process_loses_one_audit(number: int, sentence: str, run: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    (run / "ckpt-11.pt").unlink()
    settings = (*QUICK, "--solver", "adam", "--steps", "300")
    with started("batch", run, "--out", results, "-f", "json", *settings) as process:
        os.kill(int(str(begun(results)[0]["pid"])), number)
        out, errors = process.communicate(timeout=200)
    found = json.loads(out)
    assert process.returncode == 3
    assert [row["state"] for row in found] == ["failed", "done"]
    assert sentence in found[0]["reason"]
    assert re.search(rf"1 of \d failed in [0-9.]+ s: {re.escape(str(run / 'ckpt-9.pt'))}: its process", errors)
