"""A directory is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peelaudit.checkpoints.placing import placed
from peelaudit.errors import OutputError


def test_it_takes_its_place_at_the_end(tmp_path: Path) -> None:
    with placed(tmp_path / "out") as made:
        (made / "a").write_text("new")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~_mask()


def test_what_was_there_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").touch()
    with placed(tmp_path / "out") as made:
        (made / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_of_what_fails(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), placed(tmp_path / "out"):
        raise error
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="out can't be written: No space left"), placed(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
