import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from peelaudit.calibration.sources import POOL_BYTES, SourceFile, budgets, find_sources, sha256_of_files
from peelaudit.errors import CalibrationError
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
    for name in ("b.txt", "a/z.txt", "a/y.jsonl", ".hidden.txt", ".git/c.txt", "readme.md"):
        (path := tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    names = [source.name for source in find_sources([str(tmp_path / "data")], tmp_path)]
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


def test_the_hash_is_of_the_file_or_of_all_names_and_hashes(tmp_path: Path) -> None:
    (first := tmp_path / "1.txt").write_text(TEXT)
    (second := tmp_path / "2.txt").write_text("more\f" + TEXT)
    one, other = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second))
    assert load(tmp_path, first).info.sha256 == one
    both = hashlib.sha256(f"{one} 1.txt\n{other} 2.txt\n".encode()).hexdigest()
    assert load(tmp_path, first, second).info.sha256 == both


def test_texts_and_token_ids_may_be_mixed(tmp_path: Path) -> None:
    (text := tmp_path / "a.txt").write_text(TEXT)
    np.save(ids := tmp_path / "b.npy", np.random.default_rng(0).integers(0, 60, (30, 64)))
    info = load(tmp_path, text, ids, tokens=10_000).info
    assert (info.kind, info.documents) == ("npy+txt", 90)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_text(TEXT)
    sources = find_sources([str(path)], tmp_path)
    path.write_text(TEXT + "more")
    with pytest.raises(CalibrationError, match="was changed while it was read"):
        sha256_of_files(sources)


def test_budgets_leave_small_files_whole_and_share_the_rest() -> None:
    sizes = [POOL_BYTES * 4, 1000, POOL_BYTES * 2]
    sources = [SourceFile(Path(f"{size}"), f"{size}", "txt", size, 0) for size in sizes]
    shares = budgets(sources, tokens=16)
    assert shares[1] == 1000
    assert shares[0] == shares[2] == (POOL_BYTES - 1000) // 2


def test_a_file_that_may_not_be_read_is_told_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / "a.txt").write_text(TEXT)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read all
    assert refusal(tmp_path, path) == f"{path}: the calibration data can't be read: Permission denied"
