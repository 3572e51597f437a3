import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peelaudit.calibration.arrays import read_npy
from peelaudit.calibration.sources import SourceFile
from tests.calibration.support import load, refusal

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 120, 6000)


def save(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def header(path: Path, description: str, body: bytes = b"\0" * 64) -> Path:
    text = description.encode().ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body)
    return path


def test_a_stream_needs_no_tokenizer_and_counts_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(b"not read")
    info = load(tmp_path, save(tmp_path / "a.npy", IDS)).info
    assert (info.kind, info.tokenizer, info.unit, info.documents) == ("npy", None, "sequence", None)
    assert info.available_tokens == 6000


def test_rows_are_documents(tmp_path: Path) -> None:
    rows = RNG.integers(0, 120, (40, 64))
    calibration = load(tmp_path, save(tmp_path / "a.npy", rows), seq_len=64, tokens=40 * 64)
    assert (calibration.info.unit, calibration.info.documents) == ("document", 40)
    drawn = np.concatenate([split.tokens for split in (calibration.fit, calibration.select, calibration.held_out)])
    assert {row.tobytes() for row in drawn} == {row.tobytes() for row in rows}


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", ">i4", "<i8", ">u8"])
def test_row_51_every_integer_dtype_is_read_for_the_values_it_stands_for(tmp_path: Path, dtype: str) -> None:
    expected = load(tmp_path, save(tmp_path / "a.npy", IDS)).info.tokens_sha256
    assert load(tmp_path, save(tmp_path / "b.npy", IDS.astype(dtype))).info.tokens_sha256 == expected


@pytest.mark.parametrize(
    ("shape", "fortran", "why"),
    [
        ((2, 1 << 25), False, "a row is a document, and 33554432 ids are more than one has"),
        ((2000, 10_000), True, "stored by columns (Fortran order)"),
        ((1 << 19, 2), True, "stored by columns (Fortran order)"),
    ],
)
def test_row_79_arrays_that_would_be_read_whole_are_refused(
    shape: tuple[int, int], fortran: bool, why: str, tmp_path: Path
) -> None:
    path = header(tmp_path / "a.npy", f"{{'descr': '|u1', 'fortran_order': {fortran}, 'shape': {shape}, }}")
    os.truncate(path, path.stat().st_size - 64 + shape[0] * shape[1])
    assert why in refusal(tmp_path, path)


def test_row_79_of_many_rows_the_first_are_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.arange(3 << 19).reshape(-1, 3) % 5)
    found = read_npy(SourceFile(path, path.name, "npy", path.stat().st_size, ()), 8, 1 << 24)
    assert (len(found.documents), found.complete, found.total) == (1 << 18, False, 3 << 19)


def test_fortran_order_is_read_right(tmp_path: Path) -> None:
    rows = IDS.reshape(100, 60)
    expected = load(tmp_path, save(tmp_path / "a.npy", rows)).info.tokens_sha256
    assert load(tmp_path, save(tmp_path / "b.npy", np.asfortranarray(rows))).info.tokens_sha256 == expected


def test_row_49_an_object_array_is_never_unpickled(tmp_path: Path) -> None:
    array = np.array([[1], [2, 3]], dtype=object)
    np.save(path := tmp_path / "a.npy", array, allow_pickle=True)
    assert "Python objects, which would have to be unpickled" in refusal(tmp_path, path)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("shape", ["(1000000000000,)", "(1000000, 1000000)", "(0, 4611686018427387904)", "(-1,)"])
def test_row_50_a_shape_beyond_the_file_is_refused_before_loading(tmp_path: Path, shape: str) -> None:
    path = header(tmp_path / "a.npy", f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}")
    start = time.perf_counter()
    message = refusal(tmp_path, path)
    assert "the header promises" in message or "the array's shape is" in message
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("array", "defect"),
    [
        (IDS.astype("f4"), "dtype is float32"),
        (IDS > 3, "dtype is bool"),
        (np.zeros(9, dtype=[("a", "i4"), ("b", "i4")]), "dtype is [('a'"),
        (np.zeros((2, 3, 4), dtype=int), "the array's shape is (2, 3, 4)"),
        (np.int64(3), "the array's shape is ()"),
        (np.zeros((0, 5), dtype=int), "the array is empty"),
    ],
)
def test_row_51_other_arrays_are_refused(tmp_path: Path, array: Any, defect: str) -> None:
    assert defect in refusal(tmp_path, save(tmp_path / "a.npy", array))


@pytest.mark.parametrize(
    "description",
    ["", "{", "{'descr': '<i8'}", "[1]", "{'descr': 'zz', 'fortran_order': 0, 'shape': (1,)}", "\\x00" * 9, "(" * 99],
)
def test_a_damaged_header_is_named(tmp_path: Path, description: str) -> None:
    path = header(tmp_path / "a.npy", description)
    assert f"{path}: not a sound .npy file" in refusal(tmp_path, path)


def test_a_truncated_array_and_one_with_something_behind_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", IDS)
    raw = path.read_bytes()
    for other in (raw[:-8], raw + b"x"):
        path.write_bytes(other)
        assert "the header promises 48000 bytes" in refusal(tmp_path, path)
    path.write_bytes(raw[:50])
    assert "not a sound .npy file" in refusal(tmp_path, path)


def test_row_52_an_odd_byte_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "a.bin").write_bytes(IDS.astype("<u2").tobytes() + b"\0")
    assert refusal(tmp_path, path) == f"{path}: 12001 bytes are not a whole number of uint16 tokens"


def test_a_bin_is_little_endian_uint16(tmp_path: Path) -> None:
    (path := tmp_path / "a.bin").write_bytes(IDS.astype("<u2").tobytes())
    expected = load(tmp_path, save(tmp_path / "a.npy", IDS)).info.tokens_sha256
    info = load(tmp_path, path).info
    assert (info.tokens_sha256, info.kind, info.available_tokens) == (expected, "bin", 6000)


def test_rows_that_are_filled_up_end_before_the_padding(tmp_path: Path) -> None:
    """The network isn't fed what a batch was padded with, let alone asked to predict it."""
    rows = 1 + RNG.integers(0, 100, (200, 70))
    lengths = RNG.integers(40, 71, 200)
    for row, length in zip(rows, lengths, strict=True):
        row[length:] = 0
    calibration = load(tmp_path, save(tmp_path / "a.npy", rows), seq_len=32)
    for split in (calibration.fit, calibration.select, calibration.held_out):
        assert (split.tokens != 0).all()
    assert calibration.info.available_tokens in (None, int(lengths.sum()))
    assert any("the token 0 at the end of its rows is taken for padding" in one for one in calibration.warnings)


@pytest.mark.parametrize("ending", ["one token", "chance"])
def test_rows_that_only_end_alike_are_whole(tmp_path: Path, ending: str) -> None:
    rows = 1 + RNG.integers(0, 100, (200, 64))
    if ending == "one token":
        rows[:, -1] = 0
    calibration = load(tmp_path, save(tmp_path / "a.npy", rows), seq_len=64)
    assert calibration.info.available_tokens == rows.size
    assert not any("padding" in one for one in calibration.warnings)


def llmc(magic: int, version: int, ids: np.ndarray, dtype: str, count: int | None = None) -> bytes:
    """A token file as llm.c's scripts write it."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    return header.tobytes() + ids.astype(dtype).tobytes()


@pytest.mark.parametrize(
    "raw",
    [
        IDS.astype("<u4").tobytes(),
        llmc(20240520, 1, IDS, "<u2"),
        llmc(20240801, 7, IDS, "<u4"),
    ],
    ids=["uint32", "llm.c for GPT-2", "llm.c for Llama 3"],
)
def test_a_bin_of_wider_ids_or_with_a_header_holds_the_same_tokens(raw: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "a.bin").write_bytes(raw)
    expected = load(tmp_path, save(tmp_path / "a.npy", IDS)).info.tokens_sha256
    info = load(tmp_path, path).info
    assert (info.tokens_sha256, info.available_tokens) == (expected, 6000)


def test_ids_of_a_large_vocabulary_are_uint32(tmp_path: Path) -> None:
    ids = IDS + 100_000
    (path := tmp_path / "a.bin").write_bytes(ids.astype("<u4").tobytes())
    expected = load(tmp_path, save(tmp_path / "a.npy", ids), vocabulary=128_256).info.tokens_sha256
    assert load(tmp_path, path, vocabulary=128_256).info.tokens_sha256 == expected
    path.write_bytes(IDS.astype("<u2").tobytes())
    assert "is not in the model's vocabulary of 128256" in refusal(tmp_path, path, vocabulary=128_256)
    path.write_bytes(ids.astype("<u4").tobytes() + b"\0\0")
    assert "24002 bytes are not a whole number of uint32 tokens" in refusal(tmp_path, path, vocabulary=128_256)


@pytest.mark.parametrize(
    ("raw", "defect"),
    [
        (llmc(20240520, 2, IDS, "<u2"), "its llm.c header is of version 2; version 1 is read"),
        (llmc(20240520, 1, IDS, "<u2", 6001), "its llm.c header promises 6001 tokens, 12002 bytes, and 12000 follow"),
        (llmc(20240520, 1, IDS, "<u2", -1), "its llm.c header promises -1 tokens"),
        (llmc(20240801, 7, IDS, "<u2"), "its llm.c header promises 6000 tokens, 24000 bytes, and 12000 follow"),
        (llmc(20240520, 1, IDS[:0], "<u2"), "its llm.c header promises 0 tokens"),
        (np.array([20240520, 1, 9], dtype="<i4").tobytes(), "its llm.c header promises 9 tokens"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(raw: bytes, defect: str, tmp_path: Path) -> None:
    (path := tmp_path / "a.bin").write_bytes(raw)
    assert defect in refusal(tmp_path, path)


@pytest.mark.parametrize("suffix", ["npy", "bin"])
def test_row_53_a_token_beyond_the_vocabulary_is_named_with_its_place(tmp_path: Path, suffix: str) -> None:
    ids = IDS.copy()
    ids[4321] = 128
    path = tmp_path / f"a.{suffix}"
    ids.astype("<u2").tofile(path) if suffix == "bin" else np.save(path, ids)
    defect = "token id 128 at position 4321 is not in the model's vocabulary of 128"
    assert refusal(tmp_path, path) == f"{path}: {defect}"


def test_row_53_negative_and_huge_ids_do_not_wrap(tmp_path: Path) -> None:
    rows = IDS.reshape(60, 100)
    negative = rows.copy()
    negative[2, 7] = -1
    assert "token id -1 at position 2, 7" in refusal(tmp_path, save(tmp_path / "a.npy", negative))
    huge = rows.astype("u8")
    huge[1, 1] = 2**64 - 1
    assert "token id 18446744073709551615 at position 1, 1" in refusal(tmp_path, save(tmp_path / "b.npy", huge))


def test_gpt2_ids_are_divided_at_the_end_of_text(tmp_path: Path) -> None:
    documents = [RNG.integers(0, 50_000, 90) for _ in range(30)]
    stream = np.concatenate([np.append(document, 50_256) for document in documents])
    (path := tmp_path / "train.bin").write_bytes(stream.astype("<u2").tobytes())
    calibration = load(tmp_path, path, vocabulary=50_304, seq_len=64)
    assert (calibration.info.unit, calibration.info.documents) == ("document", 30)
    assert (calibration.fit.tokens[:, 0] == 50_256).all()


def test_a_constant_stream_has_one_sequence_only(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.ones(50_000, dtype=int))
    assert "make 1 different sequences of 32; three splits need 6" in refusal(tmp_path, path)
