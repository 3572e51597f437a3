import os
from pathlib import Path

import pytest

from peelaudit.calibration.finding import find_parts
from tests.calibration.support import load, refusal

TEXT = "\f".join(f"document {number} " + "abc def " * 20 for number in range(60))


def test_a_missing_file_a_directory_without_data_and_an_unknown_suffix_are_named(tmp_path: Path) -> None:
    assert "missing.txt: the calibration data can't be read: No such file" in refusal(
        tmp_path, tmp_path / "missing.txt"
    )
    (empty := tmp_path / "nothing").mkdir()
    assert "nothing: the directory holds no .txt, .jsonl" in refusal(tmp_path, empty)
    (odd := tmp_path / "notes.docx").write_text("abc")
    assert "notes.docx: calibration data are .txt" in refusal(tmp_path, odd)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl", "a.npy", "a.bin", "a.parquet"):
        (path := tmp_path / name).touch()
        assert refusal(tmp_path, path) == f"{path}: the file is empty"


@pytest.mark.timeout(10)
def test_a_fifo_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "pipe.txt")
    assert refusal(tmp_path, fifo).endswith("expected a file of calibration data, found a FIFO")


def test_a_device_is_not_opened(tmp_path: Path) -> None:
    (device := tmp_path / "zero.bin").symlink_to("/dev/zero")
    assert refusal(tmp_path, device).endswith("found a device")


def test_control_characters_of_a_name_are_escaped(tmp_path: Path) -> None:
    (path := tmp_path / "a\n\x1b[31m.txt").touch()
    assert "a\\n\\x1b[31m.txt: the file is empty" in refusal(tmp_path, path)


def test_a_directory_is_read_sorted_recursive_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/y.jsonl", ".hidden.txt", ".git/c.txt", "readme.md", "info.json"):
        (path := tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    names = [source.name for source in find_parts([str(tmp_path / "data")], tmp_path)[0].sources]
    assert names == ["a/y.jsonl", "a/z.txt", "b.txt"]


def test_each_file_of_a_directory_is_at_least_a_document(tmp_path: Path) -> None:
    (data := tmp_path / "data").mkdir()
    for number in range(12):
        (data / f"{number}.txt").write_text(f"text number {number} " * 20)
    info = load(tmp_path, data).info
    assert (info.unit, info.documents, info.source) == ("document", 12, str(data))


def test_without_data_a_calibration_file_beside_the_checkpoint_is_taken(tmp_path: Path) -> None:
    (tmp_path / "calibration.txt").write_text(TEXT)
    calibration = load(tmp_path)
    assert calibration.info.source == str(tmp_path / "calibration.txt")
    assert calibration.info.kind == "txt"
    assert not any("generic" in warning for warning in calibration.warnings)


def test_a_file_that_may_not_be_read_is_told_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / "a.txt").write_text(TEXT)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read all
    assert refusal(tmp_path, path) == f"{path}: the calibration data can't be read: Permission denied"
