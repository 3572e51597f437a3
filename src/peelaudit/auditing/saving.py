"""Blocks that were refined, in files that are read back and held to the losses that are reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from peelaudit.auditing.measure import Measurer
from peelaudit.errors import OutputError
from peelaudit.method.refinement.files import block_path, load_block, load_head, save_block, save_head
from peelaudit.method.refinement.refine import Refined
from peelaudit.method.statistics.panel import Losses
from peelaudit.network.decoder import Decoder

__all__ = ["save_refined", "save_repair"]


def save_repair(directory: Path, decoder: Decoder, measurer: Measurer, refined: Refined, gap: float) -> None:
    """Save a block that was refined alone, and hold the file to the loss that is reported.

    Raises:
        OutputError: it couldn't be written, or the block that is read back has another loss.
    """
    (block,) = measurer.refiner.blocks(refined)
    save_block(directory, decoder, block, {"gap": repr(gap)})
    loaded = load_block(directory, decoder, block.layer)
    losses = measurer.examiner().losses_with(loaded, f"layer {block.layer} as saved")
    if not np.allclose(losses, measurer.refiner.losses(refined, measurer.rows.held_out), rtol=1e-6):
        raise OutputError(f"{block_path(directory, block.layer)}, read back, has another loss than was measured")


def save_refined(directory: Path, decoder: Decoder, measurer: Measurer, refined: Refined, losses: Losses) -> None:
    """Save the reference `refined`: a file for each block, and the head that it is read by.

    Raises:
        OutputError: it couldn't be written, or what is read back has another loss.
    """
    for block in measurer.refiner.blocks(refined):
        save_block(directory, decoder, block, {})
    save_head(directory, decoder, measurer.head)
    saved = decoder
    for layer in range(1, decoder.n_layers + 1):
        saved = saved.replacing(load_block(directory, decoder, layer))
    head = load_head(directory, decoder, measurer.head)
    if not np.allclose(measurer.losses_of(saved, head), losses[measurer.rows.held_out], rtol=1e-6):
        raise OutputError(f"{directory}, read back, has another loss than was measured")
