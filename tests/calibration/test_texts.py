import json
import time
from pathlib import Path

import pytest

from peelaudit.calibration import sources
from peelaudit.calibration.sources import SourceFile
from peelaudit.calibration.texts import read_json
from peelaudit.errors import CalibrationError, ConfigError
from tests.calibration.support import decode, load, refusal

WORDS = "some words of document {} , " + "and more of them " * 8


def documents(count: int = 40) -> list[str]:
    return [WORDS.format(number) for number in range(count)]


def write_jsonl(path: Path, *lines: str | bytes, count: int = 40) -> Path:
    rows: list[str | bytes] = [json.dumps({"text": text}) for text in documents(count)]
    rows += lines
    path.write_bytes(b"\n".join(row.encode() if isinstance(row, str) else row for row in rows))
    return path


@pytest.mark.parametrize("separator", ["<|endoftext|>", "\n<|endoftext|>\n", "\f", "\n = Title of it = \n"])
def test_documents_are_divided_by_the_marker_that_is_there(tmp_path: Path, separator: str) -> None:
    (path := tmp_path / "a.txt").write_text(separator.join(documents()))
    info = load(tmp_path, path).info
    assert (info.unit, info.documents) == ("document", 40)


def test_section_headings_divide_nothing(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_text("\n = = Section = = \n".join(documents()))
    info = load(tmp_path, path).info
    assert (info.unit, info.documents) == ("sequence", None)


def test_a_given_separator_divides_and_one_that_does_not_occur_is_said(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_text("\n==\n".join(documents()))
    assert load(tmp_path, path, separator="==").info.documents == 40
    calibration = load(tmp_path, path, separator="@@")
    assert calibration.info.unit == "sequence"
    assert "the separator '@@' does not occur: the text is taken as undivided" in calibration.warnings
    with pytest.raises(ConfigError, match="separator is empty"):
        load(tmp_path, path, separator="")


def test_a_byte_order_mark_is_dropped_from_a_text(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_text("\f".join(documents()), encoding="utf-8-sig")
    assert load(tmp_path, path).info.documents == 40


@pytest.mark.parametrize("raw", [b"abc\xff\xfe", "naïve".encode("utf-16"), b"abc \xc3"])
def test_row_55_a_text_that_is_not_utf8_is_refused_with_the_place(tmp_path: Path, raw: bytes) -> None:
    (path := tmp_path / "a.txt").write_bytes(raw)
    assert f"{path}: the text isn't UTF-8: byte 0x" in refusal(tmp_path, path)


def test_row_55_a_text_of_white_space_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_text(" \n\f ")
    assert refusal(tmp_path, path) == f"{path}: the file holds no text"


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n")
    assert "Git LFS pointer" in refusal(tmp_path, path)


def test_only_the_beginning_of_a_long_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "POOL_BYTES", 4096)
    monkeypatch.setattr(sources, "POOL_BYTES_PER_TOKEN", 1)
    (path := tmp_path / "a.txt").write_text("\f".join(documents()) + "\x00 no character of the tokenizer")
    calibration = load(tmp_path, path)
    assert calibration.info.documents == 4096 // (len(documents()[0]) + 1)
    assert calibration.info.available_tokens is None
    assert any("only the beginning" in warning for warning in calibration.warnings)


def test_a_multi_byte_character_cut_by_the_budget_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "POOL_BYTES", 4097)
    monkeypatch.setattr(sources, "POOL_BYTES_PER_TOKEN", 1)
    (path := tmp_path / "a.txt").write_text("a" * 4096 + "é" * 1000)
    assert "make 1 different sequences" in refusal(tmp_path, path)


def test_jsonl_gives_a_document_a_line_from_the_field(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(json.dumps({"id": 1, "body": text}) for text in documents()))
    info = load(tmp_path, path, field="body").info
    assert (info.kind, info.documents) == ("jsonl", 40)
    assert "line 1: there is no key 'text' (keys: id, body)" in refusal(tmp_path, path)


@pytest.mark.parametrize(
    ("line", "defect"),
    [
        ('{"text": NaN}', "NaN is no JSON value"),
        ('{"text": "a", "x": -Infinity}', "-Infinity is no JSON value"),
        ('{"text": "a", "text": "b"}', "the key 'text' occurs twice"),
        ('{"text": "a", "x": {"k": 1, "k": 1}}', "the key 'k' occurs twice"),
        ('{"text": "a", "x": ' + "9" * 5000 + "}", "an integer has more than 4300 digits"),
        ('{"text": ' + "[" * 100_000, "nested too deeply"),
        ('{"text": "\\ud800"}', "the text holds a lone surrogate, U+D800"),
        ('{"text": 3}', "the value of 'text' is int, not a string"),
        ('["text"]', "expected a JSON object with the key 'text', found list"),
        ('{"text": "a"', "not JSON"),
        (b'{"text": "\xff"}', "isn't UTF-8: byte 0xff at offset 10 of the line"),
        (b'\xef\xbb\xbf{"text": "a"}', "byte-order mark"),
    ],
)
def test_row_54_a_bad_line_is_named(tmp_path: Path, line: str | bytes, defect: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", line)
    message = refusal(tmp_path, path)
    assert message.startswith(f"{path}, line 41: ")
    assert defect in message


def test_row_54_a_line_without_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "POOL_BYTES", 8192)
    monkeypatch.setattr(sources, "POOL_BYTES_PER_TOKEN", 1)
    (path := tmp_path / "a.jsonl").write_text('{"text": "' + "a" * 100_000)
    assert "line 1: the line is longer than 8192 bytes" in refusal(tmp_path, path)


def test_undivided_sequences_are_spread_over_the_whole_text(tmp_path: Path) -> None:
    text = "\n".join(f"line {number} of a long text with many lines" for number in range(5000))
    (path := tmp_path / "a.txt").write_text(text)
    calibration = load(tmp_path, path)
    assert calibration.info.unit == "sequence"
    pieces = [decode(row) for split in (calibration.fit, calibration.held_out) for row in split.tokens]
    assert all(piece.startswith("line ") and piece in text for piece in pieces)
    assert max(int(piece.split()[1]) for piece in pieces) > 4500


def test_a_long_text_is_not_tokenised_whole(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_text("some words of a very long text, " * 400_000)
    start = time.perf_counter()
    load(tmp_path, path, seq_len=33)
    assert time.perf_counter() - start < 2


SHAPES = {
    "a list": lambda rows: json.dumps(rows),
    "a list over lines": lambda rows: "\n" + json.dumps(rows, indent=2) + "\n",
    "with a byte-order mark": lambda rows: "\ufeff" + json.dumps(rows),
    "JSON lines": lambda rows: "\n".join(map(json.dumps, rows)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_json_file_is_a_list_of_rows_or_json_lines(shape: str, tmp_path: Path) -> None:
    rows = [{"id": number, "body": text} for number, text in enumerate(documents())]
    (path := tmp_path / "a.json").write_text(SHAPES[shape](rows))
    (lines := tmp_path / "a.jsonl").write_text(SHAPES["JSON lines"](rows))
    found = load(tmp_path, path, field="body").info
    assert (found.kind, found.documents) == ("json", 40)
    assert found.tokens_sha256 == load(tmp_path, lines, field="body").info.tokens_sha256


@pytest.mark.parametrize(
    ("rows", "defect"),
    [
        ('[{"text": "a"}, {"text": "b"', ", row 2: not JSON: Expecting ',' delimiter"),
        ('[{"text": "a"} {"text": "b"}]', ", row 1: no comma stands behind it"),
        ('[{"text": "a"}, ["b"]]', ", row 2: expected a JSON object with the key 'text', found list"),
        ('[{"text": "a", "text": "b"}]', ", row 1: the key 'text' occurs twice"),
        ('[{"text": NaN}]', ", row 1: NaN is no JSON value"),
        ('[{"text": ' + "[" * 100_000, ", row 1: the JSON is nested too deeply"),
        ("[]", ": the file holds no text"),
        ('{"data": [{"text": "a"}],\n "version": 1}', ": one JSON object (keys: data, version), not a list of rows"),
        ('[{"text": "a", "x": [' + "[]," * 2_100_000 + "[]]}]", ": it has more than 4000000 values, and is no list"),
        ('{"text": "a",\n"x": [' + "[]," * 2_100_000 + "[]]}", ", line 1: not JSON"),
        (
            '[{"instruction": "a", "input": "", "output": "b"}]',
            ", row 1: there is no key 'text' (keys: instruction, input, output); how a model was told instruction and",
        ),
    ],
)
def test_a_bad_row_is_named(rows: str, defect: str, tmp_path: Path) -> None:
    (path := tmp_path / "a.json").write_text(rows)
    assert refusal(tmp_path, path).startswith(f"{path}{defect}")


def test_of_a_long_list_only_the_beginning_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "POOL_BYTES_PER_TOKEN", 1)
    rows = json.dumps([{"text": text} for text in documents()])
    (path := tmp_path / "a.json").write_text(rows)
    for cut in range(rows.index("}, {", len(rows) // 2), rows.index("}, {", len(rows) // 2) + 30):
        monkeypatch.setattr(sources, "POOL_BYTES", cut)
        found = read_json(SourceFile(path, "a.json", "json", len(rows), ()), "text", cut)
        assert not found.complete
        assert list(found.documents) == documents()[: len(found.documents)]
        assert len(found.documents) > 10
    with pytest.raises(CalibrationError, match="row 1: the row is longer than 12 characters"):
        read_json(SourceFile(path, "a.json", "json", len(rows), ()), "text", 12)
