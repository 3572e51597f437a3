import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from peelaudit.calibration.finding import find_parts
from peelaudit.calibration.sources import POOL_BYTES, SourceFile, budgets, sha256_of_files
from peelaudit.errors import CalibrationError
from tests.calibration.support import character_tokenizer, load

TEXT = "\f".join(f"document {number} " + "abc def " * 20 for number in range(60))


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
    sources = find_parts([str(path)], tmp_path)[0].sources
    path.write_text(TEXT + "more")
    with pytest.raises(CalibrationError, match="was changed while it was read"):
        sha256_of_files(sources)


def test_a_file_that_is_replaced_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_text(TEXT)
    before = path.stat()
    sources = find_parts([str(path)], tmp_path)[0].sources
    (other := tmp_path / "b.txt").write_text(TEXT.replace("abc", "cba"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    with pytest.raises(CalibrationError, match="was changed while it was read"):
        sha256_of_files(sources)


def test_files_are_held_to_what_was_read(tmp_path: Path) -> None:
    (first := tmp_path / "1.txt").write_text(TEXT)
    (second := tmp_path / "2.txt").write_text("more\f" + TEXT)
    found = load(tmp_path, first, second)
    found.check_unchanged()
    second.touch()
    found.check_unchanged()
    before = second.stat()
    second.write_text("less\f" + TEXT)
    os.utime(second, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CalibrationError, match=r"2\.txt: the calibration data were edited, replaced or removed"):
        found.check_unchanged()


@pytest.mark.parametrize("put", [lambda path: None, os.mkfifo, os.mkdir], ids=["nothing", "a FIFO", "a directory"])
def test_a_file_that_gives_way_to_something_else(put: Callable[[Path], None], tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_text(TEXT)
    found = load(tmp_path, path)
    path.unlink()
    put(path)
    with pytest.raises(CalibrationError, match="edited, replaced or removed"):
        found.check_unchanged()


def test_the_built_in_text_has_no_files_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = tuple(f"a text of its own, {number}. " * 20 for number in range(100))
    monkeypatch.setattr("peelaudit.calibration.corpus.default_documents", lambda: documents)
    character_tokenizer(tmp_path)
    found = load(tmp_path)
    assert found.info.kind == "default"
    found.check_unchanged()


def test_budgets_leave_small_files_whole_and_share_the_rest() -> None:
    sizes = [POOL_BYTES * 4, 1000, POOL_BYTES * 2]
    sources = [SourceFile(Path(f"{size}"), f"{size}", "txt", size, ()) for size in sizes]
    shares = budgets(sources, tokens=16)
    assert shares[1] == 1000
    assert shares[0] == shares[2] == (POOL_BYTES - 1000) // 2
