"""The grids of a whole checkpoint, found in the one pass that checks its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from torch import Tensor

from peelaudit.checkpoints import Checkpoint
from peelaudit.lowbit.detection import find_grid
from peelaudit.progress import SILENT, Progress
from peelaudit.records import CheckpointInfo, Grid, TensorInfo

__all__ = ["Grids"]


class Grids:
    """The grids of a checkpoint's matrices.

    Args:
        checkpoint: open; every weight is read, and refused if it isn't finite.
        progress: told of each tensor.

    Raises:
        CheckpointError: as `Checkpoint.check_weights`.
    """

    def __init__(self, checkpoint: Checkpoint, progress: Progress = SILENT) -> None:
        self._info = checkpoint.info
        self._stored: dict[str, Grid] = {}
        self._named: dict[str, Grid | None] = {}
        checkpoint.check_weights(progress, visit=self._look)

    def _look(self, name: str, weight: Tensor, stored: TensorInfo) -> None:
        if weight.ndim != 2:
            return
        grid = self._named[name] = find_grid(weight, stored.dtype)
        if grid is not None:
            self._stored[stored.name] = grid

    def info(self) -> CheckpointInfo:
        """What the checkpoint is, with the grids of its tensors."""
        tensors = tuple(replace(tensor, grid=self._stored.get(tensor.name)) for tensor in self._info.tensors)
        return replace(self._info, tensors=tensors)

    def warnings(self, blocks: str) -> tuple[str, ...]:
        """What float references of low-bit blocks mean; nothing for a float network.

        Args:
            blocks: the path of the blocks in the skeleton.
        """
        matrices = [grid for name, grid in self._named.items() if name.startswith(f"{blocks}.")]
        kinds = Counter(grid.name for grid in matrices if grid is not None)
        if not kinds:
            return ()
        found = ", ".join(f"{number} of {len(matrices)} matrices {words}" for words, number in kinds.most_common())
        words = (
            f"the blocks are low-bit ({found}) and the references are float: where one beats this network, the price "
            "of the bits may be why; that none does says all the more"
        )
        return (words,)
