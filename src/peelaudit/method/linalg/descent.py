"""Steps down a loss along natural-gradient directions, each conjugate to the one before it (Polak and Ribière).

What is minimised says which directions it has and how far along one to look. Its gradients are of some tokens, and the
looks are at others: there is no learning rate, and nothing is random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.changes import Changes, dot, plus, times
from peelaudit.method.linalg.line_search import Probe, by_parabolas, least

__all__ = ["LEAST_GAIN", "Course", "Direction", "Objective", "best_probe", "natural_steps"]

FIRST_GAIN = 1.0
"""nats/token that the first look would gain if the loss were linear: far, for near a damaged block's weights the loss
may curve more than it does further on."""
LEAST_GAIN = 0.03
"""Share of the gain so far that a step must add to be followed by another one."""


@dataclass(frozen=True, slots=True)
class Direction:
    """The gradient of a loss, and the natural-gradient direction there."""

    slopes: Changes
    natural: Changes


class Objective(Protocol):
    """A loss of the changes of some maps."""

    def direction(self, changes: Changes) -> Direction:
        """Where to go from there, by the tokens that are learnt from."""
        ...

    def search(
        self, at: Callable[[float], Changes], first: float, *, start: float, slope: float, likely: bool
    ) -> Probe:
        """The best look along a direction, at tokens of its own: see `peelaudit.method.linalg.line_search`.

        Args:
            at: the changes after a step.
            first: where to look first.
            start: the loss without a step, nats/token.
            slope: of the loss there, below 0.
            likely: whether `first` was the best step elsewhere.
        """
        ...

    def kept(self, direction: Changes) -> Changes:
        """Copies of a direction, in a place of their own."""
        ...

    def stepped(self, changes: Changes, step: Changes) -> Changes:
        """The changes after a step, in their own place: the ones given are gone."""
        ...


@dataclass(frozen=True, slots=True)
class _Step:
    """One that was taken: the slopes there, their product with the natural-gradient direction, and the step."""

    slopes: Changes
    size: float
    changes: Changes


@dataclass
class Course:
    """How far some maps have come.

    Attributes:
        start: the loss without changes, nats/token.
        loss: with them.
        changes: of the maps.
        steps: that were taken.
        first: the length of the first of them; before it is taken, one that was the best elsewhere. None where there
            is neither.
    """

    start: float
    loss: float
    changes: Changes = field(default_factory=dict)
    steps: int = 0
    first: float | None = None

    @property
    def gain(self) -> float:
        """nats/token."""
        return self.start - self.loss


def natural_steps(course: Course, objective: Objective, most: int, *, least: float = 0.0) -> None:
    """Take steps until one gains less than `LEAST_GAIN` of all, or none gains, or the loss has no gradient any more.

    Args:
        course: from where; how far it comes is written into it.
        objective: what is minimised.
        most: steps at most.
        least: nats/token that each must gain to be taken.

    Raises:
        NonFiniteResult: there is no gradient where it begins.
    """
    previous: _Step | None = None
    expected = FIRST_GAIN
    for _ in range(most):
        try:
            at = objective.direction(course.changes)
        except NonFiniteResult:
            if course.steps == 0:
                raise
            break
        direction = at.natural if previous is None else _conjugate(objective, at, previous)
        slope, before = dot(at.slopes, direction), course.loss
        likely = course.first if course.steps == 0 else None
        best = _best(objective, course, direction, slope, expected, likely)
        if best is None or not best.loss < before - least:
            break
        step = times(best.step, direction)
        course.changes = objective.stepped(course.changes, step)
        course.first = course.first if course.steps else best.step
        course.loss, course.steps = best.loss, course.steps + 1
        previous = _Step(at.slopes, dot(at.slopes, at.natural), step)
        expected = -slope * best.step
        if before - course.loss < LEAST_GAIN * course.gain:
            break


def best_probe(look: Callable[[float], float], first: float, *, start: float, slope: float) -> Probe:
    """The best look along a direction of a smooth loss, the first one no farther than `FIRST_GAIN` is; see
    `by_parabolas`.
    """
    return least(by_parabolas(look, min(first, FIRST_GAIN / -slope), start=start, slope=slope))


def _best(
    objective: Objective, course: Course, direction: Changes, slope: float, expected: float, likely: float | None
) -> Probe | None:
    """The best look along a direction, near a likely step if there is one; none where it doesn't lead down."""
    if not slope < 0:
        return None

    def at(step: float) -> Changes:
        return plus(course.changes, step, direction)

    first = expected / -slope if likely is None else likely
    return objective.search(at, first, start=course.loss, slope=slope, likely=likely is not None)


def _conjugate(objective: Objective, at: Direction, before: _Step) -> Changes:
    """The natural-gradient direction plus as much of the last step as Polak and Ribière say.

    The last step is a multiple of its direction.
    """
    if not before.size < 0:
        return at.natural
    share = (dot(at.slopes, at.natural) - dot(before.slopes, at.natural)) / before.size
    length = dot(before.slopes, before.changes) / before.size
    if not (share > 0 and length > 0):
        return at.natural
    return objective.kept(plus(at.natural, share / length, before.changes))
