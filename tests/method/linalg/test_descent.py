"""Steps down a loss: how far they go, and where they end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.changes import Changes, plus
from peelaudit.method.linalg.descent import LEAST_GAIN, Course, Direction, best_probe, natural_steps
from peelaudit.method.linalg.line_search import Probe

KEY = (1, "map")
BOTTOM = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
BENDS = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)


@dataclass
class Bowl:
    """A quadratic loss, along whose plain gradient it is looked; after `last` directions there is none any more."""

    last: int = 99

    def direction(self, changes: Changes) -> Direction:
        if self.last == 0:
            raise NonFiniteResult("the gradient holds NaN")
        self.last -= 1
        slopes = BENDS * (self._at(changes) - BOTTOM)
        return Direction({KEY: slopes}, {KEY: -slopes})

    def loss(self, changes: Changes) -> float:
        return float((0.5 * BENDS * (self._at(changes) - BOTTOM) ** 2).sum())

    def search(
        self, at: Callable[[float], Changes], first: float, *, start: float, slope: float, likely: bool
    ) -> Probe:
        return best_probe(lambda step: self.loss(at(step)), first, start=start, slope=slope)

    def kept(self, direction: Changes) -> Changes:
        return direction

    def stepped(self, changes: Changes, step: Changes) -> Changes:
        return {KEY: plus(changes, 1.0, step)[KEY]}

    def _at(self, changes: Changes) -> torch.Tensor:
        return changes.get(KEY, torch.zeros(3, dtype=torch.float64))


def taken(bowl: Bowl, most: int) -> Course:
    course = Course(bowl.loss({}), bowl.loss({}))
    natural_steps(course, bowl, most)
    return course


def test_steps_end_near_the_bottom() -> None:
    course = taken(Bowl(), 20)
    assert course.loss < LEAST_GAIN * course.start
    assert course.gain == pytest.approx(course.start - course.loss)


def test_steps_end_where_the_loss_has_no_gradient_any_more() -> None:
    course, plain = taken(Bowl(last=1), 20), taken(Bowl(), 1)
    assert (course.steps, course.loss) == (1, plain.loss)
    assert torch.equal(course.changes[KEY], plain.changes[KEY])


def test_no_gradient_to_begin_with_is_an_error() -> None:
    with pytest.raises(NonFiniteResult, match="holds NaN"):
        taken(Bowl(last=0), 20)
