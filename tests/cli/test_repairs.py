"""`--repair` and `--save-repairs` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peelaudit.cli import main
from tests.places import NANOGPT

CHECKPOINT = str(NANOGPT / "ckpt-000250.pt")
SMALL = ["--tokens", "3072", "--seq-len", "64", "--resamples", "200", "--schedules", "final", "-q"]


def test_saving_repairs_needs_some(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", CHECKPOINT, "--save-repairs", str(tmp_path / "x")]) == 2
    assert "--save-repairs needs --repair" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_an_unknown_repair_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", CHECKPOINT, "--repair", "magic"]) == 2
    assert "--repair is 'magic': expected off | cheap | thorough" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_ends_in_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "x")
    assert main(["run", CHECKPOINT, "--repair", "cheap", "--save-repairs", folder, *SMALL]) == 3
    assert "can't be written" in capsys.readouterr().err


def test_a_run_writes_what_it_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", CHECKPOINT, "--repair", "cheap", "--save-repairs", str(tmp_path), "-f", "json", *SMALL]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["repair"]["mode"] == "cheap"
    assert [row["repair_gap"]["value"] > 0 for row in report["layers"]] == [True] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"layer-00{layer}.safetensors" for layer in range(1, 5)]
