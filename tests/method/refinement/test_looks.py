"""Looks at nearby losses: the same steps for less of the head, and none that the losses in full don't bear out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from peelaudit.method.linalg.line_search import PROBES
from peelaudit.method.readouts import shortlist
from peelaudit.method.readouts.shortlist import Nearby
from peelaudit.method.refinement.reach import Reach
from peelaudit.method.refinement.refine import Refined, Refiner
from peelaudit.network.states import StateStore, trained_states
from tests.method.refinement.support import downstream, own_losses
from tests.networks import Network

Opener = Callable[..., Network]


def counting(network: Network) -> Network:
    """The same over a text that can be learnt, of few of its words."""
    tokens = 3 + (torch.arange(network.tokens.numel()).view(network.tokens.shape) // 2) % 7
    states = trained_states(network.decoder, tokens, StateStore(dtype=network.states[0].dtype))
    return replace(network, tokens=tokens, states=states)


def refined(network: Network, reach: Reach) -> tuple[Refined, np.ndarray, float]:
    """All blocks at once, the losses with them, and how much of the head it took."""
    work = network.decoder.work
    before = work.head
    made = Refiner(downstream(network), network.states, own_losses(network))
    found = made.all(reach)
    taken = work.head - before
    return found, made.losses(found, slice(0, len(network.tokens))), taken


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From here on these vocabularies count as large ones."""

    def begin() -> None:
        monkeypatch.setattr(shortlist, "FEW_WORDS", 0)
        monkeypatch.setattr(shortlist, "SHORT", 1.0)

    return begin


@pytest.mark.parametrize("held", [False, True], ids=["floats", "low-bit"])
def test_steps_are_as_good_for_less_of_the_head(network: Opener, large: Callable[[], None], held: bool) -> None:
    made = counting(network("bitnet" if held else "llama"))
    plain, expected, whole = refined(made, Reach(steps=3))
    large()
    found, losses, part = refined(made, Reach(steps=3))
    assert found.moved
    assert found.select_gain == pytest.approx(plain.select_gain, rel=0.1)
    assert losses.sum() == pytest.approx(expected.sum(), abs=0.1 * (own_losses(made) - expected).sum())
    assert part < whole


def test_what_is_told_to_be_gained_is_in_full(network: Opener, large: Callable[[], None]) -> None:
    large()
    made = counting(network("llama"))
    found, losses, _ = refined(made, Reach(steps=3))
    rows = made.rows.select
    predictions = int(downstream(made).data.predictions(rows).sum())
    gain = float((own_losses(made) - losses)[rows].sum()) / predictions
    assert found.select_gain == pytest.approx(gain, rel=1e-5)


def test_where_nearby_losses_are_wrong_all_looks_are_in_full(
    network: Opener, large: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counting(network("llama"))
    plain, _, _ = refined(made, Reach(steps=3))
    large()
    told, asked = Nearby.losses, list[int]()

    def wrong(self: Nearby, state: torch.Tensor) -> np.ndarray:
        """What is gained is lost."""
        asked.append(len(state))
        return 2 * told(self, self.state) - told(self, state)

    monkeypatch.setattr(Nearby, "losses", wrong)
    found, _, _ = refined(made, Reach(steps=3))
    assert found.steps == plain.steps == 3
    assert found.select_gain > 0.8 * plain.select_gain
    assert len(asked) <= 1 + PROBES


def test_after_other_steps_nearby_losses_begin_at_the_loss_in_full(network: Opener, large: Callable[[], None]) -> None:
    """Products with the exact curvature move the blocks between two rounds."""
    made, reach = counting(network("llama")), Reach(steps=1, products=2, rounds=3)
    plain, _, _ = refined(made, reach)
    large()
    found, losses, _ = refined(made, reach)
    rows = made.rows.select
    gain = float((own_losses(made) - losses)[rows].sum()) / int(downstream(made).data.predictions(rows).sum())
    assert found.select_gain == pytest.approx(gain, rel=1e-5)
    assert found.select_gain > 0.9 * plain.select_gain


def test_a_loss_that_overflows_ends_no_search(
    network: Opener, large: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    large()
    made = counting(network("llama"))
    monkeypatch.setattr(Nearby, "losses", lambda self, state: np.full(len(state), np.nan))
    found, _, _ = refined(made, Reach(steps=1))
    assert found.moved
