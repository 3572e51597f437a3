"""From losses to a report's rows: chosen on *select*, told on *held-out*, and nothing that isn't finite is a figure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pytest

from peelaudit.auditing.conclude import Findings, conclude
from peelaudit.auditing.measurements import Measurements, ReferenceLosses, RefinedLosses, ScheduleLosses, TrainedLosses
from peelaudit.errors import NonFiniteResult
from peelaudit.method.diagnosis.examine import Examination, LayerGains
from peelaudit.method.references.peel import ProjectionRow
from peelaudit.method.references.schedules import Schedule
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.records import BlockFit, Estimate, LayerSigns, ScheduleSearch, Verdict
from peelaudit.settings.audit import AuditConfig

N = 3
DIRECT, LATE, FINAL = Schedule((1, 2, 3)), Schedule((1, 3, 3)), Schedule((3, 3, 3))
CONFIG = AuditConfig(checkpoint="c", readout="refit", depth_readout="lens", schedules=("direct", "via:1", "final"))
CLUSTERS = {"fit": np.arange(6), "select": np.arange(4), "held_out": np.arange(5)}
PANEL = Panel.of(CLUSTERS, 11, resamples=200, seed=0)  # type: ignore[arg-type]
DEPTHS = Panel.of(CLUSTERS, 11, resamples=200, seed=0, fit_sequences=3)  # type: ignore[arg-type]


def losses(fit: float, select: float, held_out: float, panel: Panel = PANEL) -> Losses:
    """Of these means, nats/token: every sequence of a split alike."""
    found = np.empty(len(panel.index))
    for split, mean in (("fit", fit), ("select", select), ("held_out", held_out)):
        found[panel.splits[split]] = mean * panel.predictions[panel.splits[split]]  # type: ignore[index]
    return found


def everywhere(mean: float, panel: Panel = PANEL) -> Losses:
    return losses(mean, mean, mean, panel)


def ran(schedule: Schedule, readout: Losses) -> ScheduleLosses:
    blocks = tuple(BlockFit(layer, t, 0.1, 0.2, 0.3, "ridge", 1.0) for layer, t in enumerate(schedule.targets, 1))
    return ScheduleLosses(schedule, readout + 1.0, readout, blocks)


WHOLE = {
    DIRECT: losses(2.9, 3.1, 3.2),  # the best on fit, and of those run on held-out
    LATE: losses(3.0, 3.0, 3.6),  # the best on select
    FINAL: losses(3.3, 3.3, 3.5),
}
NODES = {
    (1,): losses(4.5, 4.1, 4.4, DEPTHS),
    (3,): losses(4.2, 4.3, 4.3, DEPTHS),
    (1, 2): losses(3.9, 3.9, 3.9, DEPTHS),
    (1, 3): losses(3.8, 4.0, 3.7, DEPTHS),
    (3, 3): losses(4.0, 3.8, 4.2, DEPTHS),
}
TRAINED = TrainedLosses(
    panel=PANEL,
    depth_panel=DEPTHS,
    own=(everywhere(6.0, DEPTHS), everywhere(5.0, DEPTHS), everywhere(3.45)),
    readout=(everywhere(4.6, DEPTHS), everywhere(4.1, DEPTHS), losses(2.8, 3.4, 3.4)),
    deviations=tuple(np.full(5, scale) for scale in (10.0, 20.0, 40.0)),
    unigram=everywhere(5.5),
    temperature=1.25,
    tempered=everywhere(3.4),
)
PEEL_MAP = tuple(
    ProjectionRow(np.array([[step * 2.0] * 5 for step in range(N - layer)]), np.zeros(N - layer), np.full(5, 3.0), 9)
    for layer in range(N)
)
EXAMINED = Examination(
    panel=PANEL,
    losses=TRAINED.readout[-1],
    digests=("aa", "bb", "cc"),
    signs=(LayerSigns(1.0, 1.0, 99.0),) * N,
    slopes=(None,) * N,
    influences=tuple(np.full(5, turned) for turned in (0.1, 0.2, 0.3)),
    loads=(None, np.array([[0.5, 0.25, 0.25, 1.0]] * 5), None),
    routings=(None, everywhere(0.25), None),
    gains=None,
)


def measured(
    whole: Mapping[Schedule, Losses] = WHOLE,
    nodes: Mapping[tuple[int, ...], Losses] = NODES,
    refined: RefinedLosses | None = None,
    **changes: object,
) -> Measurements:
    """`changes` are of the trained network's losses."""
    schedules = tuple(ran(schedule, readout) for schedule, readout in whole.items())
    references = ReferenceLosses(PEEL_MAP, schedules, 0, nodes, None)
    return Measurements(dataclasses.replace(TRAINED, **changes), references, refined, EXAMINED)  # type: ignore[arg-type]


def refined(select: float, held_out: float, half: float | None = None) -> RefinedLosses:
    """The reference that knows the labels, of these losses."""
    losses_of = losses(2.0, select, held_out)
    halved = None if half is None else losses(0.0, 0.0, half)
    return RefinedLosses(losses_of + 1.0, losses_of, halved, 4, 6, 9.5, held=False)


def concluded(found: Measurements | None = None) -> Findings:
    return conclude(found or measured(), CONFIG, vocabulary=64)


def values(figures: object, *names: str) -> list[float]:
    return [pytest.approx(getattr(figures, name).value) for name in names]  # type: ignore[misc]


def test_the_reference_is_chosen_on_select_and_its_loss_is_that_of_held_out() -> None:
    network = concluded().network
    assert network.best_schedule == LATE.name
    # `direct` would be lower: a bound that were chosen where it is reported would be.
    assert values(network.held_out, "trained_loss", "trained_readout_loss", "yes0", "bound") == [3.45, 3.4, 3.5, 3.6]
    assert values(network.held_out, "gap_total", "gap_head", "gap_layers") == [-0.15, 0.05, -0.2]
    assert network.held_out.verdict is Verdict.YELLOW  # another head is enough
    assert network.refinement is None


def test_on_fit_the_bound_is_the_least_there() -> None:
    network = concluded().network
    assert network.best_schedule_fit == DIRECT.name
    assert values(network.fit, "trained_readout_loss", "yes0", "bound") == [2.8, 3.3, 2.9]
    assert network.paper_verdict is Verdict.RED  # the own head's 3.45 on fit, above YES-0


def test_the_last_rows_figures_are_the_networks() -> None:
    found = concluded()
    last = found.layers[-1]
    assert (last.layer, last.readout) == (N, "refit")
    assert (last.fit, last.held_out) == (found.network.fit, found.network.held_out)
    assert [row.depth_gap for row in found.layers] == [row.held_out.gap_layers for row in found.layers]
    assert (last.best_schedule, last.best_target) == (LATE.name, 3)


def test_a_row_below_the_last_has_the_states_at_its_depth_and_the_depths_readout() -> None:
    first, second, _ = concluded().layers
    assert (first.readout, second.readout) == ("lens", "lens")
    # (1,) is least on select, though (3,) is on fit and held-out.
    assert values(first.held_out, "trained_loss", "trained_readout_loss", "yes0", "bound") == [6.0, 4.6, 4.3, 4.4]
    assert values(first.fit, "bound") == [4.2]
    assert first.best_target == 1
    assert values(second.held_out, "yes0", "bound") == [4.2, 4.2]
    assert (second.best_schedule, second.best_target) == ("final", 3)


def test_a_state_that_several_schedules_pass_is_named_for_the_first() -> None:
    assert concluded().layers[0].best_schedule == "direct"
    turned = {schedule: WHOLE[schedule] for schedule in (FINAL, LATE, DIRECT)}
    assert concluded(measured(turned)).layers[0].best_schedule == LATE.name


def test_figures_can_be_taken_again_from_the_sums() -> None:
    found = concluded()
    assert found.held_out_predictions == (10,) * 5
    for row in found.layers:
        names = {"own": "trained_loss", "trained": "trained_readout_loss", "yes0": "yes0", "bound": "bound"}
        for part, figure in names.items():
            sums = getattr(row.held_out_sums, part)
            assert len(sums) == 5
            assert sum(sums) / 50 == pytest.approx(getattr(row.held_out, figure).value)


def test_errors_are_shares_of_the_state_they_are_to() -> None:
    for layer, row in enumerate(concluded().layers, 1):
        spread = [deviation[0] for deviation in TRAINED.deviations]
        assert row.redundancy.value == pytest.approx(3.0 / spread[layer - 1])
        expected = [step * 2.0 / spread[layer - 1 + step] for step in range(N - layer + 1)]
        assert [error.value for error in row.projection_error] == pytest.approx(expected)
        assert row.weights_sha256 == ("aa", "bb", "cc")[layer - 1]
        assert row.influence is not None
        assert row.influence.value == pytest.approx(0.1 * layer)


def test_the_rival_is_the_best_that_is_not_the_trained_network_itself() -> None:
    trained = TRAINED.readout[-1]
    network = concluded(measured({DIRECT: trained - 0.0, **{one: WHOLE[one] for one in (LATE, FINAL)}})).network
    assert network.rival == LATE.name
    assert network.margin is not None
    assert network.margin.value == pytest.approx(3.6 - 3.4)
    alone = dict.fromkeys(WHOLE, trained)
    assert (concluded(measured(alone)).network.rival, concluded(measured(alone)).network.margin) == (None, None)


def test_what_was_run_and_what_could_have_been_is_counted() -> None:
    found = measured()
    searched = dataclasses.replace(found, references=dataclasses.replace(found.references, searched=7))
    assert concluded(searched).search == ScheduleSearch(CONFIG.schedules, 2 ** (N - 1), 7, 3)


def test_each_schedule_has_both_heads_losses_on_every_split() -> None:
    for found, (schedule, readout) in zip(concluded().schedules, WHOLE.items(), strict=True):
        assert (found.name, found.targets, found.waypoints) == (schedule.name, schedule.targets, schedule.waypoints)
        assert [fit.target for fit in found.blocks] == list(schedule.targets)
        for split in ("fit", "select", "held_out"):
            bounds = getattr(found, split)
            assert bounds.bound.value == pytest.approx(PANEL.mean(readout, split))  # type: ignore[arg-type]
            assert bounds.own.value == pytest.approx(bounds.bound.value + 0.1)


def test_baselines_are_the_uniform_and_the_unigram_loss() -> None:
    baselines = concluded().baselines
    assert baselines.uniform == pytest.approx(math.log(64))
    assert baselines.unigram.value == pytest.approx(5.5)


def test_a_float_reference_is_chosen_on_select_at_its_own_depth() -> None:
    found = measured()
    nodes = {
        (1,): everywhere(4.0, DEPTHS),
        (3,): losses(3.0, 4.2, 3.1, DEPTHS),
        (1, 2): everywhere(3.5, DEPTHS),
        DIRECT.targets: losses(2.5, 3.2, 2.6),
        FINAL.targets: losses(2.6, 2.7, 3.3),
    }
    both = dataclasses.replace(found, references=dataclasses.replace(found.references, float_nodes=nodes))
    first, second, last = (row.held_out for row in concluded(both).layers)
    bounds = [row.float_bound and row.float_bound.value for row in (first, second, last)]
    assert bounds == pytest.approx([4.0, 3.5, 3.3])
    costs = [row.distortion and row.distortion.value for row in (first, second, last)]
    assert costs == pytest.approx([4.4 - 4.0, 4.2 - 3.5, 3.6 - 3.3])
    assert concluded().layers[0].held_out.float_bound is None


def test_what_refined_blocks_gain_stands_with_their_layers() -> None:
    assert [row.gap for row in concluded().layers] == [None] * N
    assert concluded().naming.refinement is None
    gains = tuple(losses(0.0, 0.0, gain) for gain in (0.1, 0.4, 0.2))
    taken = LayerGains(gains, (0.0, 0.0, 0.0), (1, 2, 3), (0, 4, 0), 5.0, low_bit=False, first_step=False)
    found = concluded(dataclasses.replace(measured(), examined=dataclasses.replace(EXAMINED, gains=taken)))
    assert [row.gap and row.gap.value for row in found.layers] == pytest.approx([0.1, 0.4, 0.2])
    how = found.naming.refinement
    assert how is not None
    assert (how.steps, how.products, how.passes) == ((1, 2, 3), (0, 4, 0), 5.0)


def test_refined_is_chosen_on_select_like_any_other_and_is_no_rival() -> None:
    peeled = concluded().network
    found = concluded(measured(refined=refined(2.95, 3.1, half=3.2)))
    network = found.network
    assert network.best_schedule == "refined"
    assert (network.best_schedule_fit, network.fit) == (peeled.best_schedule_fit, peeled.fit)
    assert values(network.held_out, "bound", "gap_layers") == [3.1, 0.3]
    assert (network.rival, network.margin) == (peeled.rival, peeled.margin) == (LATE.name, peeled.margin)
    assert (found.layers[-1].best_schedule, found.layers[-1].best_target) == ("refined", N)
    assert found.layers[-1].held_out_sums.bound == PANEL.cluster_sums(everywhere(3.1), "held_out")
    assert concluded(measured(refined=refined(3.05, 3.1))).network.best_schedule == LATE.name


def test_refined_that_loses_surely_leaves_the_network_as_it_is() -> None:
    """What is lost to the reference ends at 0; of a peeled one it is below."""
    network = concluded(measured(refined=refined(2.95, 3.55, half=3.6))).network
    gap, how = network.held_out.gap_layers, network.refinement
    assert how is not None
    assert how.half is not None
    assert network.best_schedule == "refined"
    assert [(one.low < 0, one.high) for one in (gap, how.gain, how.half)] == [(True, 0.0)] * 3
    assert concluded().network.held_out.gap_layers.high < 0


def test_the_papers_figures_know_nothing_of_refined() -> None:
    """Its blocks are fitted to the fit tokens' labels, so that there it is ahead of any trained network."""
    own = everywhere(2.85)
    of_peeled, with_refined = (
        concluded(measured(refined=extra, own=(*TRAINED.own[:2], own))).network for extra in (None, refined(2.95, 3.1))
    )
    assert of_peeled.fit == with_refined.fit
    assert with_refined.paper_verdict is of_peeled.paper_verdict is Verdict.GREEN


def test_how_refined_was_made_is_in_the_networks_row() -> None:
    how = concluded(measured(refined=refined(2.95, 3.1, half=3.2))).network.refinement
    assert how is not None
    assert (how.steps, how.products, how.passes) == (4, 6, 9.5)
    assert (how.gain.value, how.half and how.half.value) == pytest.approx((0.3, 0.2))
    without = concluded(measured(refined=refined(2.95, 3.1))).network.refinement
    assert without is not None
    assert without.half is None


def test_refined_stands_first_among_the_schedules_and_in_no_yes_k() -> None:
    found = concluded(measured(refined=refined(2.95, 3.1)))
    first, *rest = found.schedules
    assert (first.name, first.targets, first.waypoints, first.blocks) == ("refined", (1, 2, 3), None, ())
    assert first.held_out.own.value == pytest.approx(first.held_out.bound.value + 0.1)
    assert rest == list(concluded().schedules)
    assert found.yes == concluded().yes
    assert found.search.run == len(found.schedules)


@pytest.mark.parametrize(
    ("tolerance", "verdict"), [(0.0, Verdict.YELLOW), (0.29, Verdict.YELLOW), (0.31, Verdict.GREEN)]
)
def test_the_verdict_is_that_of_the_tolerance(tolerance: float, verdict: Verdict) -> None:
    config = dataclasses.replace(CONFIG, tolerance=tolerance)
    found = conclude(measured(refined=refined(2.95, 3.1)), config, vocabulary=64)
    assert found.network.held_out.verdict is verdict
    assert found.layers[-1].held_out.verdict is verdict
    # Cut networks have no tolerance.
    assert found.layers[0].held_out.verdict is concluded().layers[0].held_out.verdict


def test_a_temperature_gains_on_held_out() -> None:
    network = concluded(measured(tempered=losses(9.0, 9.0, 3.3))).network
    assert network.temperature == 1.25
    assert network.temperature_gain.value == pytest.approx(0.15)


def test_a_network_of_one_layer_has_the_networks_row_alone() -> None:
    trained = dataclasses.replace(
        TRAINED, own=TRAINED.own[-1:], readout=TRAINED.readout[-1:], deviations=TRAINED.deviations[-1:]
    )
    references = ReferenceLosses(PEEL_MAP[-1:], (ran(Schedule((1,)), TRAINED.readout[-1]),), 0, {}, None)
    examined = dataclasses.replace(EXAMINED, digests=("aa",), signs=EXAMINED.signs[:1], slopes=(None,))
    found = concluded(Measurements(trained, references, None, examined))
    assert [row.layer for row in found.layers] == [1]
    assert found.network.best_schedule == "final"
    assert found.layers[0].depth_gap == Estimate(0.0, 0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_no_figure(bad: float) -> None:
    spoiled = TRAINED.unigram.copy()
    spoiled[-1] = bad
    with pytest.raises(NonFiniteResult, match="held_out: a sum over sequences is not finite"):
        concluded(measured(unigram=spoiled))


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_state_that_does_not_vary_is_named(layer: int) -> None:
    deviations = list(TRAINED.deviations)
    deviations[layer - 1] = np.zeros(5)
    with pytest.raises(NonFiniteResult, match=f"the state after layer {layer} doesn't vary over the held-out tokens"):
        concluded(measured(deviations=tuple(deviations)))


def test_an_influence_that_is_not_finite_is_named() -> None:
    influences = (np.full(5, 0.1), np.full(5, math.nan), np.full(5, 0.3))
    whole = measured()
    spoiled = dataclasses.replace(whole, examined=dataclasses.replace(whole.examined, influences=influences))
    with pytest.raises(NonFiniteResult, match="the influence of layer 2"):
        concluded(spoiled)


def test_the_loads_of_the_most_and_the_least_used_expert_are_shares_of_tokens() -> None:
    first, second, _ = concluded().layers
    assert first.most_load is first.least_load is None
    assert second.most_load is not None
    assert second.least_load is not None
    assert (second.most_load.value, second.least_load.value) == (1.0, 0.25)


def test_what_is_a_share_of_something_has_an_interval_of_such() -> None:
    """Five documents of which one differs: an interval of the mean alone reaches below 0 and above all."""
    uneven = dataclasses.replace(
        EXAMINED,
        influences=(np.array([0.0, 0.0, 0.0, 0.0, 1.0]), np.array([2.0, 2.0, 2.0, 2.0, 1.0]), np.full(5, 0.3)),
        loads=(None, np.array([[1.0, 0.0]] * 4 + [[0.6, 0.4]]), None),
    )
    first, second, _ = concluded(dataclasses.replace(measured(), examined=uneven)).layers
    assert second.most_load is not None
    assert second.least_load is not None
    assert first.influence.low == second.least_load.low == 0
    assert second.influence.high == 2
    assert second.most_load.high == 1
    assert first.influence.high > first.influence.value > 0


def test_what_a_router_saves_is_told_of_blocks_with_experts() -> None:
    first, second, _ = concluded().layers
    assert first.routing_gain is None
    assert second.routing_gain is not None
    assert second.routing_gain.value == pytest.approx(0.25)
