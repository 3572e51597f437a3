"""Where a report goes: targets by their suffix or format, and what the terminal can show."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from peelaudit.cli.output import Target, paper, parse_targets
from peelaudit.errors import ConfigError
from peelaudit.reports.formats import Format
from tests.cli.support import Terminal


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("a.json", Target(Format.JSON, Path("a.json"))),
        ("x/A.MD", Target(Format.MARKDOWN, Path("x/A.MD"))),
        ("a=b.csv", Target(Format.CSV, Path("a=b.csv"))),
        ("table=report", Target(Format.TABLE, Path("report"))),
        ("json=a=b.csv", Target(Format.JSON, Path("a=b.csv"))),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_targets([text]) == (target,)


@pytest.mark.parametrize(
    ("texts", "count"), [(["a"], 1), (["json="], 1), (["", "x.pdf"], 2), (["a.json", "csv=./a.json"], 1)]
)
def test_unusable_targets(texts: list[str], count: int) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_targets(texts)
    assert len(caught.value.problems) == count


@pytest.mark.parametrize(
    ("environ", "terminal", "colour"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
    ],
)
def test_colour(environ: dict[str, str], terminal: bool, colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal() if terminal else io.StringIO())
    found = paper()
    assert (found.colour, found.width) == (colour, 80)
