"""The terminal's progress, in process: a bar that comes late and goes, lines elsewhere, nothing where it can't be."""

from __future__ import annotations

import time

import pytest

from peelaudit.cli.progress import BarProgress, LineProgress, progress_on
from peelaudit.progress import SILENT, Clock
from tests.cli.support import Terminal


def test_bar_comes_after_the_delay_and_goes() -> None:
    stream = Terminal()
    with progress_on(stream, quiet=False, delay_s=0.05) as progress:
        assert isinstance(progress, BarProgress)
        progress.stage("first [red]", 3)
        assert stream.getvalue() == ""
        time.sleep(0.3)
        progress.advance(2)
        progress.stage("second", 0)
        progress.advance()
    assert "first [red]" in stream.getvalue()
    shown = stream.getvalue()
    time.sleep(0.2)
    assert stream.getvalue() == shown


def test_short_work_shows_nothing() -> None:
    stream = Terminal()
    with progress_on(stream, quiet=False) as progress:
        progress.stage("first", 3)
    assert stream.getvalue() == ""


def test_silent_where_asked_or_nowhere_to_show() -> None:
    with progress_on(Terminal(), quiet=True) as progress:
        assert progress is SILENT
    with progress_on(None, quiet=False) as progress:
        assert progress is SILENT


def test_a_terminal_that_broke_does_not_stop_the_audit() -> None:
    written: list[str] = []

    class Broken(Terminal):
        def write(self, text: str) -> int:
            written.append(text)
            raise BrokenPipeError

    with progress_on(Broken(), quiet=False, delay_s=0) as progress:
        time.sleep(0.05)
        progress.stage("first", 3)
        progress.advance()
    assert written


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress()
    progress.stage("first", 1)
    progress.begin()
    progress.advance()
    progress.stage("second", 1)
    progress.end()
    progress.stage("third", 1)
    assert capsys.readouterr().err == "peelaudit: first\npeelaudit: second\n"


def test_the_bar_moves_within_a_step_with_what_was_computed() -> None:
    stream, done = Terminal(), [1.0]
    with progress_on(stream, quiet=False, delay_s=0.01) as progress:
        clock = Clock(progress)
        clock.metered(lambda: done[0])
        clock.stage("a long one", 1)
        time.sleep(0.3)
        done[0] = 2.5
        time.sleep(0.3)
    assert "1.0 passes" in stream.getvalue()
    assert "2.5 passes" in stream.getvalue()


def test_what_is_left_is_told_once_a_pass_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, done = [100.0], [20.0]
    monkeypatch.setattr("peelaudit.cli.progress.time.monotonic", lambda: now[0])
    progress = LineProgress()
    progress.begin()
    progress.metered(lambda: done[0], 120.0)  # 20 by an earlier process, which tell nothing of this one's speed
    for passes, later in ((20.5, 1.0), (30.0, 20.0), (70.0, 100.0), (119.0, 200.0), (121.0, 210.0)):
        done[0], now[0] = passes, 100.0 + later
        progress.stage("peeling", 1)
    assert capsys.readouterr().err.splitlines() == [
        "peelaudit: peeling (20.5 of ~120 passes)",
        "peelaudit: peeling (30.0 of ~120 passes, ~3 min left)",
        "peelaudit: peeling (70.0 of ~120 passes, ~2 min left)",
        "peelaudit: peeling (119.0 of ~120 passes, ~2 s left)",
        "peelaudit: peeling (121.0 passes)",
    ]


def test_the_bar_is_one_line_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream, done = Terminal(), [0.0]
    with progress_on(stream, quiet=False, delay_s=0.01) as progress:
        clock = Clock(progress)
        clock.metered(lambda: done[0], 148.0)
        clock.stage("what sequences begin with", 30)
        done[0] = 110.0
        time.sleep(0.3)
    shown = [line for line in stream.getvalue().splitlines() if "110.0" in line]
    assert shown
    assert all("left" in line for line in shown)
