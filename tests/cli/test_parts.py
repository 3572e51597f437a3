"""The command line's parts, in process: output targets, the terminal's progress, `inspect`."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest
import torch

from peelaudit.cli import main
from peelaudit.cli.output import Target, paper, parse_targets
from peelaudit.cli.progress import BarProgress, LineProgress, progress_on
from peelaudit.errors import ConfigError
from peelaudit.progress import SILENT
from peelaudit.reports.formats import Format
from tests.checkpoints import models
from tests.places import FIXTURES


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


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


def test_inspect(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    fixture = str(FIXTURES / "nanogpt/ckpt.pt")
    assert main(["inspect", fixture]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert "323 k" in text
    assert "c_attn" not in text
    assert main(["inspect", fixture, "--tensors"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert "240×80" in text
    assert "grid" not in text
    assert main(["inspect", fixture, "-f", "json", "--tensors"]) == 0
    assert b'"grid": null' in capfdbinary.readouterr().out


def test_inspect_shows_the_grids_of_low_bit_tensors(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    model = models.model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight.sign_().mul_(0.5)
    models.save(model, tmp_path / "model")
    assert main(["inspect", str(tmp_path / "model"), "--tensors"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert text.count("binary per tensor") == 2
    assert "0.0%" in text
