"""The recursion over the prefix tree and the peel map, against a naive recursion, block by block."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.references import solvers
from peelaudit.method.references.closed_form import BlockRegression
from peelaudit.method.references.distances import deviation, sequence_errors, squared_deviation, squared_error
from peelaudit.method.references.peel import Peeled, Peeler, projection_map
from peelaudit.method.references.schedules import Schedule, parse_schedules, prefix_tree
from peelaudit.method.references.solvers import SolverSettings, redrawn
from peelaudit.network.states import StateStore
from tests.networks import Network

Opener = Callable[..., Network]
LAYERS = 4
DEEP = {"num_hidden_layers": LAYERS}


@pytest.fixture
def deep(network: Opener) -> Network:
    return network("llama", changes=DEEP)


def peeler(opened: Network, **options: Any) -> Peeler:
    store = StateStore(dtype=opened.states[0].dtype)
    return Peeler(opened.decoder, opened.states, opened.rows, SolverSettings(**options), store)


def peeled(opened: Network, schedules: Iterable[Schedule], **options: Any) -> dict[tuple[int, ...], Peeled]:
    return {node.prefix: node for node in peeler(opened, **options).peel(prefix_tree(schedules))}


def mappings(*targets: tuple[int, ...]) -> tuple[Schedule, ...]:
    return tuple(map(Schedule, targets))


def naive(opened: Network, schedule: Schedule) -> list[Tensor]:
    """z_1 … z_L by the recursion of docs/method.md, Peeling, each block fitted on its own, exact on its own input."""
    state, states = opened.states[0], []
    for layer, target in enumerate(schedule.targets, 1):
        regression = BlockRegression(opened.decoder.block(layer), state, [opened.states[target]], opened.rows)
        state = regression.fit(0).block(state)
        states.append(state)
    return states


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(layer, targets) of every regression that is factorised."""
    seen: list[tuple[int, int]] = []

    class Counted(BlockRegression):
        def __init__(self, block: Any, inputs: Tensor, targets: Any, *others: Any) -> None:
            seen.append((block.layer, len(targets)))
            super().__init__(block, inputs, targets, *others)

    monkeypatch.setattr(solvers, "BlockRegression", Counted)
    return seen


def test_every_node_of_the_tree_comes_once_parents_first(deep: Network) -> None:
    root = prefix_tree(parse_schedules(["all"], LAYERS).schedules)
    found = [node.prefix for node in peeler(deep).peel(root)]
    expected = [node.prefix for node in root.walk() if node.prefix]
    assert sorted(found) == sorted(expected)
    assert len(found) == len(set(found))
    for index, prefix in enumerate(found):
        assert len(prefix) == 1 or prefix[:-1] in found[:index]


def test_shared_prefixes_are_fitted_once_and_siblings_share_a_factorisation(
    deep: Network, counted: list[tuple[int, int]]
) -> None:
    schedules = parse_schedules(["all"], LAYERS).schedules
    peeled(deep, schedules)
    inner = [node for node in prefix_tree(schedules).walk() if node.children]
    expected = []
    for node in inner:
        layer = len(node.prefix) + 1
        on_trajectory = node.prefix == tuple(range(1, layer))
        fitted = [child for child in node.children if not (on_trajectory and child.prefix[-1] == layer)]
        expected += [(layer, len(fitted))] if fitted else []
    assert sorted(counted) == sorted(expected)
    assert max(count for _, count in counted) == 3  # 2, 3 and 4, from h_0, at once


@pytest.mark.parametrize(
    "targets", [(4, 4, 4, 4), (3, 3, 3, 4), (1, 4, 4, 4), (4, 1, 3, 4), (2, 1, 4, 3), (1, 1, 1, 4), (4, 3, 2, 1)]
)
def test_a_schedule_is_the_naive_recursion(targets: tuple[int, ...], deep: Network) -> None:
    (schedule,) = mappings(targets)
    nodes = peeled(deep, [schedule])
    expected = naive(deep, schedule)
    for depth, state in enumerate(expected, 1):
        torch.testing.assert_close(nodes[targets[:depth]].state, state, rtol=1e-6, atol=1e-6)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    schedules=st.lists(
        st.lists(st.integers(1, LAYERS), min_size=LAYERS, max_size=LAYERS).map(
            lambda targets: Schedule(tuple(targets))
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_schedule_is_the_same_alone_and_among_others(schedules: list[Schedule], deep: Network) -> None:
    together = peeled(deep, schedules)
    for schedule in schedules:
        alone = peeled(deep, [schedule])[schedule.targets]
        torch.testing.assert_close(together[schedule.targets].state, alone.state, rtol=1e-6, atol=1e-6)
        assert [fit.target for fit in together[schedule.targets].blocks] == list(schedule.targets)


def test_on_the_trained_trajectory_a_node_is_the_trained_state_itself(
    deep: Network, counted: list[tuple[int, int]]
) -> None:
    nodes = peeled(deep, parse_schedules(["direct"], LAYERS).schedules)
    assert counted == []
    for depth in range(1, LAYERS + 1):
        node = nodes[tuple(range(1, depth + 1))]
        assert node.state is deep.states[depth]
        assert node.trained
        assert [(fit.method, fit.fit_error, fit.select_error) for fit in node.blocks] == [("trained", 0.0, 0.0)] * depth


def test_off_the_trajectory_nothing_is_called_trained(deep: Network) -> None:
    nodes = peeled(deep, mappings((2, 2, 3, 4)))
    assert [nodes[(2, 2, 3, 4)[:depth]].trained for depth in range(1, 5)] == [False] * 4


@pytest.mark.parametrize("solver", ["ridge", "adam", "ridge+adam"])
def test_errors_are_shares_of_the_targets_spread_on_each_split(solver: str, deep: Network) -> None:
    node = peeled(deep, mappings((2, 3, 4, 4)), solver=solver, steps=6)[2, 3, 4, 4]
    inputs = deep.states[0]
    states = peeled(deep, mappings((2, 3, 4, 4)), solver=solver, steps=6)
    for depth, fit in enumerate(node.blocks, 1):
        state, target = states[(2, 3, 4, 4)[:depth]].state, deep.states[fit.target]
        for rows, error in ((deep.rows.fit, fit.fit_error), (deep.rows.select, fit.select_error)):
            centred = target[rows] - target[rows].mean(dim=(0, 1))
            expected = (state - target)[rows].square().sum() / centred.square().sum()
            assert error == pytest.approx(float(expected), rel=1e-6)
        trained = squared_error(deep.decoder.block(depth), inputs, target, deep.rows.select)
        spread = float(deviation(target, deep.rows.select).sum())
        assert fit.trained_error == pytest.approx(trained / spread, rel=1e-6)
        assert fit.select_error <= fit.trained_error
        inputs = state


def test_states_are_dropped_when_their_last_child_is_there(deep: Network) -> None:
    schedules = parse_schedules(["all"], LAYERS).schedules
    alive: list[weakref.ref[Tensor]] = []
    most = 0
    for node in peeler(deep).peel(prefix_tree(schedules)):
        if not node.trained:
            alive.append(weakref.ref(node.state))
        del node
        most = max(most, sum(ref() is not None for ref in alive))
    assert most <= LAYERS
    assert len(alive) > 2 * LAYERS
    assert not any(ref() is not None for ref in alive)


def test_what_waits_for_its_turn_is_in_memory_alone(deep: Network) -> None:
    """Siblings' states are made together where there is room, and otherwise each in its turn, as few as before."""
    root = prefix_tree(parse_schedules(["all"], LAYERS).schedules)
    state = deep.states[0].numel() * deep.states[0].itemsize
    states = {}
    for room in (4 * state, 1 << 40):
        store = Counting(room, deep.states[0].dtype)
        of = Peeler(deep.decoder, deep.states, deep.rows, SolverSettings(), store)
        states[room] = {node.prefix: node.state.clone() for node in of.peel(root)}
        assert (store.on_disk <= LAYERS) if room < 1 << 40 else (store.on_disk == 0)
    few, many = states.values()
    for prefix, one in few.items():
        torch.testing.assert_close(one, many[prefix], rtol=1e-6, atol=1e-6)


class Counting(StateStore):
    """How many states lay in files at once, at the most."""

    on_disk = 0
    _now = 0

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        fits = self.fits(shape)
        made = super().empty(*shape, dtype=dtype)
        if not fits:
            self._now += 1
            self.on_disk = max(self.on_disk, self._now)
            weakref.finalize(made, self._gone)
        return made

    def _gone(self) -> None:
        self._now -= 1


def test_adam_takes_its_steps_and_seed_from_the_settings(deep: Network) -> None:
    schedules = mappings((4, 4, 4, 4))

    def first(**options: Any) -> Tensor:
        return peeled(deep, schedules, solver="adam", **options)[(4,)].state

    assert torch.equal(first(steps=4), first(steps=4))
    assert not torch.equal(first(steps=4), first(steps=8))


def test_a_random_start_redraws_matrices_and_leaves_gains_and_biases(network: Opener) -> None:
    block = network("gpt2").decoder.block(1)
    drawn, again, other = redrawn(block, 0), redrawn(block, 0), redrawn(block, 1)
    before = block.module.state_dict()
    for name, tensor in drawn.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name])
        assert torch.equal(tensor, before[name]) == (tensor.ndim == 1)
        if tensor.ndim > 1:
            assert not torch.equal(tensor, other.module.state_dict()[name])
            assert float(tensor.std()) == pytest.approx(float(before[name].std()), rel=0.1)


def test_no_two_layers_begin_with_the_same_draw(network: Opener) -> None:
    decoder = network("llama").decoder
    first, second = (redrawn(decoder.block(layer), 0).module.mlp.up_proj.weight for layer in (1, 2))  # type: ignore[union-attr]
    together = torch.stack([first.flatten(), second.flatten()])  # type: ignore[operator]
    assert abs(float(torch.corrcoef(together)[0, 1])) < 0.2


def test_from_a_random_start_no_block_is_the_trained_one(deep: Network) -> None:
    nodes = peeled(deep, parse_schedules(["direct"], LAYERS).schedules, solver="adam", init="random", steps=4)
    for node in nodes.values():
        assert not node.trained
        assert all(fit.method in ("random", "adam") for fit in node.blocks)
        assert all(fit.select_error > 0 for fit in node.blocks)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3_text", "olmo2", "opt"])
def test_the_peel_map_is_the_best_block_to_each_later_state(family: str, network: Opener) -> None:
    depth = {"n_layer": 3} if family == "gpt2" else {"num_hidden_layers": 3}
    opened = network(family, changes=depth)
    rows = tuple(projection_map(opened.decoder, opened.states, opened.rows))
    assert [len(row.held_out) for row in rows] == [len(row.select) for row in rows] == [3, 2, 1]
    held_out, select = opened.rows.held_out, opened.rows.select
    for layer, row in enumerate(rows, 1):
        inputs = opened.states[layer - 1]
        assert not row.held_out[0].any()
        assert row.select[0] == 0
        skipped = (inputs - opened.states[layer])[held_out].square().sum(dim=(1, 2))
        np.testing.assert_allclose(row.skipped, skipped, rtol=1e-9)
        for step, target in enumerate(opened.states[layer + 1 :], 1):
            block = opened.decoder.block(layer)
            fitted = BlockRegression(block, inputs, [target], opened.rows).fit(0)
            errors = (fitted.block(inputs) - target)[held_out].square().sum(dim=(1, 2))
            np.testing.assert_allclose(row.held_out[step], errors, rtol=1e-6)
            assert row.select[step] == pytest.approx(squared_error(fitted.block, inputs, target, select), rel=1e-6)
            assert row.select[step] <= squared_error(block, inputs, target, select) * (1 + 1e-9)


def test_a_map_of_a_shorter_reach_has_the_same_errors(network: Opener) -> None:
    opened = network("llama", changes={"num_hidden_layers": 4})
    whole = tuple(projection_map(opened.decoder, opened.states, opened.rows))
    near = tuple(projection_map(opened.decoder, opened.states, opened.rows, reach=1))
    assert [len(row.select) for row in near] == [2, 2, 2, 1]
    for one, other in zip(near, whole, strict=True):
        np.testing.assert_allclose(one.held_out, other.held_out[: len(one.held_out)], rtol=1e-9)


def test_unknowns_are_those_of_an_output(network: Opener) -> None:
    """The MLP's width, the bias where there is one, and the heads' where both writers change."""
    expected = {"llama": 48, "gpt2": 4 * 32 + 1, "phi": 48 + 1 + 32 + 1}
    for family, unknowns in expected.items():
        opened = network(family)
        rows = tuple(projection_map(opened.decoder, opened.states, opened.rows))
        assert [row.unknowns for row in rows] == [unknowns, 0]


def test_deviations_are_from_the_mean_over_all_tokens() -> None:
    state = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0)) + 4
    part = state[1:4].double()
    expected = (part - part.mean(dim=(0, 1))).square().sum(dim=(1, 2))
    np.testing.assert_allclose(deviation(state, slice(1, 4)), expected, rtol=1e-12)
    np.testing.assert_allclose(
        sequence_errors(state, torch.zeros_like(state), slice(1, 4)), part.square().sum(dim=(1, 2)), rtol=1e-12
    )
    assert squared_deviation(torch.ones(2, 3, 4), slice(0, 2)) > 0


def test_a_reference_that_is_not_finite_is_named_by_layer_and_targets(deep: Network) -> None:
    states = list(deep.states)
    states[3] = states[3].clone()
    states[3][deep.rows.fit, 0, 0] = float("nan")
    broken = Network(deep.decoder, deep.tokens, deep.rows, tuple(states))
    with pytest.raises(NonFiniteResult, match="layer 1"):
        peeled(broken, mappings((3, 3, 3, 4)))
