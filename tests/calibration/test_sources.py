import hashlib
from pathlib import Path

import numpy as np
import pytest

from peelaudit.calibration.finding import find_parts
from peelaudit.calibration.sources import POOL_BYTES, SourceFile, budgets, sha256_of_files
from peelaudit.errors import CalibrationError
from tests.calibration.support import load

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


def test_budgets_leave_small_files_whole_and_share_the_rest() -> None:
    sizes = [POOL_BYTES * 4, 1000, POOL_BYTES * 2]
    sources = [SourceFile(Path(f"{size}"), f"{size}", "txt", size, 0) for size in sizes]
    shares = budgets(sources, tokens=16)
    assert shares[1] == 1000
    assert shares[0] == shares[2] == (POOL_BYTES - 1000) // 2
