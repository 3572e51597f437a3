"""Steps out of line, jumps and losses that go back; and the noise of a healthy run."""

from __future__ import annotations

import dataclasses
import random

import pytest

from peelaudit.reports.integrity.finding import Defect
from tests.reports.integrity.support import HEALTHY, found, run


def test_a_loss_that_goes_back_is_named_once_with_its_highest() -> None:
    (finding,) = found(run((*HEALTHY[:5], 2.3, 2.35, 2.28)))
    assert (finding.defect, finding.steps, finding.highest) == (Defect.LOSS_BACK, (400, 500, 600, 700), 600)
    assert finding.rise is not None
    assert finding.rise.low <= finding.rise.value == pytest.approx(0.15)
    assert not finding.exchanged


def test_two_that_changed_places_are_told() -> None:
    losses = list(HEALTHY)
    losses[2], losses[3] = losses[3], losses[2]
    (finding,) = found(run(losses))
    assert (finding.defect, finding.steps, finding.exchanged) == (Defect.LOSS_BACK, (200, 300), True)
    losses = list(HEALTHY)
    losses[1], losses[4] = losses[4], losses[1]
    (finding,) = [one for one in found(run(losses)) if one.defect is Defect.LOSS_BACK]
    assert (finding.steps, finding.exchanged) == ((100, 200, 300, 400), True)


def test_a_rise_within_the_tolerance_is_none() -> None:
    assert found(run((*HEALTHY, 2.009))) == ()


def test_a_rise_that_the_clusters_do_not_agree_on_is_none() -> None:
    first, second = run((3.0, 2.5))
    last = second.layers[-1]
    own = list(last.held_out_sums.own)
    own[0] += 0.55 * sum(second.held_out_predictions)  # one document alone: 0.05 nats/token above the first step
    sums = dataclasses.replace(last.held_out_sums, own=tuple(own))
    rows = (*second.layers[:-1], dataclasses.replace(last, held_out_sums=sums))
    assert found([first, dataclasses.replace(second, layers=rows)]) == ()


def test_a_step_out_of_line_is_named_with_its_neighbours() -> None:
    finding, back = found(run((*HEALTHY[:4], 3.8, *HEALTHY[5:])))
    assert (finding.defect, finding.steps) == (Defect.OUT_OF_LINE, (300, 400, 500))
    assert finding.distance == pytest.approx(1.4)
    assert finding.times is not None
    assert finding.times == pytest.approx(1.4 / 0.3)
    assert back.defect is Defect.LOSS_BACK


def test_a_step_from_which_on_the_run_is_elsewhere_is_a_jump() -> None:
    finding, back = found(run((2.2, 2.15, 2.11, 2.08, 3.1, 3.06, 3.03)))
    assert (finding.defect, finding.steps) == (Defect.JUMP, (300, 400))
    assert (back.defect, back.steps[:2]) == (Defect.LOSS_BACK, (300, 400))


def test_a_sudden_gain_is_no_jump() -> None:
    assert found(run((4.0, 3.98, 3.96, 3.94, 2.0, 1.98, 1.96))) == ()


@pytest.mark.parametrize("seed", range(20))
def test_the_noise_of_a_run_that_has_settled_is_no_move(seed: int) -> None:
    draw = random.Random(seed)
    assert found(run([*HEALTHY, *(2.0 + draw.gauss(0, 0.003) for _ in range(30))])) == ()
