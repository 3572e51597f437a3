"""What each effort computes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peelaudit.auditing.effort import FEW_LAYERS, expected_passes, extent, mapped
from peelaudit.auditing.run import audit_config
from peelaudit.method.references.schedules import parse_schedules
from peelaudit.settings.audit import AuditConfig, Effort

FEW, MANY = 4, FEW_LAYERS + 1


def config(effort: Effort, *schedules: str) -> AuditConfig:
    return AuditConfig(checkpoint="c", effort=effort, **({"schedules": schedules} if schedules else {}))


@pytest.mark.parametrize("n_layers", [1, FEW, MANY])
def test_quick_refines_nothing_and_maps_next_blocks_alone(n_layers: int) -> None:
    found = extent(config("quick"), n_layers)
    assert found.schedules == ("direct",)
    assert (found.alone, found.half, found.map_reach) == (None, False, 0)
    assert not parse_schedules(found.schedules, n_layers).refined


@pytest.mark.parametrize("effort", ["default", "thorough"])
@pytest.mark.parametrize("n_layers", [1, FEW, FEW_LAYERS, MANY, 80])
def test_the_others_run_refined_with_half_the_text_too_and_refine_each_block(effort: Effort, n_layers: int) -> None:
    found = extent(config(effort), n_layers)
    assert parse_schedules(found.schedules, n_layers).refined
    assert found.half
    assert found.alone is not None
    far = effort == "thorough" or n_layers <= FEW_LAYERS
    assert (found.map_reach is None) == far
    # the search of `default` is among segments of two blocks
    assert far or found.map_reach >= 1


def test_by_default_blocks_of_deep_networks_are_refined_by_one_step_and_all_by_few() -> None:
    whole_few, whole_many = (extent(config("default"), n_layers).whole for n_layers in (FEW_LAYERS, MANY))
    assert 1 < whole_many.steps < whole_few.steps
    few, many = (extent(config("default"), n_layers).alone for n_layers in (FEW_LAYERS, MANY))
    assert few is not None
    assert many is not None
    assert few.products > 0
    assert few.steps > 1
    assert (many.steps, many.products) == (1, 0)


def test_thorough_goes_farther_and_runs_every_staircase_of_few_layers() -> None:
    default, thorough = (extent(config(effort), FEW) for effort in ("default", "thorough"))
    assert thorough.whole.products > default.whole.products
    assert thorough.whole.rounds > default.whole.rounds
    assert thorough.alone == thorough.whole
    assert len(parse_schedules(extent(config("thorough"), FEW_LAYERS).schedules, FEW_LAYERS).schedules) == 2 ** (
        FEW_LAYERS - 1
    )
    assert extent(config("thorough"), MANY).schedules == ("default",)


@pytest.mark.parametrize("effort", ["quick", "default", "thorough"])
@pytest.mark.parametrize("n_layers", [FEW, MANY])
def test_schedules_that_are_asked_for_are_run_as_far_as_the_effort_goes(effort: Effort, n_layers: int) -> None:
    asked, plain = extent(config(effort, "final", "refined"), n_layers), extent(config(effort), n_layers)
    assert asked == replace(plain, schedules=("final", "refined"))


@pytest.mark.parametrize(("effort", "search", "reach"), [("quick", "1", 2), ("default", "20", 9), ("default", "28", 4)])
def test_the_map_goes_as_far_as_a_search_that_is_asked_for_needs(effort: Effort, search: str, reach: int) -> None:
    """The longest segment of a staircase with 20 waypoints in 30 layers is of 10 blocks."""
    n_layers = FEW if effort == "quick" else 30
    asked = extent(config(effort, f"search:{search}"), n_layers)
    assert mapped(asked, parse_schedules(asked.schedules, n_layers), n_layers) == replace(asked, map_reach=reach)


def test_a_map_of_all_pairs_serves_any_search() -> None:
    asked = extent(config("default", "search:1"), FEW)
    assert mapped(asked, parse_schedules(asked.schedules, FEW), FEW) == asked


@pytest.mark.parametrize(("effort", "schedules"), [("quick", ()), ("default", ("refined", "final"))])
def test_about_as_much_is_computed_as_was_expected(effort: Effort, schedules: tuple[str, ...]) -> None:
    asked = AuditConfig(checkpoint="fixtures/nanogpt/ckpt-000600.pt", tokens=1024, effort=effort)
    asked = replace(asked, schedules=schedules) if schedules else asked
    report = audit_config(asked)
    layers = len(report.layers)
    wanted = extent(asked, layers)
    expected = expected_passes(wanted, parse_schedules(wanted.schedules, layers), layers, 0.02)
    assert sum(passes for _, passes in report.passes) == pytest.approx(expected, rel=0.6)


def test_how_far_thorough_goes_is_not_foretold() -> None:
    wanted = extent(config("thorough"), FEW)
    assert expected_passes(wanted, parse_schedules(wanted.schedules, FEW), FEW, 0.5) is None


@pytest.mark.parametrize(
    ("layers", "head_share", "took"),
    [(5, 0.12, 90.9), (30, 0.21, 23.6), (18, 0.63, 35.6)],
    ids=["stories260K", "SmolLM2", "Gemma 3 270M"],
)
def test_what_real_networks_took_is_foretold_to_a_half(layers: int, head_share: float, took: float) -> None:
    wanted = extent(config("default"), layers)
    expected = expected_passes(wanted, parse_schedules(wanted.schedules, layers), layers, head_share)
    assert took / 1.5 < expected < 1.5 * took
