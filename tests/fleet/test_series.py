"""A batch as a whole: its gate, its reports, the training run that its checkpoints are."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.support import within
from tests.fleet.support import NANOGPT, QUICK, write_model

WIDE = ("--schedules", "refined", "--tolerance", "0.2")
"""On so little text an interval is wide: this is what it can tell."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch over three steps of the fixture's run, with all that can be asked for."""
    folder = tmp_path_factory.mktemp("series")
    for name in ("ckpt-000000.pt", "ckpt-000600.pt", "ckpt.pt", "meta.pkl", "calibration.txt"):
        (folder / "run").mkdir(exist_ok=True)
        shutil.copy(NANOGPT / name, folder / "run" / name)
    return folder


Capture = pytest.CaptureFixture[str]


def batch(capsys: Capture, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return within(capsys, "batch", folder / "run", "--out", folder / "out", *QUICK, *WIDE, *more)


def test_a_training_run_is_told_and_drawn(results: Path, capsys: Capture) -> None:
    done = batch(capsys, results, "--stop-when", "green", "-o", "github=" + str(results / "notes.txt"))
    assert done.returncode == 0
    assert "The YES cloud over 3 checkpoints" in done.stdout
    words = " ".join(done.stdout.split())
    assert "stop when green: step" in words
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert (results / "out/cloud.svg").read_text().startswith("<svg")
    assert "YES cloud" in (results / "out/series.html").read_text()
    assert "integrity" not in done.stdout + (results / "out/series.html").read_text()
    assert "ckpt-000000.pt::red" in (results / "notes.txt").read_text()  # the greens need no note


def test_a_gate_over_the_batch_is_exit_1_and_names_what_failed(results: Path, capsys: Capture) -> None:
    done = batch(capsys, results, "--fail-over", "trained_loss=3", "-f", "json", "-o", str(results / "junit.xml"))
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "gate failed" in line]
    assert "ckpt-000000.pt" in done.stderr
    assert json.loads(done.stdout)[0]["state"] in ("done", "kept")
    assert "<failure" in (results / "junit.xml").read_text()


def test_an_error_outweighs_a_failed_gate(results: Path, capsys: Capture) -> None:
    bad = results / "run/ckpt-000100.pt"
    bad.write_bytes(b"not a checkpoint")
    done = batch(capsys, results, "--fail-over", "trained_loss=3", "-o", str(results / "junit.xml"))
    bad.unlink()
    assert done.returncode == 3
    assert "gate failed" in done.stderr
    assert "<error" in (results / "junit.xml").read_text()


def test_a_rule_that_fits_no_row_is_a_mistake(results: Path, capsys: Capture) -> None:
    assert batch(capsys, results, "--fail-over", "layer[9].gap=3").returncode == 2


def test_what_is_no_training_run_has_no_pictures(results: Path, capsys: Capture) -> None:
    write_model(results / "run/other.pt", seed=3, layers=2)
    done = batch(capsys, results, "--stop-when", "green", "-f", "json")
    (results / "run/other.pt").unlink()
    assert done.returncode == 0
    assert "no training run" in done.stderr
    assert not (results / "out/cloud.svg").exists()
    assert not (results / "out/series.html").exists()


def test_what_to_stop_for_is_checked_at_once(results: Path, capsys: Capture) -> None:
    done = batch(capsys, results, "--stop-when", "red")
    assert done.returncode == 2
    assert "--stop-when" in done.stderr


def test_a_batch_is_checked_and_converted_by_its_directory(results: Path, capsys: Capture) -> None:
    run = results / "run"
    settings = ("--out", results / "two", *QUICK)
    batched = within(capsys, "batch", run / "ckpt.pt", run / "ckpt-000000.pt", run / "gone.pt", *settings)
    assert batched.returncode == 3
    names = {path.name.rpartition("-")[0] for path in (results / "two/reports").iterdir()}
    assert names == {"run-ckpt", "run-ckpt-000000"}
    converted = within(capsys, "convert", results / "two", "-f", "csv")
    assert converted.returncode == 0
    assert "warning" in converted.stderr
    assert "has no report of 1 among 3 checkpoints" in converted.stderr
    table = list(csv.DictReader(io.StringIO(converted.stdout)))
    steps = list(dict.fromkeys(row["training_step"] for row in table))
    assert steps == ["2400", "0"]  # in the batch's order
    checked = within(capsys, "check", results / "two", "--fail-over", "trained_loss=3", "-f", "json", "-q")
    assert checked.returncode == 1
    assert "gate failed" in checked.stderr
    assert "run-ckpt-000000-" in checked.stderr
    assert len(json.loads(checked.stdout)) == 2


def test_a_directory_without_reports_is_an_error_that_says_so(tmp_path: Path, capsys: Capture) -> None:
    commands = (("check", "--fail-on", "red"), ("convert",))
    for name, *flags in commands:
        foreign = within(capsys, name, tmp_path, *flags)
        assert (foreign.returncode, foreign.stdout) == (2, "")
        assert f"{tmp_path} holds no results of peelaudit batch" in foreign.stderr
    (tmp_path / "torn.pt").write_bytes(b"no checkpoint")
    assert within(capsys, "batch", tmp_path / "torn.pt", "--out", tmp_path / "out").returncode == 3
    for name, *flags in commands:
        empty = within(capsys, name, tmp_path / "out", *flags)
        assert (empty.returncode, empty.stdout) == (3, "")
        assert f"{tmp_path / 'out'} holds no report yet, of 1 checkpoint" in empty.stderr
