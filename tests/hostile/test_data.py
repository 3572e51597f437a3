"""Calibration data that are damaged, hostile or of something else, through the real command."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peelaudit.cli import main
from peelaudit.network.weights import check_weights
from tests.hostile.support import IDS, MARKS, Make, audit, content, refused
from tests.places import NANOGPT

pytestmark = MARKS


def array(values: Any) -> Make:
    return lambda path: np.save(path, values, allow_pickle=True)


def promising(shape: str) -> Make:
    """A .npy header of that shape with nothing behind it."""
    text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return content(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)


def line(text: bytes) -> Make:
    return content(b'{"text": "a good one"}\n' * 40 + text + b"\n")


GOOD_TEXT = b"a good line\n" * 400
BOMB = gzip.compress(bytes(1 << 24)) * 64

DATA: list[tuple[str, str, Make, str]] = [
    ("row 49, object array", ".npy", array(np.array([[1], [2, 3]], dtype=object)), "unpickled"),
    ("row 50, a shape of 1e12", ".npy", promising("(1000000000000,)"), "promises"),
    ("row 51, float", ".npy", array(IDS.astype("f4")), "float32"),
    ("row 51, structured", ".npy", array(np.zeros(9, dtype=[("a", "i4")])), "dtype"),
    ("row 52, odd byte", ".bin", content(IDS.astype("<u2").tobytes() + b"\0"), "whole number of uint16"),
    ("row 53, a token beyond the vocabulary", ".npy", array(np.append(IDS, 64)), "token id 64"),
    ("row 53, a negative one", ".npy", array(np.append(IDS, -1)), "token id -1"),
    ("row 54, NaN", ".jsonl", line(b'{"text": NaN}'), "line 41"),
    ("row 54, duplicate key", ".jsonl", line(b'{"text": "a", "text": "b"}'), "line 41"),
    ("row 54, depth", ".jsonl", line(b'{"text": ' + b"[" * 100_000), "line 41"),
    ("row 54, an integer of 5,000 digits", ".jsonl", line(b'{"text": "a", "x": ' + b"9" * 5000 + b"}"), "line 41"),
    ("row 54, byte order mark", ".jsonl", line(b'\xef\xbb\xbf{"text": "a"}'), "line 41"),
    ("row 54, lone surrogate", ".jsonl", line(b'{"text": "\\ud800"}'), "line 41"),
    ("row 55, not UTF-8", ".txt", content(b"abc\xff\xfe"), "UTF-8"),
    ("row 55, empty", ".txt", content(b""), "empty"),
    ("truncated gzip", ".txt.gz", content(gzip.compress(GOOD_TEXT)[:-9]), "truncated"),
    ("not gzip", ".txt.gz", content(GOOD_TEXT), "can't be unpacked"),
    ("a gigabyte of one line in a megabyte", ".jsonl.gz", content(BOMB), "line 1: the line is longer than"),
    ("a chat without a role", ".jsonl", content(b'{"messages": [{"content": "a"}]}'), "line 1: message 1 has no role"),
    ("a chat without a template", ".jsonl", content(b'{"messages": [{"role": "a", "content": "b"}]}'), "--tokenizer"),
    ("a chat among texts", ".jsonl", line(b'{"messages": [{"role": "a", "content": "b"}]}'), "line 41: a chat"),
    ("no Arrow stream", ".arrow", content(GOOD_TEXT), "no Arrow stream"),
    ("an Arrow message of 2 GiB", ".arrow", content(struct.pack("<Ii", 2**32 - 1, 2**31 - 8)), "truncated"),
]


@pytest.mark.parametrize(("suffix", "make", "message"), [pytest.param(*rest, id=row) for row, *rest in DATA])
def test_data(
    suffix: str, make: Make, message: str, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, meta = tmp_path / f"data{suffix}", NANOGPT / "meta.pkl"
    make(data)
    error = refused(["run", str(llama), "--data", str(data), "--tokenizer", str(meta)], tmp_path, capfd)
    assert data.name in error
    assert message in error


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf"])
def test_weights_that_are_none_are_wrong_settings(
    weight: str, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (text := tmp_path / "a.txt").write_bytes(GOOD_TEXT)
    assert main(["run", str(llama), "--data", f"{text}={weight}"]) == 2
    out, error = capfd.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert "a weight is a number above 0" in error


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_a_directory_of_datasets_without_rows(
    name: str, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "data").mkdir()
    (folder / "dataset_info.json").write_text("{}")
    (folder / name).write_text('{"_data_files": [], "splits": []}')
    assert "the dataset has no" in refused(["run", str(llama), "--data", str(folder)], tmp_path, capfd)


def test_row_51_big_endian_tokens_are_read_for_what_they_are(
    llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for dtype in ("<i4", ">i4"):
        np.save(tmp_path / "data.npy", IDS.astype(dtype))
        assert main([*audit(llama, str(tmp_path / "data.npy")), "-f", "json"]) == 0
        losses.append(json.loads(capfd.readouterr().out)["held_out"]["trained_loss"])
    assert losses[0] == losses[1]


def test_row_89_calibration_data_edited_while_they_are_used(
    llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.npy"
    np.save(data, IDS)

    def edited(*arguments: Any, **options: Any) -> Any:
        np.save(data, IDS[::-1])
        return check_weights(*arguments, **options)

    monkeypatch.setattr("peelaudit.auditing.prepare.check_weights", edited)
    error = refused([*audit(llama, str(data)), "--schedules", "final"], tmp_path, capfd)
    assert f"{data}: the calibration data were edited, replaced or removed" in error


@pytest.mark.parametrize(
    ("shape", "fortran"), [((2, 150_000_000), False), ((20_000_000, 1), True), ((2, 150_000_000), True)], ids=str
)
@pytest.mark.parametrize("found", [False, True], ids=["given", "found beside the checkpoint"])
def test_row_79_an_array_of_two_dimensions_that_would_be_read_whole(
    shape: tuple[int, int], fortran: bool, found: bool, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = f"{{'descr': '|u1', 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    path = (llama if found else tmp_path) / "calibration.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    os.truncate(path, path.stat().st_size + shape[0] * shape[1])
    data = [] if found else ["--data", str(path)]
    assert path.name in refused(["run", str(llama), *data, "--tokens", "1024"], tmp_path, capfd)


def test_row_82_a_shape_that_is_true(llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    promising("(True,)")(path := tmp_path / "data.npy")
    assert "data.npy" in refused(["run", str(llama), "--data", str(path)], tmp_path, capfd)
