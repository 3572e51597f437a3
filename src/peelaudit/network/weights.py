"""The one pass over all of a checkpoint's weights: what isn't finite is refused, and what lies on a grid is found."""

from __future__ import annotations

import torch

from peelaudit.checkpoints import Checkpoint
from peelaudit.network.lowbit import Grids
from peelaudit.progress import SILENT, Progress

__all__ = ["check_weights"]


def check_weights(checkpoint: Checkpoint, progress: Progress = SILENT, *, device: torch.device | None = None) -> Grids:
    """Read every weight once.

    Args:
        checkpoint: open.
        progress: told of each tensor.
        device: of the audit: a CUDA device looks at them sooner.

    Returns:
        the grids that its matrices lie on.

    Raises:
        CheckpointError: a weight is NaN or Inf, two that are tied differ, or the bytes are damaged.
    """
    grids = Grids(checkpoint)
    checkpoint.check_weights(progress, visit=grids.add, device=device)
    return grids
