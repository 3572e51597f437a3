"""Files that are none: whoever opens one is told, and doesn't wait."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from peelaudit.cli import main
from peelaudit.plain_files import read_plain
from peelaudit.records.json import export, read_report
from tests.factories import make_report
from tests.places import NANOGPT

pytestmark = [
    pytest.mark.timeout(30),
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here"),
]


def test_a_file_is_read_whole_or_so_far(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_bytes(b"abcdef")
    assert (read_plain(path), read_plain(path, 2)) == (b"abcdef", b"ab")


@pytest.mark.parametrize(
    ("make", "why"),
    [(os.mkfifo, "a pipe, a socket or a device"), (os.mkdir, "Is a directory"), (lambda _: None, "No such file")],
)
def test_what_is_no_file_is_an_error(make: Callable[[Path], None], why: str, tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(OSError, match=why):
        read_plain(tmp_path / "a")


def test_a_device_is_no_file() -> None:
    with pytest.raises(OSError, match="a pipe, a socket or a device"):
        read_plain(Path(os.devnull))


@pytest.mark.parametrize("name", ["peelaudit.toml", "pyproject.toml"])
def test_row_83_settings_that_are_a_pipe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(NANOGPT / "ckpt.pt")]) == 2
    assert f"{name} can't be read: it is a pipe" in capfd.readouterr().err


@pytest.mark.parametrize("command", [["check", "--fail-on", "red"], ["convert", "-o", "a.csv"]])
def test_row_83_a_report_that_is_a_pipe(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "a.json")
    monkeypatch.chdir(tmp_path)
    assert main([command[0], "a.json", *command[1:]]) == 3
    assert "a.json can't be read: it is a pipe" in capfd.readouterr().err


def test_a_report_is_read_as_before(tmp_path: Path) -> None:
    (path := tmp_path / "a.json").write_text(export(make_report()))
    assert read_report(path) == make_report()
