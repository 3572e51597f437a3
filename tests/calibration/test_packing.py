import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from peelaudit.calibration.finding import find_parts
from peelaudit.calibration.packing import beginning
from peelaudit.calibration.sources import POOL_BYTES
from peelaudit.errors import CalibrationError
from tests.calibration.support import load, refusal

DOCUMENTS = [f"some words of document {number} , " + "and more of them " * 8 for number in range(40)]
PLAIN = {
    "txt": "\f".join(DOCUMENTS).encode(),
    "jsonl": "\n".join(json.dumps({"text": text}) for text in DOCUMENTS).encode(),
}
PLAIN["json"] = PLAIN["jsonl"]


def zstandard(raw: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return bytes(zstd.compress(raw))
    packed: bytes = pytest.importorskip("zstandard").ZstdCompressor().compress(raw)
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstandard}
packed = pytest.mark.parametrize("packing", PACKERS)


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(PACKERS[path.suffix[1:]](raw))
    return path


def unpacked(path: Path, budget: int) -> tuple[bytes, bool]:
    return beginning(find_parts([str(path)], path)[0].sources[0], budget)


@packed
@pytest.mark.parametrize("kind", PLAIN)
def test_a_packed_file_gives_the_tokens_of_the_plain_one(tmp_path: Path, kind: str, packing: str) -> None:
    (plain := tmp_path / ("a.txt" if kind == "txt" else "a.jsonl")).write_bytes(PLAIN[kind])
    info = load(tmp_path, write(tmp_path / f"a.{kind}.{packing}", PLAIN[kind])).info
    assert info.tokens_sha256 == load(tmp_path, plain).info.tokens_sha256
    assert info.documents == 40


@packed
def test_members_one_after_the_other_are_one_file(tmp_path: Path, packing: str) -> None:
    pack = PACKERS[packing]
    (path := tmp_path / f"a.txt.{packing}").write_bytes(pack(b"one, ") + pack(b"") + pack(b"two"))
    assert unpacked(path, 100) == (b"one, two", True)
    assert unpacked(path, 8) == (b"one, two", True)
    assert unpacked(path, 7) == (b"one, tw", False)


def test_zeros_behind_a_gzip_file_are_passed_over_and_rubbish_is_told(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"text") + b"\0" * 3000)
    assert unpacked(path, 100) == (b"text", True)
    path.write_bytes(gzip.compress(b"text") + b"rubbish")
    with pytest.raises(CalibrationError, match="can't be unpacked"):
        unpacked(path, 100)


@packed
def test_packed_files_are_found_in_directories_and_beside_checkpoints(tmp_path: Path, packing: str) -> None:
    (data := tmp_path / "data").mkdir()
    write(data / f"a.jsonl.{packing}", PLAIN["jsonl"])
    (data / f"model.{packing}").write_bytes(b"x")
    (data / f"a.npy.{packing}").write_bytes(b"x")
    assert [source.name for source in find_parts([str(data)], tmp_path)[0].sources] == [f"a.jsonl.{packing}"]
    write(tmp_path / f"calibration.txt.{packing}", PLAIN["txt"])
    assert load(tmp_path).info.source == str(tmp_path / f"calibration.txt.{packing}")


@packed
@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_file_is_told(tmp_path: Path, packing: str, kept: float) -> None:
    path = write(tmp_path / f"a.txt.{packing}", PLAIN["txt"])
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert refusal(tmp_path, path) == f"{path}: the packed file ends too early; it is truncated"


@packed
def test_a_file_that_is_not_packed_or_damaged_is_told(tmp_path: Path, packing: str) -> None:
    raw = bytearray(PACKERS[packing](bytes(range(256)) * 40))
    (path := tmp_path / f"a.txt.{packing}").write_bytes(PLAIN["txt"])
    assert f"{path}: the packed file can't be unpacked: " in refusal(tmp_path, path)
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    assert f"{path}: " in refusal(tmp_path, path)


@packed
@pytest.mark.timeout(30)
def test_a_file_that_expands_without_end_is_read_no_further_than_needed(tmp_path: Path, packing: str) -> None:
    with io.BytesIO() as file:
        bomb = PACKERS[packing](b"a" * 2**24)
        for _ in range(64):  # a gibibyte of members
            file.write(bomb)
        (path := tmp_path / f"a.jsonl.{packing}").write_bytes(file.getvalue())
    assert path.stat().st_size < 2**21
    tracemalloc.start()
    message = refusal(tmp_path, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{path}, line 1: the line is longer than " in message
    assert peak < 6 * POOL_BYTES


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the standard library has it")
def test_without_zstandard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.txt.zst", PLAIN["txt"])
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert refusal(tmp_path, path).endswith("pip install 'peelaudit[zstd]'")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="written by the package")
def test_a_window_of_gigabytes_is_refused(tmp_path: Path) -> None:
    zstd = pytest.importorskip("zstandard")
    parameters = zstd.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    compressor = zstd.ZstdCompressor(compression_params=parameters).compressobj()
    (path := tmp_path / "a.txt.zst").write_bytes(compressor.compress(PLAIN["txt"]) + compressor.flush())
    assert "can't be unpacked" in refusal(tmp_path, path)
