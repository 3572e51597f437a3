"""A batch's table: every state, hostile names, narrow and wide."""

from __future__ import annotations

import pytest

from peelaudit.records import TaskRow, TaskState
from peelaudit.reports.terminal import render_tasks
from tests.factories import TASK_FIGURES

ROWS = (
    TaskRow(
        "runs/" + "deep/" * 30 + "ckpt-1200.pt", TaskState.DONE, 0, report="tasks/k/report.json", figures=TASK_FIGURES
    ),
    TaskRow("a\x1b[31m\n.pt", TaskState.FAILED, 3, reason="torn \x1b[1m"),
    TaskRow("b.pt", TaskState.RUNNING),
    TaskRow("c.pt", TaskState.PENDING),
)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_fits_and_hides_no_row(width: int) -> None:
    text = render_tasks(ROWS, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.startswith("4 checkpoints: 1 done, 1 failed, 1 running, 1 pending\n")
    assert "\x1b" not in text
    assert r"failed a\x1b[31m\n.pt: torn \x1b[1m" in text
    assert "✗ red" in text
    assert "ckpt-1200.pt" in text
    assert ("+0.100..+0.300" in text) == (width >= 100)


def test_nothing() -> None:
    assert render_tasks(()) == "0 checkpoints\n"


def test_ascii() -> None:
    render_tasks(ROWS, encoding="ascii").encode("ascii")
