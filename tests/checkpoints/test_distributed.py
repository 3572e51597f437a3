"""Directories of torch.distributed.checkpoint, written by it: whole tensors, chunks, and what may be wrong in them."""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError, MalformedCheckpoint, MismatchedWeights, UnsupportedCheckpoint
from tests.checkpoints.models import model


class Cut(DefaultSavePlanner):
    """Every tensor cut into blocks, as many ranks do that each hold a part of it."""

    def create_local_plan(self) -> SavePlan:
        plan = super().create_local_plan()
        items = [cut for item in plan.items for cut in (_cut(item) if item.tensor_data else [item])]
        self.plan = dataclasses.replace(plan, items=items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Any:
        if write_item.tensor_data is None:
            return super().resolve_data(write_item)
        chunk = write_item.tensor_data.chunk
        whole = self.state_dict[write_item.index.fqn].detach()
        return whole[
            tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))
        ].contiguous()


def _cut(item: WriteItem) -> Iterator[WriteItem]:
    whole = item.tensor_data
    assert whole is not None
    places = [((), ())]
    for size in whole.size:
        half = size // 3
        parts = [(0, half), (half, size - half)] if half else [(0, size)]
        places = [((*at, begin), (*shape, length)) for at, shape in places for begin, length in parts]
    for at, shape in places:
        chunk = ChunkStorageMetadata(torch.Size(at), torch.Size(shape))
        data = TensorWriteData(chunk=chunk, properties=whole.properties, size=whole.size)
        yield WriteItem(MetadataIndex(item.index.fqn, at), WriteItemType.SHARD, tensor_data=data)


def write(content: dict[str, Any], directory: Path, planner: DefaultSavePlanner | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = dcp.FileSystemWriter(directory, thread_count=2)
        dcp.save(content, storage_writer=writer, no_dist=True, planner=planner)
    model("llama").config.save_pretrained(directory)
    return directory


def holds(path: Path, state: dict[str, torch.Tensor]) -> bool:
    with open_checkpoint(path) as checkpoint:
        checkpoint.check_weights()
        return all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in state.items())


@pytest.mark.parametrize("planner", [None, Cut])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_dict(planner: type[DefaultSavePlanner] | None, dtype: torch.dtype, tmp_path: Path) -> None:
    state = model("llama").to(dtype).state_dict()
    path = write(state, tmp_path / "a", planner and planner())
    assert holds(path, state)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.info.format == "torch.distributed"
        assert checkpoint.info.files == (".metadata", "__0_0.distcp", "__0_1.distcp")
        assert checkpoint.info.bytes == sum((path / name).stat().st_size for name in checkpoint.info.files)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "optim": {"state": {"a.exp_avg": torch.ones(3)}}, "step": 3},
        lambda state: {"state_dict": {f"net._orig_mod.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"app": {"model": state, "lr": [1, {"x": torch.ones(2)}]}},
    ],
)
def test_what_stands_beside_the_model_is_left_alone(wrap: Callable[[Any], dict[str, Any]], tmp_path: Path) -> None:
    state = model("llama").state_dict()
    assert holds(write(wrap(state), tmp_path / "a", Cut()), state)


def test_a_tensor_too_many_and_one_too_few_are_named(tmp_path: Path) -> None:
    state = model("llama").state_dict()
    path = write({**state, "model.layers.0.gate": torch.ones(2)}, tmp_path / "a")
    with pytest.raises(MismatchedWeights, match=r"no place for 'model\.layers\.0\.gate'"):
        open_checkpoint(path)
    del state["model.norm.weight"]
    with pytest.raises(MismatchedWeights, match=r"missing: 'model\.norm\.weight'"):
        open_checkpoint(write(state, tmp_path / "b"))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(model("llama").state_dict(), tmp_path / "good", Cut())


def refuse(path: Path, kind: type[CheckpointError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught, open_checkpoint(path) as checkpoint:
        checkpoint.check_weights()
    assert str(path) in str(caught.value)


NAME = "model.embed_tokens.weight"


def first_place(found: Metadata) -> Any:
    return next(place for index, place in found.storage_data.items() if index.fqn == NAME)


def drop_chunk(found: Metadata) -> None:
    found.state_dict_metadata[NAME].chunks.pop()


def double_chunk(found: Metadata) -> None:
    chunks = found.state_dict_metadata[NAME].chunks
    chunks[-1] = chunks[0]


def twice_the_same(found: Metadata) -> None:
    """Two chunks of the same place in a tensor of just their sizes' sum."""
    entry = found.state_dict_metadata[NAME]
    entry.chunks = [entry.chunks[0]] * 2
    entry.size = torch.Size((2 * entry.chunks[0].sizes[0], entry.chunks[0].sizes[1]))


def chunk_outside(found: Metadata) -> None:
    found.state_dict_metadata[NAME].size = torch.Size((32, 64))


def lose_place(found: Metadata) -> None:
    del found.storage_data[next(index for index in found.storage_data if index.fqn == NAME)]


def share_bytes(found: Metadata) -> None:
    places = [index for index in found.storage_data if index.fqn == NAME]
    found.storage_data[places[0]] = found.storage_data[places[1]]


def swap_places(found: Metadata) -> None:
    """Two chunks of different shapes, each where the other is."""
    places = [index for index in found.storage_data if index.fqn == NAME]
    data = found.storage_data
    data[places[0]], data[places[-1]] = data[places[-1]], data[places[0]]


def set_place(**changes: object) -> Callable[[Metadata], None]:
    return lambda found: first_place(found).__dict__.update(changes)


def other_dtype(found: Metadata) -> None:
    found.state_dict_metadata[NAME].properties.dtype = torch.bfloat16


def huge(found: Metadata) -> None:
    found.state_dict_metadata[NAME].size = torch.Size((1 << 40, 1 << 20))
    found.state_dict_metadata[NAME].chunks = [ChunkStorageMetadata(torch.Size((0, 0)), torch.Size((1 << 40, 1 << 20)))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_chunk, "chunks that miss some of it"),
        (double_chunk, "chunks that (overlap|miss some)"),
        (twice_the_same, "chunks that overlap$"),
        (chunk_outside, "a chunk outside of it"),
        (lose_place, "a chunk without a place in a file"),
        (share_bytes, "overlaps or is truncated|larger than the bytes"),
        (swap_places, "isn't what the index says|larger than the bytes"),
        (set_place(relative_path="../__0_0.distcp"), "outside of the directory"),
        (set_place(relative_path="/etc/passwd"), "outside of the directory"),
        (set_place(relative_path="gone.distcp"), "no such file"),
        (set_place(offset=1 << 50), "overlaps or is truncated"),
        (set_place(offset=-1), "place in a file is damaged"),
        (set_place(length=100), "larger than the bytes"),
        (set_place(transform_descriptors=["zstd"]), "packed"),
        (other_dtype, "isn't what the index says"),
        (huge, "larger than the bytes"),
    ],
)
def test_an_index_that_lies(change: Callable[[Metadata], None], message: str, good: Path) -> None:
    found = pickle.loads((good / ".metadata").read_bytes())  # written by this test
    change(found)
    (good / ".metadata").write_bytes(pickle.dumps(found))
    refuse(good, CheckpointError, message)


class Pickled:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.path, "run")


def test_row_48_the_index_is_never_run(good: Path, tmp_path: Path) -> None:
    found = pickle.loads((good / ".metadata").read_bytes())  # written by this test
    found.planner_data = Pickled(tmp_path / "written")
    (good / ".metadata").write_bytes(pickle.dumps(found))
    with open_checkpoint(good) as checkpoint:
        checkpoint.check_weights()
    (good / ".metadata").write_bytes(pickle.dumps(Pickled(tmp_path / "written")))
    refuse(good, MalformedCheckpoint, "isn't the index")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", pickle.dumps({}), pickle.dumps(Metadata({}))])
def test_an_index_that_is_something_else(data: bytes, good: Path) -> None:
    (good / ".metadata").write_bytes(data)
    refuse(good, CheckpointError, r"\.metadata|no state dict")


def test_damaged_chunks(good: Path) -> None:
    file = good / "__0_0.distcp"
    raw = file.read_bytes()
    flipped = bytearray(raw)
    flipped[raw.index(b"data/0") + 200] ^= 1
    file.write_bytes(flipped)
    refuse(good, MalformedCheckpoint, "checksum|damaged")
    file.write_bytes(raw[:-100])
    refuse(good, MalformedCheckpoint, "truncated")
    file.write_bytes(bytes(len(raw)))
    refuse(good, CheckpointError, "isn't a file that torch.save wrote")


def test_objects_in_the_state_dict_are_named(tmp_path: Path) -> None:
    state = {**model("llama").state_dict(), "model.layers.0.scale": 2.5}
    refuse(write(state, tmp_path / "a"), MismatchedWeights, r"'model\.layers\.0\.scale' is a 'an object in bytes'")


def test_a_directory_without_tensors(tmp_path: Path) -> None:
    refuse(write({"step": 3}, tmp_path / "a"), UnsupportedCheckpoint, "no state dict found")
