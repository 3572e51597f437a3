"""What an audit measures: the trained network's losses taken over, every reference once, what isn't finite named."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from peelaudit.auditing.measure import LEAST_FIT, Measurer
from peelaudit.auditing.measurements import ReferenceLosses, TrainedLosses
from peelaudit.auditing.resuming import Kept
from peelaudit.errors import NonFiniteResult
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.method.references.distances import deviation
from peelaudit.method.references.schedules import parse_schedules, staircase
from peelaudit.method.refinement.reach import Reach
from peelaudit.method.refinement.refine import Refined, Refiner
from peelaudit.network.lowbit.constraints import Ternary
from peelaudit.network.states import Rows, StateStore
from peelaudit.progress import SILENT, Progress
from peelaudit.settings.audit import AuditConfig
from tests.auditing.support import calibration_of
from tests.checkpoints import models
from tests.method.refinement.support import downstream, own_losses
from tests.networks import Network

Opener = Callable[..., Network]
LAYERS = 3
OWN: dict[str, Any] = {"readout": "own", "depth_readout": "own"}


class Told:
    """A progress that counts each stage's steps."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.steps: Counter[str] = Counter()

    def stage(self, name: str, total: int) -> None:
        self.totals[name] = total

    def advance(self, steps: int = 1) -> None:
        self.steps[list(self.totals)[-1]] += steps


def measurer(network: Network, progress: Progress = SILENT, **settings: Any) -> Measurer:
    config = AuditConfig(checkpoint="c", resamples=100, **{**OWN, **settings})
    store = StateStore(dtype=network.states[0].dtype)
    return Measurer(network.decoder, calibration_of(network), config, store=store, kept=Kept(progress))


def referred(made: Measurer, *schedules: str, **options: Any) -> tuple[TrainedLosses, ReferenceLosses]:
    trained = made.trained()
    return trained, made.references(trained, parse_schedules(schedules, len(trained.own)), **options)


@pytest.fixture
def deep(network: Opener) -> Network:
    return network("llama", changes={"num_hidden_layers": LAYERS})


def test_the_trained_losses_are_the_networks_own(deep: Network) -> None:
    trained = measurer(deep).trained()
    np.testing.assert_allclose(trained.own[-1], own_losses(deep), rtol=1e-9)
    assert [len(losses) for losses in trained.own] == [len(trained.depth_panel.index)] * 2 + [len(deep.tokens)]
    for deviations, state in zip(trained.deviations, deep.states[1:], strict=True):
        np.testing.assert_allclose(deviations, deviation(state, deep.rows.held_out))


def test_depths_below_the_last_are_read_out_on_part_of_fit_and_on_all_of_the_others(deep: Network) -> None:
    trained = measurer(deep).trained()
    rows = deep.rows
    assert list(trained.panel.index) == list(range(len(deep.tokens)))
    index = trained.depth_panel.index
    assert sum(index < rows.fit.stop) == LEAST_FIT
    assert list(index[index >= rows.fit.stop]) == list(range(rows.select.start, rows.held_out.stop))


@pytest.mark.parametrize("kind", ["own", "lens", "refit"])
def test_a_rows_readout_is_its_own_setting(kind: str, deep: Network) -> None:
    depths, whole = measurer(deep, depth_readout=kind).trained(), measurer(deep, readout=kind).trained()
    below, last = kind != "own", kind == "refit"  # a lens of the last state is the own head
    for trained, fitted in ((depths, [below, below, False]), (whole, [False, False, last])):
        found = [not np.array_equal(own, readout) for own, readout in zip(trained.own, trained.readout, strict=True)]
        assert found == fitted


def test_unigram_losses_are_those_of_counted_tokens(deep: Network) -> None:
    counts = Counter(deep.tokens[deep.rows.fit].flatten().tolist())
    total = sum(counts.values()) + deep.decoder.vocabulary
    expected = [-sum(math.log((counts[token] + 1) / total) for token in row[1:]) for row in deep.tokens.tolist()]
    np.testing.assert_allclose(measurer(deep).trained().unigram, expected, rtol=1e-12)


def test_a_node_on_the_trained_trajectory_is_the_trained_network_taken_over(deep: Network) -> None:
    trained, found = referred(measurer(deep, readout="refit", depth_readout="lens"), "direct", "prefix:1")
    direct = found.schedules[0]
    assert direct.own is trained.own[-1]
    assert direct.readout is trained.readout[-1]
    assert [fit.method for fit in direct.blocks] == ["trained"] * LAYERS
    assert found.nodes[1,] is trained.readout[0]
    assert found.nodes[1, 2] is trained.readout[1]
    assert not np.array_equal(found.nodes[1, 3], trained.readout[1])
    assert not np.array_equal(found.schedules[1].own, trained.own[-1])


def test_from_a_random_start_nothing_is_taken_over(deep: Network) -> None:
    trained, found = referred(measurer(deep, solver="adam", init="random", steps=1), "direct")
    assert not np.array_equal(found.nodes[1,], trained.readout[0])
    assert not np.array_equal(found.schedules[0].own, trained.own[-1])


def test_schedules_that_begin_alike_share_their_blocks(deep: Network) -> None:
    told = Told()
    _, found = referred(measurer(deep, told), "all")
    wanted = [schedule.schedule.targets for schedule in found.schedules]
    assert len(wanted) == 2 ** (LAYERS - 1)
    prefixes = {targets[:depth] for targets in wanted for depth in range(1, LAYERS + 1)}
    assert told.totals["reference blocks"] == told.steps["reference blocks"] == len(prefixes)
    assert found.nodes.keys() == {prefix for prefix in prefixes if len(prefix) < LAYERS}


def test_a_schedule_has_the_same_losses_alone_and_among_others(deep: Network) -> None:
    _, together = referred(measurer(deep), "all")
    _, alone = referred(measurer(deep), "3,2,3")
    assert [one.schedule.targets for one in alone.schedules] == [(3, 2, 3), (3, 3, 3)]
    (final,) = (one for one in together.schedules if one.schedule == alone.schedules[1].schedule)
    np.testing.assert_allclose(alone.schedules[1].own, final.own, rtol=1e-7)


@pytest.mark.parametrize(
    ("asked", "run"),
    [(("direct",), ["direct"]), (("prefix:1",), ["prefix:1", "final"]), (("final", "direct"), ["final", "direct"])],
)
def test_final_is_run_wherever_a_block_is_fitted_and_never_twice(
    asked: tuple[str, ...], run: list[str], deep: Network
) -> None:
    _, found = referred(measurer(deep), *asked)
    assert [schedule.schedule.name for schedule in found.schedules] == run
    assert found.searched == 0


def test_a_search_runs_the_staircase_of_least_error_in_the_peel_map(deep: Network) -> None:
    _, found = referred(measurer(deep), "search:1", "search:2")
    spread = [float(deviation(state, deep.rows.select).sum()) for state in deep.states[1:]]

    def error(waypoints: tuple[int, ...]) -> float:
        steps = itertools.pairwise((0, *waypoints, LAYERS))
        return sum(float(found.peel_map[start].select[end - start - 1]) / spread[end - 1] for start, end in steps)

    one = min(((waypoint,) for waypoint in range(1, LAYERS)), key=error)
    assert [schedule.schedule for schedule in found.schedules] == [
        staircase(waypoints, LAYERS) for waypoints in (one, (1, 2), ())
    ]
    assert found.searched == 2 + 1


def test_a_search_in_a_near_map_takes_no_segment_that_is_not_in_it(deep: Network) -> None:
    """With as many waypoints that none is longer it is the same as in the whole map."""
    found = [referred(measurer(deep), "search:2", map_reach=reach)[1] for reach in (None, 1)]
    assert found[0].schedules[0].schedule == found[1].schedules[0].schedule
    _, near = referred(measurer(deep), "search:1", map_reach=1)
    waypoints = near.schedules[0].schedule.waypoints
    assert waypoints is not None
    assert max(end - start for start, end in itertools.pairwise((0, *waypoints, LAYERS))) <= 2


def test_the_peel_map_goes_as_far_as_it_is_told(deep: Network) -> None:
    made = measurer(deep)
    sequences = deep.rows.held_out.stop - deep.rows.held_out.start
    for reach, lengths in ((None, (3, 2, 1)), (1, (2, 2, 1)), (0, (1, 1, 1))):
        _, found = referred(made, "final", map_reach=reach)
        assert [row.held_out.shape for row in found.peel_map] == [(length, sequences) for length in lengths]
        assert found.unknowns > 0


def test_float_references_are_fitted_beside_low_bit_ones_where_they_are_asked_for(network: Opener) -> None:
    held = network("llama", bits=Ternary(), dtype=torch.float32)
    _, found = referred(measurer(held, float_reference=True), "all")
    assert found.float_nodes is not None
    assert found.float_nodes.keys() == found.nodes.keys() | {one.schedule.targets for one in found.schedules}
    final = next(one for one in found.schedules if one.schedule.name == "final")
    assert not np.array_equal(found.float_nodes[final.schedule.targets], final.readout)
    _, without = referred(measurer(held), "all")
    assert without.float_nodes is None
    _, free = referred(measurer(network("llama"), float_reference=True), "all")
    assert free.float_nodes is None


@pytest.mark.parametrize("kind", ["own", "refit"])
def test_blocks_are_examined_and_refined_under_the_networks_readout(kind: str, deep: Network) -> None:
    made = measurer(deep, readout=kind)
    trained = made.trained()
    assert np.array_equal(made.own, trained.own[-1])
    assert made.examiner().examination().losses is trained.readout[-1]
    assert made.head.kind == kind
    everything = slice(0, len(deep.tokens))
    still = made.refiner.all(Reach(steps=0))
    np.testing.assert_array_equal(made.refiner.losses(still, everything), trained.readout[-1])


@pytest.mark.parametrize("kind", ["own", "refit"])
def test_refined_is_never_worse_on_select_and_its_losses_are_those_of_its_blocks(kind: str, deep: Network) -> None:
    made = measurer(deep, readout=kind)
    trained, rows = made.trained().readout[-1], deep.rows
    told: list[Refined] = []
    found = made.refined(Reach(products=2), half=True, told=lambda refined, _: told.append(refined))
    (refined,) = told
    assert refined.layers == (1, LAYERS)
    assert refined.moved
    assert (found.steps, found.products) == (refined.steps, refined.products)
    predictions = (rows.select.stop - rows.select.start) * (deep.tokens.shape[1] - 1)
    gain = (trained[rows.select] - found.readout[rows.select]).sum() / predictions
    assert gain == pytest.approx(refined.select_gain)
    assert gain > 0
    decoder = deep.decoder
    for block in made.refiner.blocks(refined):
        decoder = decoder.replacing(block)
    np.testing.assert_allclose(made.losses_of(decoder, made.head), found.readout[rows.held_out], rtol=1e-9)
    own = Readout("own", Unembedding.of(deep.decoder))
    np.testing.assert_allclose(made.losses_of(decoder, own), found.own[rows.held_out], rtol=1e-9)
    assert (kind == "own") == np.array_equal(found.own, found.readout)
    assert found.half is not None
    assert not found.half[: rows.held_out.start].any()
    assert not np.array_equal(found.half[rows.held_out], found.readout[rows.held_out])


@pytest.mark.parametrize(("steps", "given"), [(0, 1), (2, 2), (9, 4)])
def test_where_looks_are_thinned_half_of_the_text_is_given_as_many_steps_as_all_took(
    steps: int, given: int, deep: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    reaches: list[Reach] = []
    original = Refiner.all

    def refine(refiner: Refiner, reach: Reach, **known: Any) -> Refined:
        reaches.append(reach)
        return dataclasses.replace(original(refiner, reach, **known), steps=steps)

    monkeypatch.setattr(Refiner, "all", refine)
    for thinned in (1, 4):
        measurer(deep).refined(Reach(steps=4, thinned=thinned), half=True)
    assert [reach.steps for reach in reaches] == [4, 4, 4, given]


def test_half_of_the_text_is_the_first_half_of_fit(deep: Network) -> None:
    found = measurer(deep).refined(Reach(steps=1), half=True)
    rows = deep.rows
    fewer = Network(
        deep.decoder, deep.tokens, Rows(slice(0, rows.fit.stop // 2), rows.select, rows.held_out), deep.states
    )
    refiner = Refiner(downstream(fewer), deep.states, own_losses(deep))
    expected = refiner.losses(refiner.all(Reach(steps=1)), rows.held_out)
    assert found.half is not None
    np.testing.assert_allclose(found.half[rows.held_out], expected, rtol=1e-12)


def test_without_the_half_there_is_none_and_its_cost_is_not_counted(deep: Network) -> None:
    alone, both = (measurer(deep).refined(Reach(steps=1), half=half) for half in (False, True))
    assert alone.half is None
    assert alone.passes == pytest.approx(both.passes)
    assert alone.passes > 0


def test_the_cost_of_refined_is_its_own(deep: Network) -> None:
    """Blocks that were refined alone before it, by the same refiner, aren't in it."""
    made, before = measurer(deep), measurer(deep).refined(Reach(steps=2), half=False)
    assert len(list(made.examiner().gaps(made.refiner, Reach(products=2)))) == LAYERS
    assert made.refined(Reach(steps=2), half=False).passes <= before.passes


def test_depths_that_would_cost_too_much_are_read_on_some_tokens(
    deep: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every third, of each sequence, and their losses there are those of all tokens read out."""
    whole = measurer(deep).trained()
    monkeypatch.setattr(Measurer, "_thinning", lambda *_: 3)
    made = measurer(deep)
    found = made.trained()
    rows, positions = deep.rows, deep.tokens.shape[1]
    held_out = found.depth_panel.splits["held_out"]
    assert found.panel.predictions.tolist() == whole.panel.predictions.tolist()
    counts = found.depth_panel.predictions
    assert set(counts.tolist()) <= {(positions - 1) // 3, -(-(positions - 1) // 3)}
    index = torch.arange(rows.held_out.start, rows.held_out.stop)
    own = Readout("own", Unembedding.of(deep.decoder))
    each = own.each(deep.states[1], deep.tokens, index, "a test")
    place = index[:, None] + torch.arange(1, positions)[None, :]
    np.testing.assert_allclose(found.own[0][held_out], (each * (place % 3 == 0)).sum(dim=1).numpy(), rtol=1e-9)
    np.testing.assert_array_equal(found.own[-1], whole.own[-1])


def test_a_temperature_is_that_of_the_own_head(deep: Network) -> None:
    trained = measurer(deep, readout="refit").trained()
    rows = deep.rows.held_out
    assert trained.temperature > 1  # of random logits, none is worth anything
    own = Unembedding.of(deep.decoder)
    tempered = Readout("own", replace(own, weight=own.weight / trained.temperature))
    expected = tempered.losses(deep.states[-1], deep.tokens, torch.arange(rows.start, rows.stop), "a test")
    np.testing.assert_allclose(trained.tempered[rows], expected, rtol=1e-9)
    assert not trained.tempered[: rows.start].any()


def test_a_loss_that_is_not_finite_names_what_it_is_of(network: Opener) -> None:
    made = network(models.model("llama"))
    torch.nn.init.constant_(made.decoder.head.weight, math.nan)
    with pytest.raises(NonFiniteResult, match=r"^the trained network: the loss is NaN or Inf under the readout 'own'"):
        measurer(made)
