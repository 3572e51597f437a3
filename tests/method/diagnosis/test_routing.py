"""Routers held against their own choices with the experts exchanged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from peelaudit.auditing.faults import damaged
from peelaudit.auditing.measure import Measurer
from peelaudit.auditing.prepare import Prepared, held_decoder, prepared
from peelaudit.method.diagnosis.examine import Examination
from peelaudit.method.diagnosis.naming import name_layers
from peelaudit.method.diagnosis.routing import ASSIGNMENTS, at_chance, most_lost, routing_gains
from peelaudit.method.readouts.factory import ReadoutFactory
from peelaudit.method.refinement.downstream import Downstream
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import StateStore, TokenRows
from peelaudit.network.weights import check_weights
from peelaudit.records import FaultKind, Symptom
from peelaudit.settings.audit import AuditConfig
from tests.checkpoints import models
from tests.network.registry import tiny_model
from tests.networks import Network, splits
from tests.places import FIXTURES

Opener = Callable[..., Network]
SEQUENCES = 18
PANEL = Panel.of(
    {"fit": np.arange(3), "select": np.arange(3), "held_out": np.arange(SEQUENCES)}, positions=11, resamples=100, seed=0
)


@pytest.mark.parametrize("family", ["mixtral", "llama4_text"])
def test_exchanged_experts_are_those_of_a_router_with_other_rows(family: str, network: Opener) -> None:
    made = network(tiny_model(family))
    block, hidden, order = made.decoder.block(2), made.states[1][:3], (2, 0, 3, 1)
    router = block.router
    assert router is not None
    other = torch.empty_like(router.weight)
    other[list(order)] = router.weight.detach()
    expected = block.replaced({f"{router.path}.weight": other})(hidden)
    assert torch.allclose(block.exchanged(order)(hidden), expected)
    assert not torch.allclose(block(hidden), expected)


def gains(made: Network, layer: int) -> Losses | None:
    data, rows = TokenRows(made.tokens, made.rows), made.rows.held_out
    readout = ReadoutFactory(made.decoder, data, made.states[-1], StateStore()).own
    down = Downstream(made.decoder, data, readout, StateStore(dtype=torch.float64))
    losses = down.losses(made.decoder.n_layers, made.states[-1][rows], rows, "the network")
    return routing_gains(down, made.decoder.block(layer), made.states[layer - 1], losses, rows)


def test_experts_that_are_all_alike_leave_nothing_to_be_gained(network: Opener) -> None:
    model = models.model("mixtral")
    with torch.no_grad():
        experts = model.model.layers[1].mlp.experts
        for stack in (experts.gate_up_proj, experts.down_proj):
            stack.copy_(stack[:1].expand_as(stack))
    made = network(model, rows=splits(8, 4, SEQUENCES))
    alike, others = gains(made, 2), gains(made, 1)
    assert alike is not None
    assert others is not None
    assert np.abs(alike).max() < 1e-10
    assert np.abs(others).min() > 1e-10


@pytest.mark.parametrize(("family", "held_out"), [("mixtral", ASSIGNMENTS - 1), ("llama", SEQUENCES)])
def test_nothing_is_said_of_too_few_sequences_and_of_blocks_without_experts(
    family: str, held_out: int, network: Opener
) -> None:
    assert gains(network(models.model(family), rows=splits(8, 4, held_out)), 2) is None


def saved(worst: float, others: float = 0.1) -> Losses:
    """What a router saves of each sequence, with its worst share of them saving `worst`; 0 on the other splits."""
    found = np.full(6 + SEQUENCES, others)
    found[:6] = 0
    found[6 + 4 :: ASSIGNMENTS] = worst
    return found


@pytest.mark.parametrize(
    ("worst", "barred", "named"),
    [
        ((0.1, 0.1, 0.1, None), (), ()),
        ((0.1, -1.0, 0.1, None), (), (2,)),
        ((0.1, -1.0, 0.1, None), (2,), ()),
        ((-1.0, -1.0, 0.1, None), (), ()),
        ((-1.5, 0.1, -1.0, -1.0), (), ()),
        ((-1.0, 0.1, -2.5, -1.0), (), (3,)),
        ((None,) * 4, (), ()),
    ],
)
def test_one_share_without_a_gain_is_chance(
    worst: tuple[float | None, ...], barred: tuple[int, ...], named: tuple[int, ...]
) -> None:
    found = [None if one is None else saved(one) for one in worst]
    assert at_chance(PANEL, found, barred) == named


def test_what_a_router_loses_by_its_own_choice_is_that_of_its_worst_share() -> None:
    lost = most_lost(PANEL, [saved(-1.0), None, saved(0.05)])
    assert lost[1] is None
    assert lost[0] == pytest.approx(-20 * lost[2])  # type: ignore[operator]


def test_a_gain_that_is_clear_is_no_chance_though_one_share_has_none() -> None:
    assert at_chance(PANEL, [saved(-0.4, others=2.0), saved(0.1)]) == ()


def test_of_many_layers_a_tenth_may_be_at_chance() -> None:
    healthy = [saved(0.1)] * 18
    assert at_chance(PANEL, [saved(-1.0)] * 2 + healthy) == (1, 2)
    assert at_chance(PANEL, [saved(-1.0)] * 3 + healthy[:17]) == ()


def test_routers_of_a_trained_mixture_know_their_experts_and_redrawn_ones_do_not() -> None:
    """Of those that are redrawn one in ten looks as if it did, by chance: not these."""
    with prepared(AuditConfig(checkpoint=str(FIXTURES / "mixtral"), tokens=6144)) as audit:
        decoder, _ = held_decoder(audit, check_weights(audit.checkpoint))
        healthy = examined(decoder, audit)
        assert at_chance(healthy.panel, healthy.routings) == ()
        for layer in (1, 3):
            block = damaged(decoder.block(layer), FaultKind.ROUTER_REINITIALISED, heads=4, seed=1000 * layer)
            found = examined(decoder.replacing(block), audit)
            assert at_chance(found.panel, found.routings) == (layer,)
            assert Symptom.ROUTER_AT_CHANCE in name_layers(found).symptoms[layer - 1]


def examined(decoder: Decoder, audit: Prepared) -> Examination:
    return Measurer(decoder, audit.calibration, audit.config, store=StateStore()).examiner().examination()
