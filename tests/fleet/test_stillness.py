"""Which checkpoints lie still: on files that are written in pieces, paused, mended, removed."""

from __future__ import annotations

import os
from pathlib import Path

from peelaudit.fleet.stillness import Stillness
from peelaudit.records import TaskRow, TaskState


def grow(path: Path, data: bytes = b"x") -> None:
    with path.open("ab") as file:
        file.write(data)


def failed(path: Path) -> TaskRow:
    return TaskRow(str(path), TaskState.FAILED, exit_code=3, reason="truncated")


def test_a_file_is_ready_once_it_has_lain_still_and_only_once(tmp_path: Path) -> None:
    path, still = tmp_path / "a.pt", Stillness(5)
    for second in range(10):
        grow(path)
        assert still.look([str(path)], second)
        assert still.ready(second) == ()
    assert not still.look([str(path)], 13)
    assert still.ready(13) == ()
    assert still.ready(14) == (str(path),)
    still.tried([str(path)])
    assert still.ready(99) == ()
    assert not still.waiting()


def test_a_file_that_is_written_over_is_ready_again(tmp_path: Path) -> None:
    path, still = tmp_path / "a.pt", Stillness(5)
    path.write_bytes(b"one")
    still.look([str(path)], 0)
    still.tried(still.ready(5))
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "new").replace(path)
    assert still.look([str(path)], 6)
    assert (still.ready(10), still.ready(11)) == ((), (str(path),))


def test_what_failed_is_told_once_it_has_lain_still_and_forgotten_if_it_changes(tmp_path: Path) -> None:
    path, still = tmp_path / "a.pt", Stillness(5)
    grow(path)
    still.look([str(path)], 0)
    still.tried(still.ready(5))
    still.failed(failed(path), 6)
    assert still.waiting()
    assert list(still.lost(10)) == []
    grow(path)  # its writer had only paused
    still.look([str(path)], 10)
    assert list(still.lost(99)) == []
    still.tried(still.ready(15))
    still.failed(failed(path), 16)
    still.look([str(path)], 21)
    assert list(still.lost(21)) == [failed(path)]
    assert list(still.lost(99)) == []
    assert not still.waiting()


def test_what_is_removed_is_lost_if_it_was_tried_alone(tmp_path: Path) -> None:
    path, still = tmp_path / "a.pt", Stillness(5)
    grow(path)
    still.look([str(path)], 0)
    still.look([], 1)  # a name that its writer gave it meanwhile
    assert list(still.lost(1)) == []
    still.look([str(path)], 2)
    still.tried(still.ready(7))
    still.failed(failed(path), 7)
    still.look([], 8)
    assert list(still.lost(8)) == [failed(path)]
    assert not still.waiting()


def test_of_a_directory_the_weights_count_and_growing_logs_and_further_checkpoints_do_not(tmp_path: Path) -> None:
    still = Stillness(5)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x")
    still.look([str(tmp_path)], 0)
    grow(tmp_path / "train.log")
    (tmp_path / "checkpoint-5").mkdir()
    grow(tmp_path / "checkpoint-5/model.safetensors")
    assert not still.look([str(tmp_path)], 1)
    for name in ("model-00002-of-00002.safetensors", "trainer_state.json", ".metadata", "__0_0.distcp"):
        grow(tmp_path / name)
        assert still.look([str(tmp_path)], 2), name


def test_every_part_of_a_split_file_and_its_configuration_count(tmp_path: Path) -> None:
    still, first = Stillness(5), tmp_path / "m-00001-of-00002.gguf"
    grow(first)
    still.look([str(first)], 0)
    for name in ("m-00002-of-00002.gguf", "config.json"):
        grow(tmp_path / name)
        assert still.look([str(first)], 1), name


def test_a_changed_time_is_a_change_whatever_the_size(tmp_path: Path) -> None:
    path, still = tmp_path / "a.pt", Stillness(5)
    path.write_bytes(b"full length from the start")
    still.look([str(path)], 0)
    os.utime(path, ns=(1, 1))
    assert still.look([str(path)], 1)
