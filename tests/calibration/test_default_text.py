import sys
from pathlib import Path

import pytest

from peelaudit.calibration import default_text
from peelaudit.calibration.default_text import default_documents, sha256_of_texts
from peelaudit.errors import CalibrationError
from tests.calibration.support import character_tokenizer, load


def test_the_built_in_text_is_generic_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)
    documents = default_documents()
    assert set(sys.modules) - before <= {"unicodedata"}
    assert 500_000 < sum(map(len, documents)) < 2_000_000
    assert len(documents) > 100
    monkeypatch.setattr("peelaudit.calibration.corpus.default_documents", lambda: documents)
    character_tokenizer(tmp_path, "".join(sorted(set("".join(documents)))))
    calibration = load(tmp_path, tokens=16_384, vocabulary=5000)
    info = calibration.info
    assert info.source.startswith("built-in: docstrings of Python 3.")
    assert (info.kind, info.unit, info.sha256) == ("default", "document", sha256_of_texts(documents))
    assert "the verdict is about generic English" in calibration.warnings[0]


def test_a_python_without_sources_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_text.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(CalibrationError, match="there is no standard library to take a default text from"):
        default_documents()
