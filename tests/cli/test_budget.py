"""`peelaudit budget`: what it prints and writes, and mistakes as sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from peelaudit.cli import main
from peelaudit.records.budget import Budget
from peelaudit.records.json import load
from tests.places import FIXTURES, NANOGPT

CKPT = str(NANOGPT / "ckpt.pt")
SMALL = ["--tokens", "1024", "--seq-len", "32", "--resamples", "100", "--widths", "2,3,4", "-q"]


def test_a_page_on_stdout_and_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("plan.json", "plan.txt", "plan.tensor-types", "types")]
    files = ["-o", str(paths[0]), "-o", str(paths[1]), "-o", str(paths[2]), "-o", f"llama.cpp={paths[3]}"]
    assert main(["budget", CKPT, "--average", "3", *files, *SMALL]) == 0
    told = capsys.readouterr()
    assert "3 bits evenly" in told.out
    assert told.err == ""
    assert paths[1].read_text(encoding="utf-8") == told.out
    found = load(paths[0].read_text(), Budget)
    assert found.widths == (2, 3, 4)
    assert found.chosen.bits <= 3
    lines = paths[2].read_text().splitlines()
    assert len(lines) == len(found.rows) == 4 * 4
    assert lines[0].startswith("blk.0.attn_qkv.weight=q")
    assert paths[3].read_text() == paths[2].read_text()


@pytest.mark.parametrize(("form", "begins"), [("json", "{"), ("llama.cpp", "blk.0.attn_qkv.weight=")])
def test_other_formats_on_stdout(form: str, begins: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["budget", CKPT, "--average", "2.5", "-f", form, "--passes", "1", *SMALL]) == 0
    assert capsys.readouterr().out.startswith(begins)


def test_a_warning_on_stderr_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["budget", CKPT, "--average", "3", "--passes", "1", *SMALL[:-1]]) == 0
    assert "warning: only 17 documents" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--average", "1.9"], "--average is '1.9': expected bits of a weight, from 2 to 4 as --widths has them"),
        (["--average", "nan"], "--average is 'nan'"),
        (["--average", "many"], "--average is 'many'"),
        (["--widths", "2,7"], "--widths is '2,7': expected two or more of 2, 3, 4, 5, 6, 8"),
        (["--widths", "3,3"], "--widths is '3,3'"),
        (["--group", "0"], "--group is '0': expected how many inputs share a scale, 1 or more"),
        (["--group", "row"], "--group is 'row'"),
        (["--passes", "0"], "--passes is '0': expected forward passes, 1 or more, or all"),
        (["-f", "html"], "--format is 'html': expected table | json | llama.cpp"),
        (["-o", "x.md"], "--output is 'x.md': expected a path that ends in .txt, .json, .tensor-types, or FORMAT=PATH"),
        (["--tokens", "none"], "--tokens is 'none'"),
    ],
)
def test_mistakes_are_sentences(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["budget", CKPT, "--average", "3", *SMALL, *flags]) == 2
    assert words in capsys.readouterr().err


def test_all_mistakes_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["budget", CKPT, "--average", "9", "--group", "x", "--seed", "-1", *SMALL]) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in ("--average is '9'", "--group is 'x'", "--seed is -1"))


def test_a_low_bit_network_is_not_completed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["budget", str(FIXTURES / "llama-ternary"), "--average", "3", *SMALL]) == 3
    assert "it is low-bit already" in capsys.readouterr().err
