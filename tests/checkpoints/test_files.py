"""Files that were hashed, told later whether they are still the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peelaudit.checkpoints.files import Snapshot, quoted, take_snapshot
from peelaudit.errors import MalformedCheckpoint
from peelaudit.progress import SILENT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"weights")
    return tmp_path / "a"


@pytest.fixture
def snapshot(path: Path) -> Snapshot:
    return take_snapshot([path], SILENT)


def test_untouched_or_only_touched(path: Path, snapshot: Snapshot) -> None:
    snapshot.check("'a'")
    os.utime(path, ns=(1, 1))
    path.with_name("b").write_bytes(b"weights")
    path.with_name("b").replace(path)
    snapshot.check("'a'")


def test_replaced(path: Path, snapshot: Snapshot) -> None:
    path.with_name("b").write_bytes(b"WEIGHTS")
    path.with_name("b").replace(path)
    with pytest.raises(MalformedCheckpoint, match="'a': was replaced"):
        snapshot.check("'a'")


def test_edited_with_the_old_time_put_back(path: Path, snapshot: Snapshot) -> None:
    before = path.stat()
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(MalformedCheckpoint):
        snapshot.check("'a'")


def test_removed(path: Path, snapshot: Snapshot) -> None:
    path.unlink()
    with pytest.raises(MalformedCheckpoint, match="removed"):
        snapshot.check("'a'")


def test_what_is_too_long_to_print_is_told_by_its_kind() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert quoted(nested) == "'a list too long to print'"
    assert quoted(10**5000) == "'a int too long to print'"
