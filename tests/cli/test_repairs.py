"""`--effort`, `--save-repairs` and `--save-refined` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peelaudit.cli import main
from tests.places import NANOGPT

CHECKPOINT = str(NANOGPT / "ckpt-000250.pt")
SMALL = ["--tokens", "1024", "--seq-len", "64", "--resamples", "100", "-q"]


@pytest.mark.parametrize(
    ("flag", "settings", "needs"),
    [
        ("--save-repairs", ["--effort", "quick"], "--effort default or thorough"),
        ("--save-refined", ["--effort", "quick"], "the reference refined"),
        ("--save-refined", ["--schedules", "final"], "the reference refined"),
    ],
)
def test_saving_blocks_needs_some(
    flag: str, settings: list[str], needs: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["run", CHECKPOINT, *settings, flag, str(tmp_path / "x")]) == 2
    assert f"{flag} needs {needs}" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_refined_is_saved_whatever_the_effort(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wish = ["--effort", "quick", "--schedules", "refined", "--save-refined", str(tmp_path / "x"), *SMALL]
    assert main(["run", CHECKPOINT, *wish]) == 0
    assert (tmp_path / "x/head.safetensors").exists()


def test_an_unknown_effort_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", CHECKPOINT, "--effort", "magic"]) == 2
    assert "effort is 'magic': expected quick | default | thorough" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_ends_in_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "x")
    assert main(["run", CHECKPOINT, "--schedules", "final", "--save-repairs", folder, *SMALL]) == 3
    assert "can't be written" in capsys.readouterr().err


def test_a_run_writes_what_it_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    wish = ["--schedules", "refined", "--save-repairs", str(alone), "--save-refined", str(together), "-f", "json"]
    assert main(["run", CHECKPOINT, *wish, *SMALL]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["gap"]["value"] > 0 for row in report["layers"]] == [True] * 4
    assert report["network_refinement"]["steps"] > 0
    blocks = [f"layer-00{layer}.safetensors" for layer in range(1, 5)]
    assert sorted(path.name for path in alone.iterdir()) == blocks
    assert sorted(path.name for path in together.iterdir()) == ["head.safetensors", *blocks]
