"""Bounds, gaps and verdicts from made-up losses whose right answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.errors import NonFiniteResult
from peelaudit.method.references.schedules import Schedule, parse_schedules
from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.method.statistics.bounds import Reference, best, figures, paper_verdict, verdict, yes_bounds
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.records import Estimate, Verdict

CLUSTERS = {
    "fit": np.repeat(np.arange(6), 2),
    "select": np.arange(4),
    "held_out": np.repeat(np.arange(5), 2),
}


def panel(fit_sequences: int | None = None) -> Panel:
    return Panel.of(CLUSTERS, 11, resamples=200, seed=0, fit_sequences=fit_sequences)  # type: ignore[arg-type]


def losses(per_token: float, seed: int = 0, spread: float = 0.1) -> Losses:
    """26 sequences of 10 predictions about `per_token` nats."""
    noise = np.random.default_rng(seed).normal(size=26) * spread
    return 10 * (per_token + noise)


def test_a_panel_knows_which_sequence_is_whose() -> None:
    whole = panel()
    assert whole.index.tolist() == list(range(26))
    marked = np.concatenate([np.full(12, 10.0), np.full(4, 20.0), np.full(10, 30.0)])
    assert [whole.mean(marked, split) for split in ("fit", "select", "held_out")] == [1.0, 2.0, 3.0]


def test_a_smaller_panel_spreads_over_fit_and_keeps_the_rest() -> None:
    small = panel(fit_sequences=4)
    assert len(small.index) == 4 + 4 + 10
    assert small.index[0] == 0
    assert small.index[3] == 11
    assert small.index[4:].tolist() == list(range(12, 26))


def test_a_smaller_panel_of_a_single_cluster_takes_all() -> None:
    one = Panel.of({"fit": np.array([0, 0, 0, 1])}, 5, resamples=100, seed=0, fit_sequences=1)
    assert len(one.index) == 4


def test_sequences_may_predict_different_numbers_of_tokens() -> None:
    counts = np.array([10, 5, 10, 10])
    uneven = Panel.of({"fit": np.arange(4)}, 11, resamples=100, seed=0, predictions=counts)
    assert uneven.mean(np.array([10.0, 10.0, 10.0, 5.0]), "fit") == 1.0
    assert uneven.cluster_predictions("fit") == (10, 5, 10, 10)
    assert uneven.estimate(2.0 * counts, "fit").low == uneven.estimate(2.0 * counts, "fit").value == 2.0


def test_the_same_panel_and_a_smaller_one_draw_the_same_held_out_clusters() -> None:
    values = losses(2.0)
    small = values[panel(4).index]
    assert panel(4).estimate(small, "held_out") == panel().estimate(values, "held_out")


def test_selection_is_by_the_split_that_is_named_and_the_first_of_equals_wins() -> None:
    low_on_fit = losses(2.0, spread=0)
    low_on_fit[:12] -= 5
    low_on_select = losses(2.0, spread=0)
    low_on_select[12:16] -= 5
    references = [Reference("a", (1,), low_on_fit), Reference("b", (2,), low_on_select)]
    assert best(panel(), references, "fit").name == "a"
    assert best(panel(), references, "select").name == "b"
    assert best(panel(), references, "held_out").name == "a"


def test_figures_are_differences_on_the_same_sequences() -> None:
    own, trained, yes0, bound = losses(3.0), losses(2.9), losses(3.5, seed=1), losses(2.5)
    row = figures(panel(), "held_out", own=own, trained=trained, yes0=yes0, bound=bound)
    assert row.gap_head.value == pytest.approx(0.1)
    assert row.gap_layers.value == pytest.approx(0.4)
    assert row.gap_total.value == pytest.approx(0.5)
    # Paired: what varies between sequences cancels, though each loss varies.
    assert row.gap_layers.high - row.gap_layers.low < 1e-9
    assert row.trained_loss.high - row.trained_loss.low > 0.01
    assert row.verdict is Verdict.YELLOW


@pytest.mark.parametrize(("bound", "below"), [(0.9, False), (1.1, True), (1.0, False)])
def test_the_network_itself_is_one_of_what_its_moved_blocks_are_held_against(bound: float, below: bool) -> None:
    """Moved blocks that are surely worse leave an interval up to 0; a peeled reference one that is below it."""
    of = {"own": losses(1.0), "trained": losses(1.0), "yes0": None, "bound": losses(bound)}
    peeled = figures(panel(), "held_out", **of).gap_layers  # type: ignore[arg-type]
    moved = figures(panel(), "held_out", **of, moved=True).gap_layers  # type: ignore[arg-type]
    assert (peeled.high < 0) is below
    assert (moved.value, moved.low) == (peeled.value, peeled.low)
    assert moved.high == max(peeled.high, 0.0)


def test_a_loss_that_is_not_finite_is_no_figure() -> None:
    bad = losses(2.0)
    bad[20] = np.nan
    with pytest.raises(NonFiniteResult, match="held_out"):
        panel().estimate(bad, "held_out")


def around(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("over_yes0", "over_bound", "tolerance", "expected"),
    [
        ((0.1, 0.2), (0.1, 0.3), 0.0, Verdict.RED),
        ((0.1, 0.2), (0.1, 0.3), 1.0, Verdict.RED),
        ((-0.3, -0.1), (0.1, 0.2), 0.0, Verdict.YELLOW),
        ((-0.1, 0.1), (0.1, 0.2), 0.0, Verdict.YELLOW),
        ((-0.3, -0.1), (0.1, 0.2), 0.05, Verdict.YELLOW),
        ((-0.3, -0.1), (0.1, 0.2), 0.1, Verdict.GREY),
        ((-0.3, -0.1), (0.1, 0.2), 0.15, Verdict.GREY),
        ((-0.3, -0.1), (0.1, 0.2), 0.2, Verdict.GREEN),
        ((-0.3, -0.1), (-0.2, -0.1), 0.0, Verdict.GREEN),
        ((-0.1, 0.1), (-0.2, -0.1), 0.0, Verdict.GREEN),
        ((-0.3, -0.1), (0.0, 0.0), 0.0, Verdict.GREEN),
        ((-0.3, -0.1), (-0.1, 0.1), 0.0, Verdict.GREY),
        ((-0.3, -0.1), (-0.1, 0.1), 0.1, Verdict.GREEN),
        ((-0.3, -0.1), (-0.1, 2 * RESOLUTION), 0.0, Verdict.GREY),
        ((0.0, RESOLUTION), (0.0, RESOLUTION), 0.0, Verdict.GREEN),
    ],
)
def test_a_verdict_is_what_the_intervals_and_the_tolerance_allow(
    over_yes0: tuple[float, float], over_bound: tuple[float, float], tolerance: float, expected: Verdict
) -> None:
    assert verdict(around(*over_yes0), around(*over_bound), tolerance) is expected


@pytest.mark.parametrize(("tolerance", "expected"), [(0.3, Verdict.YELLOW), (0.5, Verdict.GREEN)])
def test_figures_are_judged_by_the_tolerance(tolerance: float, expected: Verdict) -> None:
    own, yes0 = losses(2.9), losses(3.5, seed=1)
    row = figures(panel(), "held_out", own=own, trained=own, yes0=yes0, bound=losses(2.5), tolerance=tolerance)
    assert row.gap_layers.value == pytest.approx(0.4)
    assert row.verdict is expected


@pytest.mark.parametrize(
    ("trained", "expected"), [(3.1, Verdict.RED), (2.7, Verdict.YELLOW), (2.5, Verdict.GREEN), (2.0, Verdict.GREEN)]
)
def test_the_papers_verdict_needs_no_interval(trained: float, expected: Verdict) -> None:
    assert paper_verdict(trained, 3.0, 2.5) is expected


@given(st.lists(st.floats(1, 5), min_size=8, max_size=8))
def test_yes_k_is_a_running_minimum_over_the_waypoints(values: list[float]) -> None:
    schedules = parse_schedules(["all"], 4).schedules
    counts = [len(schedule.waypoints or ()) for schedule in schedules]
    yes = yes_bounds(panel(), schedules, [losses(value, spread=0) for value in values])
    for bound in yes:
        allowed = [value for count, value in zip(counts, values, strict=True) if count <= bound.waypoints]
        assert bound.fit == pytest.approx(min(allowed))
        assert bound.held_out.value == pytest.approx(min(allowed))
    assert [bound.waypoints for bound in yes] == [0, 1, 2, 3]


def test_a_mapping_that_is_no_staircase_counts_for_no_yes_k() -> None:
    schedules = [Schedule((2, 2)), Schedule((2, 1))]
    yes = yes_bounds(panel(), schedules, [losses(3.0), losses(1.0)])
    assert len(yes) == 1
    assert yes[0].schedule == "final"
