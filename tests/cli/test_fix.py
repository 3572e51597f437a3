"""`peelaudit fix` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peelaudit.cli import main
from tests.places import NANOGPT

CHECKPOINT = str(NANOGPT / "ckpt-000250.pt")
SMALL = ["--tokens", "3072", "--seq-len", "32", "--resamples", "200", "--effort", "quick", "-q"]


def test_a_fix_says_what_it_wrote(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["fix", CHECKPOINT, "-o", str(out), *SMALL]) == 0
    text = capsys.readouterr().out
    told = json.loads((out / "peelaudit-fix.json").read_text())
    assert f"gain         {told['gain']['value']:+.3f}".replace(" ", "") in text.replace(" ", "")
    assert {path.name for path in out.iterdir()} == {"ckpt-000250.pt", "meta.pkl", "peelaudit-fix.json"}
    assert main(["fix", CHECKPOINT, "-o", str(out), "--force", "-f", "json", *SMALL]) == 0
    assert json.loads(capsys.readouterr().out) == told


def test_where_nothing_gains_the_exit_code_is_4(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wish = ["--layers", "2", "--tokens", "1024", "--seq-len", "32", "-q"]
    assert main(["fix", str(NANOGPT / "ckpt.pt"), "-o", str(tmp_path / "out"), *wish]) == 4
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_all_mistakes_are_told_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wish = ["--layers", "x", "--untie", "-f", "csv"]
    assert main(["fix", CHECKPOINT, "-o", str(tmp_path / "out"), *wish]) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in ("--format", "--untie", "[x] names no layers"))
