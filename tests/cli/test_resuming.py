"""Audits that are killed: begun again they go on, and their report is the one of an audit that nobody disturbed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from peelaudit.auditing.caching import Cache
from peelaudit.cli import main
from tests.cli.support import call
from tests.fleet.support import QUICK, write_model
from tests.places import NANOGPT

SMALL = ["--tokens", "768", "--seq-len", "32", "--resamples", "100"]
STAGES = {"trained readouts", "peel map", "reference blocks", "refined reference", "layers' gaps", "slopes"}


def disturbed(folder: Path, moments: int, checkpoint: Path, *arguments: str) -> list[dict[str, Any]]:
    """What came of killing an audit at so many moments, see `tests.cli.killed`."""
    command = [sys.executable, "-m", "tests.cli.killed", str(folder), str(moments), "run", str(checkpoint), *arguments]
    done = call(command, cwd=folder, timeout=3000)
    assert done.returncode == 0, done.stderr
    outcome = json.loads((folder / "outcome.json").read_text())
    for one in outcome:
        assert one["killed"] == -9, one
        assert one["code"] == 0, one
        assert one["same"], one
        assert one["left_after"] == [], one
    return outcome  # type: ignore[no-any-return]


def test_row_60_an_audit_that_is_killed_goes_on_to_the_same_report(tmp_path: Path) -> None:
    path = write_model(tmp_path / "models/a.pt", seed=1, layers=2)
    first, middle, last = disturbed(tmp_path, 3, path, *SMALL, "--schedules", "refined;final")
    assert 0 <= first["saved"] < middle["saved"] < last["saved"] < 1


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("moments", "settings"),
    [
        pytest.param(24, [], id="default"),
        pytest.param(4, ["--effort", "quick"], id="quick"),
        pytest.param(4, ["--solver", "adam", "--steps", "20", "--bits", "ternary", "--float-reference"], id="low-bit"),
    ],
)
def test_an_audit_may_be_killed_in_every_stage(moments: int, settings: list[str], tmp_path: Path) -> None:
    few = ["--schedules", "refined;direct;final;2,2,3,4"]
    outcome = disturbed(tmp_path, moments, NANOGPT / "ckpt-000250.pt", *SMALL, *few, *settings)
    if not settings:
        assert len(outcome) >= 20
        assert {one["stage"] for one in outcome} >= STAGES


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEELAUDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PEELAUDIT_RESUME_AFTER", "0")
    return tmp_path / "cache"


def test_the_cache_says_where_it_is_and_what_it_holds(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"{cache}\n0 unfinished audits, 0.0 MB of 1,074 MB\n"
    Cache(cache).folder("a" * 32).write("x", "a" * 2_000_000)
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == f"{cache}\n1 unfinished audit, 2.0 MB of 1,074 MB, removed\n"
    assert list(cache.iterdir()) == []


def test_without_a_place_for_a_cache_that_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PEELAUDIT_CACHE", "XDG_CACHE_HOME", "HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["cache"]) == 2
    assert "PEELAUDIT_CACHE names one" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "batch"])
def test_a_patience_that_is_none_is_a_mistake_in_the_settings(
    command: str, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEELAUDIT_RESUME_AFTER", "soon")
    extra = ["--out", str(cache)] if command == "batch" else []
    assert main([command, "c", "--tokens", "none", *extra]) == 2
    told = capsys.readouterr().err
    assert "PEELAUDIT_RESUME_AFTER is 'soon': expected seconds" in told
    assert "--tokens" in told


@pytest.mark.parametrize("command", ["run", "batch"])
@pytest.mark.parametrize("resume", [True, False])
def test_what_is_kept_goes_with_the_report(
    command: str,
    resume: bool,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_model(tmp_path / "models/a.pt", seed=1)
    extra = ["--out", str(tmp_path / "results")] if command == "batch" else []
    switch = [] if resume else ["--no-resume"]
    assert main([command, str(path), *QUICK, *extra, *switch]) == 0
    assert cache.exists() == resume
    assert not list(cache.glob("*"))
