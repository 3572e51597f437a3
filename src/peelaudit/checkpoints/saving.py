"""A network as a directory that transformers loads: config.json, and its weights as floats in safetensors files."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from peelaudit.checkpoints.checkpoint import Checkpoint
from peelaudit.checkpoints.unheard import unheard

__all__ = ["as_saved", "other_weights", "save_directory"]

SHARD = 5 << 30
"""Bytes of a file at most, as transformers has it."""
_WHOLE = "model.safetensors"


def save_directory(checkpoint: Checkpoint, directory: Path, config: Any, parts: Iterable[Mapping[str, Tensor]]) -> None:
    """Write a network of the checkpoint's family.

    Args:
        checkpoint: whose names transformers' are.
        directory: an empty one.
        config: transformers' configuration of the network.
        parts: all of its parameters by transformers' names, a block at a time; a part is held until its file is full.

    Raises:
        OSError: it couldn't be written.
    """
    homes: dict[str, int] = {}
    shard: dict[str, Tensor] = {}
    paths: list[Path] = []

    def close() -> None:
        paths.append(directory / f"shard-{len(paths)}")
        save_file(shard, paths[-1], metadata={"format": "pt"})
        homes.update(dict.fromkeys(shard, len(paths) - 1))
        shard.clear()

    size = 0
    for part in parts:
        found = {name: tensor.contiguous() for name, tensor in as_saved(checkpoint, part).items()}
        more = sum(tensor.nbytes for tensor in found.values())
        size += more
        if shard and sum(tensor.nbytes for tensor in shard.values()) + more > SHARD:
            close()
        shard.update(found)
    close()
    _name(directory, paths, homes, size)
    config = copy.deepcopy(config)
    config.architectures = [checkpoint.info.architecture]
    config.dtype = max((checkpoint.dtype(name) for name in checkpoint.names()), key=lambda dtype: dtype.itemsize)
    with unheard():
        config.save_pretrained(directory)


def _name(directory: Path, paths: list[Path], homes: Mapping[str, int], size: int) -> None:
    """The files' names, and the index of several."""
    if len(paths) == 1:
        paths[0].rename(directory / _WHOLE)
        return
    names = [f"model-{number:05}-of-{len(paths):05}.safetensors" for number in range(1, len(paths) + 1)]
    for path, name in zip(paths, names, strict=True):
        path.rename(directory / name)
    index = {"metadata": {"total_size": size}, "weight_map": {name: names[home] for name, home in homes.items()}}
    (directory / f"{_WHOLE}.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def other_weights(checkpoint: Checkpoint, blocks: str) -> Iterator[dict[str, Tensor]]:
    """The parameters outside of the blocks, one at a time; of tied ones the first."""
    for name in checkpoint.names():
        if not name.startswith(f"{blocks}.") and checkpoint.tied[name] == name:
            yield {name: checkpoint.stored(name)}


def as_saved(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters under the names, and in the parts, that transformers saves them in."""
    from transformers.core_model_loading import revert_weight_conversion

    if not weights:
        return {}
    parts: dict[str, Tensor] = revert_weight_conversion(checkpoint.skeleton(), dict(weights))
    return parts
