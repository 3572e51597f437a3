"""Repaired blocks as safetensors files, one a layer, with the names that transformers' module has for the weights."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from peelaudit.errors import OutputError
from peelaudit.network.block import Block
from peelaudit.network.decoder import Decoder

__all__ = ["load_repair", "repair_path", "save_repair"]


def repair_path(directory: Path, layer: int) -> Path:
    """Where a layer's repaired block is."""
    return directory / f"layer-{layer:03}.safetensors"


def save_repair(directory: Path, decoder: Decoder, block: Block, gap: float) -> None:
    """Write the block's weights under their names in the whole network.

    Args:
        directory: made if it isn't there.
        decoder: of the network.
        block: the repaired one.
        gap: by how much the held-out loss falls with it, nats/token; it is kept in the file's metadata.

    Raises:
        OutputError: it couldn't be written.
    """
    prefix = f"{decoder.family.blocks}.{block.layer - 1}."
    tensors = {prefix + name: tensor.detach().cpu().contiguous() for name, tensor in block.present().items()}
    path = repair_path(directory, block.layer)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata={"layer": str(block.layer), "repair_gap": repr(gap)})
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} can't be written: {getattr(error, 'strerror', None) or error}") from error


def load_repair(directory: Path, decoder: Decoder, layer: int) -> Block:
    """The checkpoint's block with the weights that `save_repair` wrote.

    Raises:
        OutputError: the file can't be read, or hasn't the weights of that block.
    """
    path, block = repair_path(directory, layer), decoder.block(layer)
    prefix = f"{decoder.family.blocks}.{layer - 1}."
    try:
        with safe_open(path, framework="pt") as file:
            saved = {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} can't be read: {error}") from error
    present = block.present()
    if {name: tensor.shape for name, tensor in saved.items()} != {n: tensor.shape for n, tensor in present.items()}:
        raise OutputError(f"{path} hasn't the weights of layer {layer}")
    return block.replaced(saved)
