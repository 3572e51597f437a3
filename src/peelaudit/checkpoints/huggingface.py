"""A Hugging Face directory: its weight files, found without leaving the directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from peelaudit.checkpoints.deepspeed import open_deepspeed
from peelaudit.checkpoints.distributed import DistributedTensors
from peelaudit.checkpoints.files import quoted, read_json, within
from peelaudit.checkpoints.foreign import check_directory
from peelaudit.checkpoints.inert import StoredTensor
from peelaudit.checkpoints.safetensors_file import SafetensorsFile
from peelaudit.checkpoints.state_dict import as_step, recognise
from peelaudit.checkpoints.store import Joined, Store, close_all
from peelaudit.checkpoints.torch_file import TorchFile, TorchTensors
from peelaudit.errors import CheckpointError, MalformedCheckpoint, UnreadableCheckpoint, UnsupportedCheckpoint
from peelaudit.filenames import ADAPTER_CONFIG, DISTRIBUTED, TOKENIZER_FILES, WEIGHT_FILES

__all__ = ["find_beside", "find_tokenizer", "find_training_step", "open_file", "open_weights"]

_MAX_SHARDS = 2_000


def open_weights(directory: Path, adapter: Path | None = None) -> Store:
    """The directory's tensors: one safetensors file, several by an index, or the same of torch's; else what
    torch.distributed.checkpoint or DeepSpeed wrote. `adapter` is the directory of the one that is to be merged.

    Raises:
        CheckpointError: there are none, one is missing, or one is damaged.
    """
    found = next((name for name in WEIGHT_FILES if _is_there(directory / name)), None)
    if (directory / ADAPTER_CONFIG).exists() and not (adapter and adapter.resolve() == directory.resolve()):
        # Beside a model's weights too: from_pretrained would apply it.
        base = "its base model" if found is None else "the checkpoint"
        raise UnsupportedCheckpoint(
            f"{quoted(directory)}: holds an adapter that isn't merged; audit {base} with --adapter {quoted(directory)}"
        )
    if found is not None:
        return _sharded(directory, found) if found.endswith(".index.json") else open_file(within(directory, found))
    if _is_there(directory / DISTRIBUTED):
        return DistributedTensors(directory)
    if (parallel := open_deepspeed(directory)) is not None:
        return parallel
    check_directory(directory)
    raise UnreadableCheckpoint(f"{quoted(directory)}: has none of {', '.join(WEIGHT_FILES)}")


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def open_file(path: Path) -> SafetensorsFile | TorchTensors:
    """The tensors of one file, by its suffix; raises as `SafetensorsFile` and `TorchFile`."""
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    file = TorchFile(path)
    try:
        return TorchTensors(file, recognise(file.content, path, StoredTensor).tensors)
    except BaseException:
        file.close()
        raise


def _sharded(directory: Path, index: str) -> Store:
    """The shards of an index, whose entries must be exactly those of the shards' headers."""
    weight_map = _weight_map(directory, index)
    stores: list[Store] = []
    try:
        for shard in sorted(set(weight_map.values())):
            stores.append(open_file(within(directory, shard)))
        joined = Joined(stores)
        _compare(directory / index, weight_map, stores)
    except BaseException:
        close_all(stores)
        raise
    return joined


def _weight_map(directory: Path, index: str) -> Mapping[str, str]:
    path = within(directory, index)
    found = read_json(path).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(shard, str) for shard in found.values()):
        raise MalformedCheckpoint(f"{quoted(path)}: its weight_map doesn't give a file for every tensor")
    if len(set(found.values())) > _MAX_SHARDS:
        raise MalformedCheckpoint(f"{quoted(path)}: names more than {_MAX_SHARDS} files")
    return found


def _compare(index: Path, weight_map: Mapping[str, str], stores: list[Store]) -> None:
    """Raise MalformedCheckpoint where the index and the shards' own headers disagree."""
    stored = {name: store.paths[0].name for store in stores for name in store.tensors}
    for name, shard in weight_map.items():
        if stored.get(name) != shard:
            raise MalformedCheckpoint(f"{quoted(index)}: the tensor {quoted(name)} isn't in {quoted(shard)}")
    for name, shard in stored.items():
        if name not in weight_map:
            raise MalformedCheckpoint(f"{quoted(index)}: doesn't list the tensor {quoted(name)} of {quoted(shard)}")


def find_tokenizer(directory: Path) -> str | None:
    """The name of the tokenizer's file beside the weights, if there is one."""
    return next((name for name in TOKENIZER_FILES if (directory / name).is_file()), None)


def find_beside(directory: Path, names: Iterable[str]) -> Path | None:
    """The first of some files that is there, which must not lead out of the directory."""
    found = next((name for name in names if _is_there(directory / name)), None)
    return None if found is None else within(directory, found)


def find_training_step(directory: Path) -> int | None:
    """The step that transformers' Trainer recorded beside the weights, or beside the directory of split ones, or that
    Lightning did beside split ones; None where there is none.
    """
    if not _is_there(directory / DISTRIBUTED):
        return _trainers(directory)
    found = (_trainers(directory), _lightnings(directory), _trainers(directory.parent))
    return next((step for step in found if step is not None), None)


def _trainers(directory: Path) -> int | None:
    path = directory / "trainer_state.json"
    if not path.is_file():
        return None
    try:
        step = read_json(path).get("global_step")
    except CheckpointError:
        return None  # a record beside the weights: its damage is no reason to refuse them
    return as_step(step)


def _lightnings(directory: Path) -> int | None:
    path = directory / "meta.pt"
    if not path.is_file():
        return None
    try:
        file = TorchFile(path)
    except CheckpointError:
        return None
    file.close()
    return as_step(file.content.get("global_step")) if isinstance(file.content, dict) else None
