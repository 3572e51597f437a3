"""`peelaudit diff`: what it prints and writes, its gate, and mistakes as sentences."""

from __future__ import annotations

import html
import shlex
from pathlib import Path

import pytest
import torch

from peelaudit.cli import main
from peelaudit.records.difference import Difference
from peelaudit.records.json import load
from tests.places import FIXTURES, NANOGPT

BASE, NEW = str(NANOGPT / "ckpt.pt"), str(NANOGPT / "ckpt-001200.pt")
SMALL = ["--tokens", "1024", "--seq-len", "32", "--resamples", "100", "-q"]


def test_a_page_on_stdout_and_files_of_all_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [word for suffix in ("json", "txt", "md", "html") for word in ("-o", str(tmp_path / f"diff.{suffix}"))]
    assert main(["diff", BASE, NEW, *files, *SMALL]) == 0
    told = capsys.readouterr()
    assert "above BASE's" in told.out
    assert told.err == ""
    assert (tmp_path / "diff.txt").read_text(encoding="utf-8") == told.out
    found = load((tmp_path / "diff.json").read_text(), Difference)
    assert found.whole.low > 0
    assert [row.layer for row in found.rows] == [None, 1, 2, 3, 4, None]
    assert (tmp_path / "diff.md").read_text(encoding="utf-8").startswith("## peelaudit: NEW's loss is")
    page = (tmp_path / "diff.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    line = shlex.split(html.unescape(page.partition("<pre><code>peelaudit diff ")[2].partition("</code>")[0]))
    assert main(["diff", *line, "-q", "-f", "json"]) == 0
    again = load(capsys.readouterr().out, Difference)
    assert (again.settings, again.rows, again.whole) == (found.settings, found.rows, found.whole)


def test_json_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", BASE, BASE, "-f", "json", "--passes", "all", *SMALL]) == 0
    assert load(capsys.readouterr().out, Difference).whole.value == 0


@pytest.mark.parametrize(("limit", "code"), [("0.001", 1), ("5", 0)])
def test_the_gate_fails_by_the_whole_interval(limit: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", BASE, NEW, "--fail-over", limit, *SMALL]) == code
    told = capsys.readouterr()
    assert "above BASE's" in told.out
    assert ("gate failed: over 0.001 nats/token: NEW costs +" in told.err) is (code == 1)


def test_a_warning_on_stderr_unless_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(torch.load(BASE, weights_only=True), tmp_path / "ckpt.pt")
    assert main(["diff", BASE, str(tmp_path / "ckpt.pt"), *SMALL[:-1]]) == 0
    assert "has no tokenizer that can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--passes", "0"], "--passes is '0': expected forward passes, 1 or more, or all"),
        (["--passes", "nan"], "--passes is 'nan'"),
        (["--fail-over", "-1"], "--fail-over is '-1': expected nats/token, 0 or more"),
        (["-f", "csv"], "--format is 'csv': expected table | json | markdown | html"),
        (["-o", "x.csv"], "--output is 'x.csv': a difference is written as table, json, markdown or html"),
        (["--tokens", "none"], "--tokens is 'none'"),
    ],
)
def test_mistakes_are_sentences(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", BASE, NEW, *SMALL, *flags]) == 2
    assert words in capsys.readouterr().err


def test_another_architecture_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", BASE, str(FIXTURES / "llama"), *SMALL]) == 2
    assert "are not of one architecture: family gpt2 and llama" in capsys.readouterr().err


def test_a_missing_checkpoint_is_not_completed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", BASE, str(tmp_path / "nowhere"), *SMALL]) == 3
    assert "nowhere" in capsys.readouterr().err


def test_a_directory_around_a_checkpoint_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside = tmp_path / "ckpt.pt"
    inside.write_bytes((NANOGPT / "ckpt.pt").read_bytes())
    assert main(["diff", str(NANOGPT / "ckpt.pt"), str(tmp_path)]) == 3
    assert f"holds one checkpoint, {inside}: name that" in capsys.readouterr().err
