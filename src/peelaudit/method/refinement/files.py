"""Refined blocks as safetensors files, one a layer, with the names that transformers' module has for the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from peelaudit.errors import OutputError
from peelaudit.method.readouts.readout import Readout
from peelaudit.network.block import Block
from peelaudit.network.decoder import Decoder

HEAD = "head.safetensors"

__all__ = ["block_path", "load_block", "load_head", "save_block", "save_head"]


def block_path(directory: Path, layer: int) -> Path:
    """Where a layer's block is."""
    return directory / f"layer-{layer:03}.safetensors"


def save_block(directory: Path, decoder: Decoder, block: Block, facts: Mapping[str, str]) -> None:
    """Write the block's weights under their names in the whole network.

    Args:
        directory: made if it isn't there.
        decoder: of the network.
        block: with its new weights.
        facts: kept in the file's metadata, beside the layer.

    Raises:
        OutputError: it couldn't be written.
    """
    prefix = f"{decoder.family.blocks}.{block.layer - 1}."
    tensors = {prefix + name: tensor.detach().cpu().contiguous() for name, tensor in block.present().items()}
    _write(block_path(directory, block.layer), tensors, {"layer": str(block.layer), **facts})


def load_block(directory: Path, decoder: Decoder, layer: int) -> Block:
    """The checkpoint's block with the weights that `save_block` wrote.

    Raises:
        OutputError: the file can't be read, or hasn't the weights of that block.
    """
    path, block = block_path(directory, layer), decoder.block(layer)
    prefix = f"{decoder.family.blocks}.{layer - 1}."
    saved = {name.removeprefix(prefix): tensor for name, tensor in _read(path).items()}
    present = block.present()
    if {name: tensor.shape for name, tensor in saved.items()} != {n: tensor.shape for n, tensor in present.items()}:
        raise OutputError(f"{path} hasn't the weights of layer {layer}")
    return block.loaded(saved)


def save_head(directory: Path, decoder: Decoder, readout: Readout) -> None:
    """Write the head that the blocks are read by: `weight`, [vocabulary, d_model], and `bias`, if it has one, with a
    temperature in them.

    A refitted head is one of its own, also where the network's is tied to its embedding.

    Raises:
        OutputError: it couldn't be written.
    """
    factor = readout.unembedding.scale / decoder.family.tail.scale
    parts = {"weight": readout.unembedding.weight, "bias": readout.unembedding.bias}
    tensors = {name: (part.detach() * factor).cpu().contiguous() for name, part in parts.items() if part is not None}
    _write(directory / HEAD, tensors, {"readout": readout.kind})


def load_head(directory: Path, decoder: Decoder, like: Readout) -> Readout:
    """A readout of the same kind with the head that `save_head` wrote.

    Raises:
        OutputError: the file can't be read.
    """
    saved = {name: tensor.to(decoder.device) for name, tensor in _read(directory / HEAD).items()}
    weight, bias, scale = saved["weight"], saved.get("bias"), decoder.family.tail.scale
    unembedding = dataclasses.replace(like.unembedding, weight=weight, bias=bias, scale=scale)
    return dataclasses.replace(like, unembedding=unembedding)


def _write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), path, metadata=dict(facts))
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} can't be written: {getattr(error, 'strerror', None) or error}") from error


def _read(path: Path) -> dict[str, Tensor]:
    """Copies, not the mapped file: they begin where torch's own tensors do, and some products are rounded by that."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} can't be read: {error}") from error
