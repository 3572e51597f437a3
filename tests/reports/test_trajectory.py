"""The YES cloud and what follows from it, on records alone."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.errors import ConfigError
from peelaudit.records import AuditReport, Verdict
from peelaudit.reports.terminal import render_trajectory
from peelaudit.reports.trajectory import order, steady_from, trace
from tests.factories import make_report, with_gaps
from tests.reports.formats.support import make_series, make_step
from tests.variants import unfitted, with_settings

G, Y, R = Verdict.GREEN, Verdict.YELLOW, Verdict.RED
LOSSES = st.floats(0.01, 20, allow_nan=False)
RUNS = st.lists(st.tuples(LOSSES, LOSSES, LOSSES), min_size=1, max_size=12)


def run_of(losses: list[tuple[float, float, float]]) -> list[AuditReport]:
    return [make_step(10 * index, *row) for index, row in enumerate(losses)]


@given(losses=RUNS)
def test_running_minima_never_rise_and_are_some_checkpoints_own(losses: list[tuple[float, float, float]]) -> None:
    points = trace(run_of(losses)).held_out.points
    for index, point in enumerate(points):
        assert point.least_yes0 == min(row[1] for row in losses[: index + 1])
        assert point.least_yes_star == min(row[2] for row in losses[: index + 1])
        assert (point.trained, point.yes0, point.yes_star) == losses[index]


@given(losses=RUNS, seed=st.integers(0, 99))
def test_the_order_of_the_reports_is_of_no_account(losses: list[tuple[float, float, float]], seed: int) -> None:
    reports = run_of(losses)
    shuffled = random.Random(seed).sample(reports, len(reports))
    assert trace(shuffled) == trace(reports)


@given(losses=RUNS)
def test_regions_are_those_of_the_staircases(losses: list[tuple[float, float, float]]) -> None:
    for point in trace(run_of(losses)).held_out.points:
        if point.trained > point.least_yes0 + 1e-4:
            assert point.region is R
        elif point.trained - point.least_yes_star <= 0.01:
            assert point.region is G
        else:
            assert point.region is Y


@given(losses=RUNS)
def test_the_tightest_bound_is_met_where_no_reference_of_the_series_is_below(
    losses: list[tuple[float, float, float]],
) -> None:
    found = trace(run_of(losses))
    least = min(row[2] for row in losses)
    meets = [10 * index for index, row in enumerate(losses) if row[0] - least <= 0.01]
    assert found.met == (meets[0] if meets else None)
    assert found.met is None or found.met_so_far is not None
    assert found.met is None or found.met_so_far <= found.met


def test_a_checkpoint_that_is_not_green_by_its_interval_meets_no_bound() -> None:
    found = trace([make_step(0, 2.0, 3.0, 2.0, verdict=Verdict.GREY), make_step(1, 2.0, 3.0, 2.0)])
    assert (found.met, found.met_so_far) == (1, 1)
    assert [point.region for point in found.held_out.points] == [G, G]


def test_without_refined_no_region_is_green_but_the_papers() -> None:
    weak = make_step(5, 2.0, 3.0, 2.0)
    weak = dataclasses.replace(weak, network=dataclasses.replace(weak.network, refinement=None))
    found = trace([weak])
    assert [point.region for point in found.held_out.points] == [Verdict.GREY]
    assert found.fit == trace([make_step(5, 2.0, 3.0, 2.0)]).fit


def test_the_two_clouds_are_like_for_like_and_the_papers() -> None:
    report = make_step(5, 3.0, 3.5, 2.9)
    found = trace([report])
    assert found.held_out.points[0].trained == report.network.held_out.trained_readout_loss.value
    assert found.fit.points[0].trained == report.network.fit.trained_loss.value
    assert found.fit.points[0].least_yes_star == report.network.fit.bound.value


@pytest.mark.parametrize(
    ("verdicts", "first"),
    [([], None), ([G], 0), ([R], None), ([G, R, G], 20), ([R, G, G], 10), ([G, G, Y], None), ([G, G], 0)],
)
def test_green_and_stays_so(verdicts: list[Verdict], first: int | None) -> None:
    assert steady_from([10 * index for index in range(len(verdicts))], verdicts) == first


def test_each_layer_over_the_steps() -> None:
    gaps = (0.1, 0.2, 0.3, 0.4)
    first, second = with_gaps(make_step(0), *gaps, named=(4, 2)), with_gaps(make_step(7), *gaps)
    bare = [dataclasses.replace(row, gap=None) for row in make_step(9).layers]
    found = trace([first, second, dataclasses.replace(make_step(9), layers=tuple(bare))])
    assert [history.layer for history in found.layers] == [1, 2, 3, 4]
    at_first, never = (True, False, False), (False,) * 3
    assert [history.named for history in found.layers] == [never, at_first, never, at_first]
    assert found.layers[1].gaps == (first.layers[1].gap, second.layers[1].gap, None)


@pytest.mark.parametrize(
    ("losses", "first"),
    [
        ([(3.0, 2.9)], 0),
        ([(3.0, 3.0), (3.0, 3.0)], 0),
        ([(3.0, 3.0), (2.995, 2.995)], 0),  # within the tolerance
        ([(3.0, 3.0), (2.9, 2.9)], 10),
        ([(3.0, 2.8), (2.9, 2.9)], 0),  # what refining found wasn't reached
        ([(3.0, 3.0), (2.5, 2.4), (2.5, 2.4)], 10),
        ([(3.0, 3.0), (2.5, 2.4), (2.0, 2.0)], 20),
        ([(3.0, 1.9), (2.5, 2.4), (2.0, 2.0)], 20),  # step 10 is beaten, if step 0 isn't
    ],
)
def test_a_bound_is_beaten_by_a_later_checkpoint_alone(losses: list[tuple[float, float]], first: int) -> None:
    assert trace(run_of([(trained, 5.0, star) for trained, star in losses])).unbeaten_from == first


@given(losses=RUNS)
def test_no_later_checkpoint_is_better_than_the_bounds_from_there_on(losses: list[tuple[float, float, float]]) -> None:
    found = trace(run_of(losses))
    for index, row in enumerate(losses):
        later = min((other[0] for other in losses[index + 1 :]), default=row[2])
        if 10 * index >= found.unbeaten_from:
            assert row[2] - later <= 0.01
        elif 10 * (index + 1) == found.unbeaten_from:
            assert row[2] - later > 0.01


def test_the_tolerance_is_that_of_the_audits() -> None:
    def run(tolerance: float) -> list[AuditReport]:
        return [with_settings(step, tolerance=tolerance) for step in run_of([(3.0, 3.5, 3.0), (2.9, 3.5, 2.8)])]

    assert (trace(run(0.05)).unbeaten_from, trace(run(0.05)).held_out.points[1].region) == (10, Y)
    assert (trace(run(0.2)).unbeaten_from, trace(run(0.2)).held_out.points[1].region) == (0, G)
    assert trace(run(0.2)).fit == trace(run(0.05)).fit


def test_numbers_in_names_stand_in_for_steps() -> None:
    names = ["run/model-v2-step20.pt", "run/model-v2-step3.safetensors", "run/checkpoint-100"]
    steps = [step for step, _ in order([make_step(None, path=name) for name in names])]
    assert steps == [3, 20, 100]


def test_steps_and_numbers_in_names_are_never_mixed() -> None:
    reports = [make_step(500, path="run/a-1.pt"), make_step(None, path="run/a-2.pt")]
    assert [step for step, _ in order(reports)] == [1, 2]


def with_part(report: AuditReport, part: str, **changes: Any) -> AuditReport:
    return dataclasses.replace(report, **{part: dataclasses.replace(getattr(report, part), **changes)})


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (make_step(2, path="run/last.pt", n_layers=6), "layers is 4 in run/ckpt-1.pt and 6 in run/last.pt"),
        (with_part(make_step(2), "checkpoint", width=64), "width is 128 in run/ckpt-1.pt and 64"),
        (with_part(make_step(2), "data", tokens_sha256="d4" * 32), "token digest is c3c3c3c3c3c3… in"),
        (dataclasses.replace(make_step(2), settings=(("solver", "adam"),)), "solver is ridge in"),
        (with_part(make_step(1), "checkpoint", sha256="other"), "are both of step 1"),
        (make_step(None, path="run/last.pt"), "run/last.pt records no training step"),
    ],
)
def test_what_is_no_run_is_refused_with_what_differs(other: AuditReport, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trace([make_step(1), other])
    assert words in str(caught.value)


def test_nothing_is_no_run() -> None:
    with pytest.raises(ConfigError, match="needs a report"):
        trace([])


def test_a_checkpoint_that_is_there_twice_is_taken_once() -> None:
    again = with_part(make_step(1), "checkpoint", path="run/copy.pt")
    found = trace([make_step(1), again])
    assert found.steps == (1,)
    assert found.reports[0].checkpoint.path == "run/ckpt-1.pt"


def test_a_checkpoint_that_was_audited_in_two_ways_is_refused() -> None:
    report = make_step(1)
    settings = tuple((dict(report.settings) | {"seed": 7}).items())
    with pytest.raises(ConfigError, match="seed is 0 in"):
        trace([report, dataclasses.replace(report, settings=settings)])


def test_where_files_lie_and_what_computed_is_of_no_account() -> None:
    moved = dict(make_report().settings) | {"data": ("elsewhere.txt",), "device": "cuda", "checkpoint": "x"}
    assert trace([make_step(1), dataclasses.replace(make_step(2), settings=tuple(moved.items()))]).steps == (1, 2)


def test_the_table_fits_80_columns_and_says_from_when() -> None:
    text = render_trajectory(trace(make_series((0, 1_000_000, 123_456_789), n_layers=80)))
    assert max(map(len, text.splitlines())) <= 80
    assert "123,456,789" in text
    assert "The network is green from step 123,456,789 on." in text
    assert "first to meet the least YES* so far" in " ".join(text.split())


def test_the_table_shows_each_step_against_its_own_references() -> None:
    text = render_trajectory(trace([with_gaps(make_step(0), 0.1, 0.2, 0.3, 0.4, named=(4, 2)), make_step(7)]))
    rows = [line.split() for line in text[text.index("Each step") :].splitlines()]
    assert ["0", "+0.042", "+0.022..+0.060", "direct", "every:2", "+0.120", "2,", "4"] in rows
    assert ["7", "+0.042", "+0.022..+0.060", "direct", "every:2", "+0.120", "none"] in rows


def test_a_table_of_a_run_that_met_nothing() -> None:
    text = render_trajectory(trace([make_step(0, 4.0, 3.0, 2.0, verdict=R)]), encoding="ascii")
    assert "not green at its last step" in text
    assert "No checkpoint" in text
    assert "x red" in text


def test_a_run_without_yes_0_is_drawn_and_told_without_it() -> None:
    series = make_series()
    cloud = trace(map(unfitted, series)).held_out
    assert {(point.yes0, point.least_yes0) for point in cloud.points} == {(None, None)}
    assert [point.region for point in cloud.points] == [Verdict.YELLOW, Verdict.YELLOW, Verdict.GREEN, Verdict.GREEN]
    half = trace([unfitted(series[0]), *series[1:]]).held_out
    assert [point.least_yes0 for point in half.points] == [None, 3.7, 3.6, 3.6]
    assert "None" not in render_trajectory(trace(map(unfitted, series)))
