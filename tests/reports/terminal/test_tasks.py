"""A batch's table: every state, hostile names, narrow and wide."""

from __future__ import annotations

import dataclasses

import pytest

from peelaudit.records import Estimate, TaskRow, TaskState
from peelaudit.reports.terminal import render_tasks
from tests.factories import TASK_FIGURES, make_estimate

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
    assert "+0.200 +0.100..+0.300" in text
    assert ("3.900" in text) == (width >= 100)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_named_layers_have_a_column_and_a_rivals_margin_where_there_is_room(width: int) -> None:
    figures = dataclasses.replace(
        TASK_FIGURES, training_step=120000, gap_layers=Estimate(-99.999, -99.999, -12.345), named=(3, 12, 14)
    )
    margin = dataclasses.replace(figures, margin=make_estimate(0.12), named=(3, 12))
    rows = [*ROWS, TaskRow("a.pt", TaskState.DONE, 0, figures=figures), TaskRow("b.pt", TaskState.DONE, figures=margin)]
    lines = render_tasks(rows, width=width).splitlines()
    assert max(map(len, lines)) <= width
    ends = [line.split("red", 1)[1] for line in lines if "✗ red" in line]
    assert [end.strip() for end in ends] == ["", "3, 12, …", "3, 12"]
    assert sum("+0.120" in line for line in lines) == (width >= 100)
    assert not any("layers" in line.split() for line in render_tasks(ROWS, width=width).splitlines())


def test_nothing() -> None:
    assert render_tasks(()) == "0 checkpoints\n"


def test_ascii() -> None:
    render_tasks(ROWS, encoding="ascii").encode("ascii")
