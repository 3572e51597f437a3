"""Which layer? How much held-out loss falls when one block alone is repaired (docs/method.md, Repair gaps).

Block k is moved along natural-gradient steps (`peelaudit.method.linalg.kronecker`) of the network's own loss, taken
through the real blocks above it; every other block is left as it is. Each step is conjugate to the one before it (Polak
and Ribière), which gets further in as many steps: 4.31 of 4.46 nats against 4.20 in ten, where the fixture's first MLP
was zeroed. The step length is found by the real loss on *select*: there is no learning rate, and nothing is random.

The first step is shared work: one sweep down has the gradients of all blocks. `cheap` stops there. `thorough` goes on
until a step adds little to what *select* has gained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.refinement.downstream import Downstream
from peelaudit.network.block import Block
from peelaudit.network.lowbit.constraints import Scales
from peelaudit.progress import SILENT, Progress

__all__ = ["Repair", "RepairMode", "Repairer"]

RepairMode = Literal["cheap", "thorough"]

FIRST_GAIN = 1.0
"""nats/token that the first probe would gain if the loss were linear: far, for near a damaged block's weights the loss
may curve more than it does further on."""
PROBES = 3
"""Looks at *select* along one direction, at most."""
FURTHEST, NEAREST = 4.0, 0.125
"""How far beyond a probe, and short of it, the next may lie."""
LEAST_GAIN = 0.05
"""Share of the select gain so far that a step must add to be followed by another one. On stories260K 0.02 gains 1 to
7 % more in a third more time."""
MOST_STEPS = 16

Changes = Mapping[str, Tensor]
"""Of linear maps, by path: [inputs, outputs], with a last row for the bias where there is one."""


@dataclass(frozen=True, slots=True)
class Repair:
    """One block's repair: `block` is the trained one where no step helps on *select*.

    Attributes:
        layer: 1 … L.
        block: with its new weights.
        steps: that were taken.
        select_gain: nats/token.
        losses: [sequences] nats of *held-out*, with this block in the network.
    """

    layer: int
    block: Block
    steps: int
    select_gain: float
    losses: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Move:
    """A change that was probed: the loss on *select* with it, and what it would have gained if the loss were linear."""

    loss: float
    changes: Changes
    expected: float


@dataclass
class _Course:
    """How far a block's repair is."""

    layer: int
    block: Block
    start: float
    loss: float
    expected: float
    steps: int = 0
    previous: tuple[Changes, Changes, Changes] | None = None
    """The gradient, the natural-gradient direction and the change of the last step."""

    @property
    def gain(self) -> float:
        return self.start - self.loss


class Repairer:
    """Repairs each block of a network alone.

    Args:
        downstream: the network.
        states: h_0 … h_L, each [sequences, positions, d_model].
        own: [sequences] the network's own losses in nats, of all sequences.
    """

    def __init__(self, downstream: Downstream, states: Sequence[Tensor], own: NDArray[np.float64]) -> None:
        self._down, self._states, self._own = downstream, states, own
        self._rows = downstream.data.rows
        self._predicted = int(downstream.data.tokens.shape[1]) - 1
        self._scales: dict[int, Mapping[str, Scales]] = {}

    @property
    def passes(self) -> float:
        """The cost so far, in forward passes of all blocks over all calibration tokens."""
        return self._down.work / ((len(self._states) - 1) * len(self._own))

    def run(self, mode: RepairMode, *, progress: Progress = SILENT) -> Iterator[Repair]:
        """Repair every block, the last first; one of them is held at a time.

        Raises:
            NonFiniteResult: naming the layer.
        """
        progress.stage("repair", len(self._states) - 1)
        for course in self._first_steps():
            if mode == "thorough":
                self._proceed(course)
            progress.advance()
            yield self._judged(course)

    def _judged(self, course: _Course) -> Repair:
        rows = self._rows.held_out
        losses = self._losses(course.layer, course.block, rows) if course.steps else self._own[rows].copy()
        return Repair(course.layer, self._held(course.block), course.steps, course.gain, losses)

    def _first_steps(self) -> Iterator[_Course]:
        """A step of every block, the last block's first, by one sweep down."""
        fit = self._rows.fit
        start = float(self._own[self._rows.select].sum()) / self._predictions(self._rows.select)
        gradient = self._down.top(self._states[-1][fit], fit)
        for layer in range(len(self._states) - 1, 0, -1):
            course = _Course(layer, self._down.decoder.block(layer), start, start, FIRST_GAIN)
            self._step(course, gradient)
            yield course

    def _proceed(self, course: _Course) -> None:
        """Steps until one gains little; each looks at the gradient anew, through the block as it is then."""
        fit, finished = self._rows.fit, course.steps == 0
        while not finished and course.steps < MOST_STEPS:
            what = f"the network with layer {course.layer} repaired"
            states = self._down.rise(course.layer, self._output(course.layer, course.block, fit), what)
            gradient = self._down.top(states[-1], fit)
            self._down.descend(states[:-1], course.layer, gradient)
            before = course.loss
            self._step(course, gradient)
            finished = before - course.loss < LEAST_GAIN * course.gain

    def _step(self, course: _Course, gradient: Tensor) -> None:
        """Take the best step along one direction; none, if none helps on *select*.

        `gradient`, at the block's output, is brought down to its input, through the block as it is before the step.
        """
        inputs = self._states[course.layer - 1][self._rows.fit]
        factors = self._down.factors(self._held(course.block), inputs, gradient)
        curvatures = {path: factor.curvature() for path, factor in factors.items()}
        slopes = {path: curvature.gradient for path, curvature in curvatures.items()}
        natural = {path: curvature.direction() for path, curvature in curvatures.items()}
        best = min(self._search(course, slopes, natural), key=lambda move: move.loss, default=None)
        if best is None or not best.loss < course.loss:
            course.previous = None
            return
        course.block = course.block.changed(best.changes)
        course.loss, course.steps = best.loss, course.steps + 1
        course.previous = (slopes, natural, best.changes)
        course.expected = min(best.expected, FIRST_GAIN)

    def _search(self, course: _Course, slopes: Changes, natural: Changes) -> list[_Move]:
        """Probes along a direction: parabolas through the slope at 0 and the last probe."""
        direction = natural if course.previous is None else _conjugate(slopes, natural, *course.previous)
        slope = _dot(slopes, direction)
        if not slope < 0:
            return []
        moves: list[_Move] = []
        step = course.expected / -slope
        for _ in range(PROBES):
            changes = {path: step * change for path, change in direction.items()}
            loss = self._loss(course.layer, course.block.changed(changes))
            expected = -slope * step
            moves.append(_Move(loss, changes, expected))
            shortfall = expected - (course.loss - loss)
            factor = expected / (2 * shortfall) if shortfall > 0 else FURTHEST
            factor = min(max(factor, NEAREST), FURTHEST)
            if 0.7 < factor < 1.4:
                break
            step *= factor
        return moves

    def _held(self, block: Block) -> Block:
        """The block with its low-bit weights rounded, with the trained scales: what the network would have.

        Steps add up in the unrounded weights; the gradient at the rounded ones is taken for theirs (straight-through).
        """
        if not block.held:
            return block
        if block.layer not in self._scales:
            self._scales[block.layer] = self._down.decoder.block(block.layer).scales()
        return block.rounded(self._scales[block.layer])

    def _loss(self, layer: int, block: Block) -> float:
        """The loss on *select*, nats/token, with this block in the network; infinite where it overflows."""
        rows = self._rows.select
        try:
            losses = self._losses(layer, block, rows)
        except NonFiniteResult:
            return math.inf
        return float(losses.sum()) / self._predictions(rows)

    def _losses(self, layer: int, block: Block, rows: slice) -> NDArray[np.float64]:
        what = f"the network with layer {layer} repaired"
        return self._down.losses(layer, self._output(layer, block, rows), rows, what)

    def _output(self, layer: int, block: Block, rows: slice) -> Tensor:
        return self._down.apply(self._held(block), self._states[layer - 1][rows], f"layer {layer}, repaired")

    def _predictions(self, rows: slice) -> int:
        return int(rows.stop - rows.start) * self._predicted


def _dot(one: Changes, other: Changes) -> float:
    return sum(float((one[path] * other[path]).sum()) for path in one)


def _conjugate(
    slopes: Changes, natural: Changes, slopes_before: Changes, natural_before: Changes, change_before: Changes
) -> Changes:
    """The natural-gradient direction plus as much of the last change as Polak and Ribière say.

    The last change is a step times its direction, which is what it is a multiple of.
    """
    size = _dot(slopes_before, natural_before)
    share = (_dot(slopes, natural) - _dot(slopes_before, natural)) / size if size < 0 else 0.0
    step = _dot(slopes_before, change_before) / size if size < 0 else 0.0
    if not share > 0 or not step > 0:
        return natural
    return {path: direction + share / step * change_before[path] for path, direction in natural.items()}
