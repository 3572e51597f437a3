"""Files are written whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from peelaudit.errors import OutputError
from peelaudit.reports.writing import check_writable, write_whole


def test_replaces_and_keeps_permissions(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    path.chmod(0o640)
    write_whole(path, "new é\udcff\n")
    assert path.read_text() == "new é\\udcff\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_new_file_has_the_umasks_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "report.csv", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "report.csv").stat().st_mode) == 0o640


def test_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.md").write_text("old")
    (tmp_path / "link.md").symlink_to(tmp_path / "real.md")
    write_whole(tmp_path / "link.md", "new")
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "real.md").read_text() == "new"


@pytest.mark.parametrize("attempt", [check_writable, lambda path: write_whole(path, "x")])
@pytest.mark.parametrize(
    ("name", "message"), [("no/such/report.json", "there is no directory"), ("file/x.json", "Not a")]
)
def test_missing_directory(attempt, name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=message):
        attempt(tmp_path / name)


def test_directory_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a directory"):
        check_writable(tmp_path)


def test_check_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []


def test_device_is_written_in_place() -> None:
    check_writable(Path("/dev/null"))
    write_whole(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_row_59_full_disk_on_a_device() -> None:
    with pytest.raises(OutputError, match="No space left"):
        write_whole(Path("/dev/full"), "text")


def test_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def killed_while_writing(path: Path, hours: float) -> Path:
    """What a process leaves that is killed before it is done, so many hours ago."""
    before = set(path.parent.iterdir())
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.fsync = lambda _: (os.write(write, b"x"), signal.pause())
        write_whole(path, "half")
    os.read(read, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = set(path.parent.iterdir()) - before
    os.utime(left, (0, time.time() - 3600 * hours))
    return left


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process has to be killed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_killed_run_left_is_cleared_once_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    old, fresh = (killed_while_writing(path, hours) for hours in (1.1, 0.9))
    other = killed_while_writing(tmp_path / "other.json", 1.1)
    (link := old.with_name(f"{old.name[:-12]}00000000.tmp")).symlink_to(old)
    os.utime(link, (0, 0), follow_symlinks=False)
    (longer := old.with_name(f"{old.name[:-12]}000000000.tmp")).write_text("")
    os.utime(longer, (0, 0))
    check_writable(path)
    assert not old.exists()
    assert sorted(tmp_path.iterdir()) == sorted([fresh, other, link, longer])
