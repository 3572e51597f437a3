"""Blocks moved along second-order steps of the network's own loss (docs/method.md, The refined reference).

All blocks at once, that is the reference `refined`; or one block alone with every other left as it is, and what it
gains is that layer's gap. The head is fixed, *fit* has the gradients and *select* says how far to go and when to stop:
there is no learning rate, and nothing is random.

First natural-gradient steps (`peelaudit.method.linalg.kronecker`), each conjugate to the one before it (Polak and
Ribière): far from an optimum they are the better value. Where one adds little, they are blind: the curvature's factors
leave out what is left to gain. Then the exact Gauss-Newton curvature, by one forward-mode and one reverse-mode pass a
product: conjugate gradients, whose iterates are a path from the gradient to the Newton step, are regularised by where
one stops, and *select* picks the iterate and its length (Martens, "Deep learning via Hessian-free optimization", 2010).
The factors as a preconditioner of it gain nothing: they take away that path.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.changes import Changes, dot, plus, times
from peelaudit.method.linalg.descent import LEAST_GAIN, Course, Direction, natural_steps
from peelaudit.method.readouts.shortlist import Nearby
from peelaudit.method.refinement.changed_network import ChangedNetwork, Layers
from peelaudit.method.refinement.downstream import Downstream
from peelaudit.method.refinement.looks import Moving
from peelaudit.method.refinement.reach import Reach, likely_first
from peelaudit.network.block import Block
from peelaudit.progress import SILENT, Progress

__all__ = ["Refined", "Refiner"]

LENGTHS = (1.0, 0.5, 0.25)
"""Of each iterate of conjugate gradients, those that *select* is asked about."""
PATIENCE = 2
"""Products without a gain on *select* after which conjugate gradients stop."""
LEAST_LOOKED = 512
"""Tokens of *select* whose losses a look takes at least, all if there are fewer."""
LEAST_CURVED = 2048
"""Tokens of *fit* that the Gauss-Newton curvature is taken of at least, all if there are fewer."""
FAR = 0.05
"""nats/token that natural-gradient steps gain on *select* far from an optimum, where exact curvature is poor value for
its time. A guess."""


@dataclass(frozen=True, slots=True)
class Refined:
    """Blocks that were moved: none where nothing helps on *select*.

    Attributes:
        layers: the first and the last of them, 1 … L.
        changes: of their maps, before low-bit weights are rounded.
        steps: natural-gradient steps that were taken.
        products: with the Gauss-Newton curvature.
        select_gain: nats/token, of the sequences of *select* that were looked at.
        first: the length of the first step; None where none was taken.
    """

    layers: Layers
    changes: Changes
    steps: int
    products: int
    select_gain: float
    first: float | None

    @property
    def moved(self) -> bool:
        """Whether any weight is another one."""
        return bool(self.changes)


@dataclass(kw_only=True)
class _Blocks(Course):
    """How far some blocks have come, with how many products, and what is looked at."""

    layers: Layers
    looked: slice
    products: int = 0


class Refiner:
    """Moves a network's blocks.

    Args:
        downstream: the network, under the readout that the losses are taken with.
        states: h_0 … h_L, each [sequences, positions, d_model].
        losses: [sequences] nats of the network under that readout, of all sequences.
    """

    def __init__(self, downstream: Downstream, states: Sequence[Tensor], losses: NDArray[np.float64]) -> None:
        self._network, self._losses = ChangedNetwork(downstream, states), losses
        self._first: Direction | None = None
        self._counted = False

    @property
    def work(self) -> tuple[float, float]:
        """What was computed so far: passes of one block over a sequence, and of the head over a token."""
        work = self._network.down.decoder.work
        return work.blocks, work.head

    def passes(self, since: tuple[float, float]) -> float:
        """What was computed since that was the `work`, in forward passes of the network over all calibration tokens."""
        blocks, head = (now - then for now, then in zip(self.work, since, strict=True))
        return self._network.down.decoder.passes_of(blocks, head) / len(self._losses)

    def all(self, reach: Reach, *, progress: Progress = SILENT) -> Refined:
        """Move all blocks at once.

        Raises:
            NonFiniteResult: naming the layer.
        """
        progress.stage("refined reference", 1)
        found = self._refined((1, self._network.n_layers), reach)
        progress.advance()
        return found

    def alone(self, layer: int, reach: Reach, *, first: float | None = None) -> Refined:
        """Move one block; where looks are thinned, the search for its first step's length begins with `first`, if that
        is given.

        Raises:
            NonFiniteResult: naming the layer.
        """
        return self._refined((layer, layer), reach, first if reach.thinned > 1 else None)

    def directed(self, layer: int) -> Direction:
        """The direction of one block as trained. Raises NonFiniteResult naming the layer."""
        return self._direction((layer, layer), {})

    def begin(self, direction: Direction) -> None:
        """Take the direction of the blocks that are moved, as trained, from elsewhere: it isn't computed here."""
        self._first = Direction(*map(self._network.directed, (direction.slopes, direction.natural)))

    def recall(self) -> None:
        """What was computed at the blocks as trained, in an earlier process, isn't counted once more."""
        self._counted = True

    def each(
        self, reach: Reach, *, firsts: Sequence[float | None] = (), progress: Progress = SILENT
    ) -> Iterator[Refined]:
        """Move every block alone, the last first; as many of the first as `firsts` has are left out.

        Args:
            reach: how far.
            firsts: the lengths of their first steps, see `likely_first`.
            progress: told of each.

        Raises:
            NonFiniteResult: naming the layer.
        """
        progress.stage("layers' gaps", self._network.n_layers)
        known = list(firsts)
        progress.advance(len(known))
        for layer in range(self._network.n_layers - len(known), 0, -1):
            refined = self.alone(layer, reach, first=likely_first(known))
            known.append(refined.first)
            yield refined
            progress.advance()

    def estimated(self, *, progress: Progress = SILENT) -> NDArray[np.float64] | None:
        """[sequences] nats of *held-out* that one natural-gradient step of all blocks would gain, without taking it.

        The step is *fit*'s, its length the best of the quadratic model on *select*, and that model of *held-out*, which
        neither has seen, says what it gains. None where the blocks have no forward-mode derivative.

        Raises:
            NonFiniteResult: naming the layer.
        """
        progress.stage("estimate", 1)
        natural = self._natural()
        try:
            slopes, bends = self._network.modelled(natural, self._network.rows.select)
            length = -slopes.sum() / bends.sum() if bends.sum() > 0 else 0.0
            slopes, bends = self._network.modelled(natural, self._network.rows.held_out)
        except NotImplementedError:
            return None
        length = max(0.0, float(length))
        gain: NDArray[np.float64] = -length * slopes - length**2 / 2 * bends
        progress.advance()
        return gain

    def blocks(self, refined: Refined) -> Iterator[Block]:
        """The blocks that were moved, as the network would have them, one held at a time."""
        first, last = refined.layers
        return (self.block(refined, layer) for layer in range(first, last + 1))

    def block(self, refined: Refined, layer: int) -> Block:
        """One of them."""
        return self._network.block(layer, refined.changes)

    def final(self, refined: Refined, rows: slice) -> Tensor:
        """The last states of the sequences `rows`, [sequences, positions, d_model], with these blocks in the network.

        Raises:
            NonFiniteResult: a state became NaN or Inf.
        """
        return self._network.final(refined.layers, refined.changes, rows)

    def losses(self, refined: Refined, rows: slice) -> NDArray[np.float64]:
        """[sequences] nats of the sequences `rows` with these blocks in the network; errors as `final`."""
        return (
            self._network.losses(refined.layers, refined.changes, rows) if refined.moved else self._losses[rows].copy()
        )

    def _some(self, rows: slice, one_of: int, least: int) -> slice:
        """One of so many of these sequences, or of fewer where less than `least` tokens would be left."""
        return slice(rows.start, rows.stop, max(1, min(one_of, self._network.predictions(rows) // least)))

    def _refined(self, layers: Layers, reach: Reach, first: float | None = None) -> Refined:
        course = self._course(layers, reach, first)
        if reach.afresh and course.steps and course.gain < FAR:
            afresh = self._course(layers, replace(reach, steps=0, rounds=1), None)
            course = min(course, afresh, key=lambda one: one.loss)
        step = course.first if course.steps else None
        return Refined(course.layers, course.changes, course.steps, course.products, course.gain, step)

    def _course(self, layers: Layers, reach: Reach, first: float | None) -> _Blocks:
        looked = self._some(self._network.rows.select, reach.thinned, LEAST_LOOKED)
        curved = self._some(self._network.rows.fit, reach.curved, LEAST_CURVED)
        start = float(self._losses[looked].sum()) / self._network.predictions(looked)
        course = _Blocks(start=start, loss=start, layers=layers, looked=looked, first=first)
        moving = Moving(self._network, layers, looked, self._direction, start, self._nearby(looked))
        for _ in range(reach.rounds):
            before = course.gain
            natural_steps(course, moving, reach.steps)
            if reach.products and course.gain < FAR and not self._network.low_bit(course.layers):
                self._gauss_newton(course, reach.products, curved)
            if course.gain - before <= LEAST_GAIN * course.gain:
                break
        return course

    def _nearby(self, looked: slice) -> Nearby | None:
        """What tells losses near the trained states of these sequences."""
        with self._network.down.decoder.work.counted_before(was=self._counted):
            return self._network.nearby(looked)

    def _direction(self, layers: Layers, changes: Changes) -> Direction:
        """At the blocks as they are; at the trained ones, one sweep down has those of all."""
        if changes:
            return self._network.swept(layers, changes)
        if self._first is None:
            with self._network.down.decoder.work.counted_before(was=self._counted):
                self._first = self._network.swept((1, self._network.n_layers), {})
        first, last = layers
        return Direction(*(
            {key: change for key, change in part.items() if first <= key[0] <= last}
            for part in (self._first.slopes, self._first.natural)
        ))  # fmt: skip

    def _natural(self) -> Changes:
        """The direction of all blocks as trained; the slopes, which take as much memory, aren't kept for it."""
        if self._first is not None:
            return self._first.natural
        with self._network.down.decoder.work.counted_before(was=self._counted):
            return self._network.swept((1, self._network.n_layers), {}, slopes=False).natural

    def _gauss_newton(self, course: _Blocks, most: int, rows: slice) -> None:
        """Conjugate gradients on the exact curvature of the sequences `rows`, from the blocks as they are; the best
        iterate is kept. Nothing where the loss has no gradient any more.
        """
        states = self._network.risen(course.layers, course.changes)
        try:
            residual = times(-1.0, self._network.gradient(course.layers, course.changes, states))
        except NonFiniteResult:
            if course.steps == 0:
                raise
            return
        states = [state[:: rows.step] for state in states]
        direction, size = residual, dot(residual, residual)
        path: Changes = {}
        best: Changes | None = None
        start, since = course.changes, 0
        while since < PATIENCE and most > 0 and size > 0:
            try:
                product = self._network.product(course.layers, start, states, direction, rows)
            except NotImplementedError:
                break
            curvature = dot(direction, product)
            if not (curvature > 0 and math.isfinite(curvature)):
                break
            path = self._network.kept(plus(path, size / curvature, direction))
            residual = self._network.kept(plus(residual, -size / curvature, product))
            before, size = size, dot(residual, residual)
            direction = self._network.kept(plus(residual, size / before, direction))
            most, since, course.products = most - 1, since + 1, course.products + 1
            for length in LENGTHS:
                changes = plus(start, length, path)
                loss = self._network.loss(course.layers, changes, course.looked)
                if loss < course.loss:
                    course.loss, best, since = loss, changes, 0
        if best is not None:
            course.changes = self._network.kept(best)
