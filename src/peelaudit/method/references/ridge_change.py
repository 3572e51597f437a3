"""A ridge change of a block's writers, and one near it after which they are in their low-bit sets.

It is rounded against the same Gram matrix (`peelaudit.network.lowbit.rounding`), with the penalty that is best for
floats: others were measured to be no better.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from peelaudit.method.references.writers import feature_parts, writer_groups, writer_weights
from peelaudit.network.block import Block
from peelaudit.network.lowbit.rounding import fit_to_grid

__all__ = ["RidgeChange", "rounded"]

_TOGETHER = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Weights that are rounded at once, of several targets: a GPU is fast at many columns, and slow at many steps."""


@dataclass(frozen=True, slots=True)
class RidgeChange:
    """A change of a block's writers: `value` [features, d_model] float64, and its summed squared error on *select*.
    `penalties` are those of the groups, None where a group stays as it is.

    Low-bit writers are low-bit after it, to the last bit.
    """

    value: Tensor
    penalties: tuple[float | None, ...]
    error: float

    @property
    def penalty(self) -> float:
        """The largest of the groups'."""
        return max(penalty for penalty in self.penalties if penalty is not None)


def rounded(
    block: Block,
    writers: tuple[int, ...],
    grams: Sequence[tuple[Tensor, Tensor]],
    changes: Sequence[RidgeChange | None],
) -> list[RidgeChange | None]:
    """Changes after which the writers are in their low-bit sets, and near those given in what they do.

    Args:
        block: as trained.
        writers: those that change.
        grams: of each group of them, F'F, [features, features], and its mean eigenvalue.
        changes: by target.
    """
    given = {target: change for target, change in enumerate(changes) if change is not None}
    cuts = {target: torch.split(change.value, [len(gram) for gram, _ in grams]) for target, change in given.items()}
    parts: dict[int, list[Tensor]] = {target: [] for target in given}
    for group, (gram, mean) in enumerate(grams):
        wanted = {target: (cuts[target][group], change.penalties[group]) for target, change in given.items()}
        for target, part in _group(block, writer_groups(block, writers)[group], gram, mean, wanted).items():
            parts[target].append(part)
    found = {target: replace(change, value=torch.cat(parts[target])) for target, change in given.items()}
    return [found.get(target) for target in range(len(changes))]


def _group(
    block: Block,
    writers: tuple[int, ...],
    gram: Tensor,
    mean: Tensor,
    wanted: Mapping[int, tuple[Tensor, float | None]],
) -> dict[int, Tensor]:
    """The same of one group, by target: of changes with their penalties, of which one rounding serves all targets.

    A group without a penalty, such as an expert's that no token reached, stays as it is.
    """
    result = {target: change for target, (change, _) in wanted.items()}
    parts = feature_parts(block, writers)
    if all(part.constraint is None for part in parts):
        return result
    by_penalty: dict[float, list[int]] = defaultdict(list)
    for target, (_, penalty) in wanted.items():
        if penalty is not None:
            by_penalty[penalty].append(target)
    trained = writer_weights(block, writers, gram.dtype)
    dtype = next(block.module.parameters()).dtype
    size = max(1, _TOGETHER.get(trained.device.type, 1 << 22) // trained.numel())
    for penalty, targets in by_penalty.items():
        damped = gram + torch.diag_embed((penalty * mean).expand(len(trained)))
        for first in range(0, len(targets), size):
            chosen = targets[first : first + size]
            near = torch.stack([trained + result[target] for target in chosen])
            for target, weight in zip(chosen, fit_to_grid(near, trained, damped, parts, dtype), strict=True):
                result[target] = weight - trained
    return result
