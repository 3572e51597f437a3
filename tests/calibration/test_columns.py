import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.calibration.files import (
    by_columns,
    chat_tokenizer,
    chats,
    documents,
    in_parts,
    write_arrow,
    write_parquet,
)
from tests.calibration.support import load, refusal


def test_parquet_gives_a_document_a_row(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", text=[*documents(), None, " "], n=[*range(42)])
    info = load(tmp_path, path).info
    assert (info.kind, info.documents) == ("parquet", 40)
    assert info.available_tokens is None or info.available_tokens > 2048
    assert "there is no column 'body' (text, n)" in refusal(tmp_path, path, field="body")
    assert "the column 'n' is int64, not string" in refusal(tmp_path, path, field="n")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", text=[*documents()])
    path.write_bytes(path.read_bytes()[:-200])
    assert f"{path}: the parquet file can't be read" in refusal(tmp_path, path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'peelaudit[parquet]'" in refusal(tmp_path, path)


@pytest.mark.parametrize("whole", [False, True])
def test_arrow_gives_a_document_a_row(tmp_path: Path, whole: bool) -> None:
    rows: dict[str, list[Any]] = {"text": [*documents(), None, " "], "n": [*range(42)]}
    info = load(tmp_path, write_arrow(tmp_path / "a.arrow", whole=whole, **rows)).info
    same = load(tmp_path, write_parquet(tmp_path / "a.parquet", **rows)).info
    assert (info.kind, info.documents, info.tokens_sha256) == ("arrow", 40, same.tokens_sha256)
    assert "there is no column 'body' (text, n)" in refusal(tmp_path, tmp_path / "a.arrow", field="body")
    assert "the column 'n' is int64, not string" in refusal(tmp_path, tmp_path / "a.arrow", field="n")


@pytest.mark.parametrize("write", [write_arrow, write_parquet])
@pytest.mark.parametrize("change", [list, in_parts, by_columns])
def test_chats_may_stand_in_columns(tmp_path: Path, write: Any, change: Any) -> None:
    folder = str(chat_tokenizer(tmp_path))
    data = write(tmp_path / f"a.{write.__name__[6:]}", id=[*range(40)], messages=[change(chat) for chat in chats()])
    calibration = load(tmp_path, data, tokenizer=folder)
    (lines := tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in chats()))
    assert calibration.info.tokens_sha256 == load(tmp_path, lines, tokenizer=folder).info.tokens_sha256


def test_a_chat_that_is_none_is_told_with_its_row(tmp_path: Path) -> None:
    rows = [*chats(3), [{"role": "user", "content": None}]]
    message = refusal(
        tmp_path, write_arrow(tmp_path / "a.arrow", messages=rows), tokenizer=str(chat_tokenizer(tmp_path))
    )
    assert message == f"{tmp_path / 'a.arrow'}, row 4: message 1 has no content that is a text"


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.9])
def test_a_truncated_arrow_file_is_told(tmp_path: Path, kept: float) -> None:
    path = write_arrow(tmp_path / "a.arrow", text=documents())
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw)) if kept < 1 else int(kept)] or b"\0")
    assert f"{path}: the arrow file can't be read: " in refusal(tmp_path, path)


def test_offsets_that_leave_the_text_are_told(tmp_path: Path) -> None:
    path = write_arrow(tmp_path / "a.arrow", text=documents(10))
    lengths = [len(text) for text in documents(10)]
    offset = sum(lengths[:5]).to_bytes(4, "little") + sum(lengths[:6]).to_bytes(4, "little")
    raw = path.read_bytes()
    assert raw.count(offset) == 1
    path.write_bytes(raw.replace(offset, (2**30).to_bytes(4, "little") * 2))
    assert f"{path}: the arrow file can't be read: " in refusal(tmp_path, path)


def test_text_in_columns_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    path = write_arrow(tmp_path / "a.arrow", text=documents(10))
    path.write_bytes(path.read_bytes().replace(b"document 7", b"docum\xff\xfet 7"))
    assert f"{path}: the arrow file can't be read: " in refusal(tmp_path, path)


def test_a_file_without_rows_is_told(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = write_arrow(tmp_path / "a.arrow", text=pyarrow.array([], "string"))
    assert refusal(tmp_path, path) == f"{path}: the column 'text' holds no text"
