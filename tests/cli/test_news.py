"""What a batch says while it is at work."""

from __future__ import annotations

import re

import pytest

from peelaudit.cli.news import News
from peelaudit.records import TaskRow, TaskState
from tests.factories import TASK_FIGURES

BEGUN = TaskRow("run/a\n.pt", TaskState.RUNNING)
WAITS = TaskRow("b.pt", TaskState.RUNNING, reason="another process audits it")
FAILED = TaskRow("run/a\n.pt", TaskState.FAILED, exit_code=3, reason="torn")
DONE = TaskRow("b.pt", TaskState.DONE, exit_code=0, figures=TASK_FIGURES)


def told(*rows: TaskRow, terminal: bool, capsys: pytest.CaptureFixture[str]) -> list[str]:
    news = News(["run/a\n.pt", "b.pt"], terminal=terminal)
    for row in rows:
        news.tell(row)
    return [re.sub(r"in \d+\.\d s", "in 1 s", line) for line in capsys.readouterr().err.splitlines()]


def test_a_log_has_a_line_as_each_begins_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(BEGUN, WAITS, FAILED, DONE, terminal=False, capsys=capsys) == [
        r"peelaudit: 1 of 2 begins: run/a\n.pt",
        "peelaudit: 2 of 2 waits: b.pt: another process audits it",
        r"peelaudit: 1 of 2 failed in 1 s: run/a\n.pt: torn",
        f"peelaudit: 2 of 2 done: b.pt: verdict {TASK_FIGURES.verdict}",
    ]


def test_a_terminal_has_its_bar_and_the_failures(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(BEGUN, FAILED, DONE, terminal=True, capsys=capsys) == [r"peelaudit: failed: run/a\n.pt: torn"]
