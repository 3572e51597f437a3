"""The low-bit sets of a whole checkpoint: those that its matrices lie on, or one asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from peelaudit.checkpoints import Checkpoint
from peelaudit.errors import ConfigError
from peelaudit.network.experts import map_names, routers, stacks
from peelaudit.network.linear import keeps_inputs_first
from peelaudit.network.lowbit.constraints import Constraint
from peelaudit.network.lowbit.detection import find_grid
from peelaudit.network.lowbit.tables import constraint_of
from peelaudit.records import CheckpointInfo, Grid, LowBit, LowBitSet, ScaleLayout, TensorInfo

__all__ = ["Grids", "Holding"]


@dataclass(frozen=True, slots=True)
class Holding:
    """What a checkpoint's blocks are held to: `constraints` by the matrices' names, whether matrices must be rounded to
    them first, and `low_bit` for the report, None for a float network.
    """

    constraints: Mapping[str, Constraint]
    rounding: bool
    low_bit: LowBit | None


class Grids:
    """The grids of a checkpoint's matrices, as far as these were added.

    Args:
        checkpoint: open.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._info = checkpoint.info
        self._stored: dict[str, Grid] = {}
        self._named: dict[str, tuple[Grid | None, int]] = {}
        skeleton = checkpoint.skeleton()
        self._stacks, self._transposed = stacks(skeleton), _transposed(skeleton)
        self._parts = checkpoint.parts
        self.routers = routers(skeleton)

    def add(self, name: str, weight: Tensor, stored: TensorInfo) -> None:
        """Look at one tensor, by its name in the skeleton; all but matrices and stacks of experts' are passed over."""
        if name in self._stacks:
            matrices = weight.mT if self._stacks[name] else weight
            names = map_names(name, len(matrices))
        elif weight.ndim == 2 and name.removesuffix("_bias") not in self._stacks:
            matrices = (weight.T if name in self._transposed else weight)[None]
            names = [name]
        else:
            return
        found = [_grid_of(matrix, stored.dtype, self._parts(name)) for matrix in matrices]
        self._named.update((one, (grid, matrices.shape[2])) for one, grid in zip(names, found, strict=True))
        if (grid := _common(found)) is not None:
            self._stored[stored.name] = grid

    def info(self) -> CheckpointInfo:
        """What the checkpoint is, with the grids of its tensors."""
        tensors = tuple(replace(tensor, grid=self._stored.get(tensor.name)) for tensor in self._info.tensors)
        return replace(self._info, tensors=tensors)

    def matrices(self, blocks: str) -> tuple[str, ...]:
        """The names of the blocks' matrices, of experts each one's; `blocks` is their path in the skeleton."""
        return tuple(name for name in self._named if name.startswith(f"{blocks}."))

    def holding(
        self, bits: Grid | Literal["auto", "float"], matrices: Collection[str], wanted: Collection[str]
    ) -> Holding:
        """What references are held to.

        Args:
            bits: a set for every matrix of `wanted`; `auto` for each its own, where it has one; `float` for none.
            matrices: all of the blocks'.
            wanted: those of them that a set which is asked for is meant for.

        Raises:
            ConfigError: a matrix can't be cut into the groups that were asked for.
        """
        if not isinstance(bits, Grid):
            found = {name: grid for name in matrices if (grid := self._named[name][0]) is not None}
            low_bit = _described(found, len(matrices), held=bits == "auto")
            constraints = {name: constraint_of(grid) for name, grid in found.items()} if bits == "auto" else {}
            return Holding(constraints, rounding=False, low_bit=low_bit)
        for name in wanted:
            inputs = self._named[name][1]
            if bits.layout is ScaleLayout.GROUP and bits.group is not None and inputs % bits.group:
                raise ConfigError(f"bits asks for groups of {bits.group}, and {name} has {inputs} inputs")
        low_bit = _described(dict.fromkeys(wanted, bits), len(matrices), held=True)
        return Holding(dict.fromkeys(wanted, constraint_of(bits)), rounding=True, low_bit=low_bit)


def _grid_of(matrix: Tensor, stored: str, parts: int) -> Grid | None:
    """The grid of a matrix, [outputs, inputs], which may be that of each of its parts with scales of its own."""
    if parts > 1 and len(matrix) % parts == 0:
        found = _common([find_grid(part, stored) for part in matrix.chunk(parts)])
        if found is not None:
            return found
    return find_grid(matrix, stored)


def _common(grids: Sequence[Grid | None]) -> Grid | None:
    """The grid that all of them are, with the mean share of zeros; None where one is another."""
    found = [grid for grid in grids if grid is not None]
    if len(found) < len(grids) or len({replace(grid, zero_fraction=0.0) for grid in found}) != 1:
        return None
    return replace(found[0], zero_fraction=sum(grid.zero_fraction for grid in found) / len(found))


def _described(grids: Mapping[str, Grid], matrices: int, *, held: bool) -> LowBit | None:
    kinds = Counter(grid.name for grid in grids.values())
    sets = tuple(LowBitSet(name, number) for name, number in kinds.most_common())
    return LowBit(sets, matrices, held) if sets else None


def _transposed(skeleton: nn.Module) -> frozenset[str]:
    """The matrices that are kept as [inputs, outputs], as transformers' Conv1D has them."""
    return frozenset(
        f"{name}.weight"
        for name, module in skeleton.named_modules()
        if getattr(module, "weight", None) is not None
        and keeps_inputs_first(module)
        and not isinstance(module, nn.Embedding)
    )
