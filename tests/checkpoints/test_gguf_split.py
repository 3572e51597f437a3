"""Split GGUF files, written by the gguf library: any part opens all, and parts that don't fit together are refused."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import gguf
import pytest
import torch

from peelaudit.checkpoints import open_checkpoint
from peelaudit.cli import main
from peelaudit.errors import CheckpointError
from tests.checkpoints.gguf_models import convert
from tests.checkpoints.models import model

PARTS = 4
NAMES = tuple(f"m-{number:05}-of-{PARTS:05}.gguf" for number in range(1, PARTS + 1))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    convert(model("llama"), folder / "m.gguf", split=6)
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "model"))


@pytest.mark.parametrize("name", NAMES)
def test_any_part_opens_all(name: str, written: Path) -> None:
    expected = model("llama").state_dict()
    with open_checkpoint(written / name) as checkpoint:
        assert checkpoint.info.files == NAMES
        assert checkpoint.info.bytes == sum(path.stat().st_size for path in written.iterdir())
        assert set(checkpoint.names()) == set(expected)
        for stored, tensor in expected.items():
            assert torch.equal(checkpoint.tensor(stored), tensor), stored
        sha256 = checkpoint.info.sha256
    with open_checkpoint(written / NAMES[0]) as checkpoint:
        assert checkpoint.info.sha256 == sha256


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_part_is_named(missing: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / missing).unlink()
    opened = next(name for name in NAMES if name != missing)
    assert main(["inspect", str(folder / opened)]) == 3
    shown = capsys.readouterr().err
    assert f"its part '{missing}' is missing" in shown
    assert shown.count("\n") == 1


def changed(path: Path, key: str, value: int) -> None:
    """Write another number for a key of the header."""
    raw = bytearray(path.read_bytes())
    begin = raw.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
    kind = struct.unpack_from("<I", raw, begin)[0]
    code = {gguf.GGUFValueType.UINT16: "<H", gguf.GGUFValueType.INT32: "<i"}[gguf.GGUFValueType(kind)]
    struct.pack_into(code, raw, begin + 4, value)
    path.write_bytes(raw)


@pytest.mark.parametrize("opened", [0, 2])
@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        (0, "split.count", 3, "makes it part 1 of 3, but its name part 1 of 4"),
        (0, "split.count", 1, "makes it part 1 of 1, but its name part 1 of 4"),
        (0, "split.count", 0, "makes it part 1 of 1, but its name part 1 of 4"),
        (0, "split.count", 60_000, "split.count of '60000'"),
        (1, "split.count", 5, "makes it part 2 of 5, but its name part 2 of 4"),
        (2, "split.no", 1, "makes it part 2 of 4, but its name part 3 of 4"),
        (2, "split.no", 4, "its split.no is '4', of a split.count of '4'"),
        (1, "split.tensors.count", 20, "split.tensors.count is '20', but the parts hold 21"),
        (0, "split.tensors.count", 22, "split.tensors.count is '22', but the parts hold 21"),
    ],
)
def test_numbers_that_are_wrong_are_refused(
    part: int, key: str, value: int, message: str, opened: int, folder: Path
) -> None:
    changed(folder / NAMES[part], key, value)
    with pytest.raises(CheckpointError, match=rf"{NAMES[part]}'.*{message}") as caught:
        open_checkpoint(folder / NAMES[opened])
    assert "\n" not in str(caught.value)


def test_a_part_under_another_name_is_refused(folder: Path) -> None:
    (folder / NAMES[0]).rename(folder / "first.gguf")
    with pytest.raises(CheckpointError, match="part 1 of 4, but its name part 1 of 1; give it the name"):
        open_checkpoint(folder / "first.gguf")


def test_a_part_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    convert(model("llama", num_hidden_layers=3), tmp_path / "m.gguf", split=8)
    assert (tmp_path / NAMES[1]).exists()
    shutil.copy(tmp_path / NAMES[1], folder / NAMES[1])
    with pytest.raises(CheckpointError, match=r"split\.tensors\.count|is in two shards"):
        open_checkpoint(folder / NAMES[0])


def test_a_part_twice_is_refused(folder: Path) -> None:
    shutil.copy(folder / NAMES[1], folder / NAMES[2])
    with pytest.raises(CheckpointError, match="makes it part 2 of 4, but its name part 3 of 4"):
        open_checkpoint(folder / NAMES[0])


def test_metadata_of_a_later_part_is_not_left_out(folder: Path) -> None:
    writer = gguf.GGUFWriter(folder / NAMES[3], "llama")
    for key, value in (("no", 3), ("count", PARTS)):
        writer.add_uint16(f"split.{key}", value)
    writer.add_int32("split.tensors.count", 21)
    writer.add_float32("llama.rope.freq_base", 7.0)
    for tensor in gguf.GGUFReader(folder / NAMES[3]).tensors:
        writer.add_tensor(tensor.name, tensor.data.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"its 'llama\.rope\.freq_base' isn't the first part's"):
        open_checkpoint(folder / NAMES[0])


def test_a_part_that_leaves_the_directory_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / NAMES[1]).rename(tmp_path / "elsewhere.gguf")
    (folder / NAMES[1]).symlink_to(tmp_path / "elsewhere.gguf")
    with pytest.raises(CheckpointError, match="symbolic link that leaves the directory"):
        open_checkpoint(folder / NAMES[0])
