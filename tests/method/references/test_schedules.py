"""Schedules: staircases, their spellings, the prefix tree and the search, against definitions and brute force."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.errors import ConfigError
from peelaudit.method.references.schedules import (
    MOST_SCHEDULES,
    Schedule,
    parse_schedules,
    prefix_tree,
    search_staircase,
    staircase,
)


@st.composite
def depths_and_waypoints(draw: st.DrawFn) -> tuple[int, list[int]]:
    n_layers = draw(st.integers(1, 40))
    inner = st.integers(1, max(1, n_layers - 1))
    return n_layers, draw(st.lists(inner, max_size=n_layers if n_layers > 1 else 0))


@st.composite
def mappings(draw: st.DrawFn, n_layers: int | None = None) -> Schedule:
    depth = draw(st.integers(1, 12)) if n_layers is None else n_layers
    return Schedule(tuple(draw(st.lists(st.integers(1, depth), min_size=depth, max_size=depth))))


@given(depths_and_waypoints())
def test_a_staircase_is_monotone_never_below_its_layer_and_ends_in_the_last(made: tuple[int, list[int]]) -> None:
    n_layers, waypoints = made
    schedule = staircase(waypoints, n_layers)
    assert len(schedule.targets) == n_layers
    assert schedule.targets[-1] == n_layers
    assert all(later >= earlier for earlier, later in pairwise(schedule.targets))
    for layer, target in enumerate(schedule.targets, 1):
        assert target == min(step for step in {*waypoints, n_layers} if step >= layer)
    assert schedule.waypoints == tuple(sorted(set(waypoints)))


@given(st.integers(1, 10))
def test_there_are_two_to_the_l_minus_one_staircases(n_layers: int) -> None:
    plan = parse_schedules(["all"], n_layers)
    assert len(set(plan.schedules)) == len(plan.schedules) == 2 ** (n_layers - 1)
    assert all(schedule.waypoints is not None for schedule in plan.schedules)


@given(mappings())
def test_a_name_means_its_schedule(schedule: Schedule) -> None:
    assert parse_schedules([schedule.name], len(schedule.targets)).schedules == (schedule,)


@given(depths_and_waypoints())
def test_a_staircases_name_means_it_too(made: tuple[int, list[int]]) -> None:
    n_layers, waypoints = made
    schedule = staircase(waypoints, n_layers)
    assert parse_schedules([schedule.name], n_layers).schedules == (schedule,)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("direct", [(1, 2, 3, 4)]),
        ("final", [(4, 4, 4, 4)]),
        ("prefix:0", [(4, 4, 4, 4)]),
        ("prefix:2", [(1, 2, 4, 4)]),
        ("every:1", [(1, 2, 3, 4)]),
        ("every:2", [(2, 2, 4, 4)]),
        ("every:4", [(4, 4, 4, 4)]),
        ("via:3", [(3, 3, 3, 4)]),
        ("via:3,1", [(1, 3, 3, 4)]),
        ("without:2", [(1, 3, 3, 4)]),
        ("without:3,1", [(2, 2, 4, 4)]),
        ("yes:0", [(4, 4, 4, 4)]),
        ("yes:1", [(1, 4, 4, 4), (2, 2, 4, 4), (3, 3, 3, 4)]),
        ("yes:3", [(1, 2, 3, 4)]),
        ("1,1,1,4", [(1, 1, 1, 4)]),
        (" 4,3,2,1 ", [(4, 3, 2, 1)]),
    ],
)
def test_each_spelling_of_the_docstring(spec: str, expected: list[tuple[int, ...]]) -> None:
    plan = parse_schedules([spec], 4)
    assert [schedule.targets for schedule in plan.schedules] == expected
    assert plan.searches == ()


@pytest.mark.parametrize(
    ("targets", "name"),
    [
        ((4, 4, 4, 4), "final"),
        ((1, 2, 3, 4), "direct"),
        ((1, 2, 4, 4), "prefix:2"),
        ((2, 2, 4, 4, 6, 6), "every:2"),
        ((3, 3, 3, 4), "via:3"),
        ((1, 3, 3, 4), "via:1,3"),
        ((1, 3, 3, 4, 5, 6), "without:2"),
        ((1, 1, 1, 4), "1,1,1,4"),
        ((4, 4, 4, 3), "4,4,4,3"),
        ((1,), "final"),
    ],
)
def test_names_are_the_shortest(targets: tuple[int, ...], name: str) -> None:
    assert Schedule(targets).name == name


def test_repeats_are_dropped_and_the_order_is_that_given() -> None:
    plan = parse_schedules(["prefix:1", "final", "via:1", "search:2", "4,4,4,4", "search:1", "search:2"], 4)
    assert [schedule.name for schedule in plan.schedules] == ["prefix:1", "final"]
    assert plan.searches == (2, 1)


@pytest.mark.parametrize("n_layers", [1, 2, 5, 6, 7, 12, 30, 80])
def test_the_default_suits_any_depth(n_layers: int) -> None:
    plan = parse_schedules(["default"], n_layers)
    assert plan.schedules
    assert len(plan.schedules) <= 16
    assert len(set(plan.schedules)) == len(plan.schedules)
    assert {"final"} <= {schedule.name for schedule in plan.schedules}
    assert plan.searches == (() if n_layers <= 5 else (n_layers - 2,))
    assert plan.refined


@pytest.mark.parametrize(("specs", "expected"), [(["refined"], True), (["final", " refined "], True), (["all"], False)])
def test_refined_is_a_reference_without_a_mapping(specs: list[str], expected: bool) -> None:
    plan = parse_schedules(specs, 4)
    assert plan.refined == expected
    assert plan.schedules == parse_schedules([spec for spec in specs if spec.strip() != "refined"], 4).schedules


BAD = (
    "",
    "without:",
    "without:4",
    "prefix:4",
    "prefix:-1",
    "every:0",
    "every:5",
    "via:",
    "via:4",
    "yes:4",
    "search:0",
    "search:4",
    "1,2,3",
)
BAD += (
    "1,2,3,5",
    "0,1,2,4",
    "1,2,,4",
    "nonsense",
    "default:2",
    "refined:2",
    "refined:",
    "all:3",
    "prefix:²",
    "prefix:1e0",
    "9" * 5000,
    "1:2",
    "direct:",
    "final:",
    "all:",
)


@pytest.mark.parametrize("spec", BAD)
def test_a_mistake_is_named(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_schedules([spec], 4)
    assert len(caught.value.problems) == 1
    assert repr(spec) in caught.value.problems[0]


def test_mistakes_are_refused_all_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_schedules(["final", *BAD, "direct"], 4)
    assert len(caught.value.problems) == len(BAD)


@given(st.text(max_size=20), st.integers(1, 9))
def test_whatever_is_written_is_read_or_refused(spec: str, n_layers: int) -> None:
    try:
        plan = parse_schedules([spec], n_layers)
    except ConfigError:
        return
    assert plan.schedules or plan.searches


def test_families_that_would_not_end_are_refused() -> None:
    assert len(parse_schedules(["all"], 13).schedules) == MOST_SCHEDULES
    for spec in ("all", "yes:7"):
        with pytest.raises(ConfigError, match="use search:k"):
            parse_schedules([spec], 40)


@pytest.mark.parametrize("waypoints", [[0], [5], [-1], [2, 9]])
def test_waypoints_outside_are_refused(waypoints: list[int]) -> None:
    with pytest.raises(ConfigError, match="within 1 and 3"):
        staircase(waypoints, 4)


@given(st.integers(1, 6).flatmap(lambda n: st.lists(mappings(n), min_size=1, max_size=12)))
def test_the_tree_holds_each_prefix_once_and_its_leaves_are_the_schedules(schedules: list[Schedule]) -> None:
    root = prefix_tree(schedules)
    nodes = list(root.walk())
    prefixes = [node.prefix for node in nodes]
    expected = {schedule.targets[:depth] for schedule in schedules for depth in range(len(schedule.targets) + 1)}
    assert len(prefixes) == len(set(prefixes))
    assert set(prefixes) == expected
    assert {node.prefix for node in nodes if not node.children} == {schedule.targets for schedule in schedules}
    for node in nodes:
        assert all(child.prefix[:-1] == node.prefix for child in node.children)
        assert prefixes.index(node.prefix) <= min(
            (prefixes.index(child.prefix) for child in node.children), default=len(prefixes)
        )


@st.composite
def segment_errors(draw: st.DrawFn) -> list[list[float]]:
    n_layers = draw(st.integers(1, 7))
    cost = st.floats(0, 10, allow_nan=False)
    return [draw(st.lists(cost, min_size=n_layers - s, max_size=n_layers - s)) for s in range(n_layers)]


@given(segment_errors(), st.data())
def test_the_search_finds_the_least_of_all(errors: list[list[float]], data: st.DataObject) -> None:
    n_layers = len(errors)
    size = data.draw(st.integers(0, n_layers - 1))

    def cost(waypoints: tuple[int, ...]) -> float:
        stops = (0, *waypoints, n_layers)
        return sum(errors[start][end - start - 1] for start, end in pairwise(stops))

    found = search_staircase(errors, size).waypoints
    assert found is not None
    assert len(found) == size
    least = min(cost(waypoints) for waypoints in combinations(range(1, n_layers), size))
    assert cost(found) == pytest.approx(least, abs=1e-12)
