"""A head that moves: its loss is that of the head that comes of it, its slopes that loss's, and it undoes a turn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from peelaudit.method.linalg.changes import dot
from peelaudit.method.readouts import head as module
from peelaudit.method.readouts.head import MAP, ROWS, refitted
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.network.states import NO_TARGET, Rows, StateStore, TokenRows

SPLITS = Rows(slice(0, 12), slice(12, 18), slice(18, 24))
WIDTH, WORDS = 6, 40
EVERY, FEW = 4096, 0


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def readout(softcap: float | None = None, *, biased: bool = False, scale: float = 1.0) -> Readout:
    norm, bias = torch.nn.RMSNorm(WIDTH, dtype=torch.float64), draw(2, WORDS) if biased else None
    return Readout("refit", Unembedding(norm, draw(1, WORDS, WIDTH), bias, softcap, scale))


def text(known: int = 25) -> TokenRows:
    """Of some words only, one token not to be predicted."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, known, (24, 8), generator=generator)
    fed_only = torch.zeros_like(tokens, dtype=torch.bool)
    fed_only[13, 4] = fed_only[2, 1] = True
    return TokenRows(tokens, SPLITS, fed_only)


def moving(head: Readout, data: TokenRows, state: Tensor) -> module._Moving:
    return module._Moving(head, data, state, StateStore(dtype=torch.float64), None)


def loss_of(head: Readout, data: TokenRows, state: Tensor, rows: slice) -> float:
    """nats/token of some sequences."""
    index = torch.arange(rows.start, rows.stop)
    losses = head.losses(state, data.targets(slice(None)), index, "a test")
    return float(losses.sum()) / int((data.targets(rows)[:, 1:] != NO_TARGET).sum())


@pytest.mark.parametrize(("few_words", "at_once"), [(EVERY, 4096), (FEW, 4096), (FEW, 7)])
@pytest.mark.parametrize(
    "head",
    [readout(), readout(3.0, biased=True, scale=0.7), readout(3.0, scale=1.3)],
    ids=["plain", "biased", "capped"],
)
class TestMoving:
    """With all words summed over at each step, and with those alone that the text holds, the others some at a time."""

    @pytest.fixture(autouse=True)
    def summed(self, few_words: int, at_once: int, head: Readout, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "FEW_WORDS", few_words)
        monkeypatch.setattr(head.unembedding.memory, "logit_words", at_once)

    def changes(self, of: module._Moving, *, size: float) -> dict[tuple[int, str], Tensor]:
        slopes = of.direction({}).slopes
        return {key: size * draw(7, *slopes[key].shape) for key in (MAP, ROWS)}

    def test_the_loss_is_that_of_the_moved_head(self, few_words: int, head: Readout) -> None:
        """In full where all words are summed over; else to first order in what isn't."""
        data, state = text(), draw(4, 24, 8, WIDTH)
        of = moving(head, data, state)
        assert of.loss({}) == pytest.approx(loss_of(head, data, state, SPLITS.select), rel=1e-6)
        errors = []
        for size in (0.01, 0.005):
            changes = self.changes(of, size=size)
            exact = loss_of(replace(head, unembedding=of.moved(changes)), data, state, SPLITS.select)
            errors.append(abs(of.loss(changes) - exact))
        if few_words == EVERY:
            assert max(errors) < 1e-6
        else:
            assert errors[0] < 1e-3
            assert errors[1] < 0.35 * errors[0]

    def test_the_slopes_are_those_of_the_moved_head(self, head: Readout) -> None:
        data, state = text(), draw(4, 24, 8, WIDTH)
        of = moving(head, data, state)
        unit = self.changes(of, size=1.0)
        ends = [
            loss_of(replace(head, unembedding=of.moved({k: e * unit[k] for k in unit})), data, state, SPLITS.fit)
            for e in (1e-4, -1e-4)
        ]
        slope = dot(of.direction({}).slopes, unit)
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-4, rtol=1e-4)

    def test_it_never_loses_on_select(self, head: Readout) -> None:
        data, state = text(), draw(4, 24, 8, WIDTH)
        before = loss_of(head, data, state, SPLITS.select)
        found, _ = refitted(head, before, data, state, StateStore(dtype=torch.float64))
        assert found is not None  # tokens at random want flat logits
        assert loss_of(replace(head, unembedding=found), data, state, SPLITS.select) < before - 1e-3

    def test_the_losses_of_a_head_of_another_temperature_are_taken_on_the_way(
        self, few_words: int, head: Readout
    ) -> None:
        data, state = text(), draw(4, 24, 8, WIDTH)
        other = replace(head, unembedding=head.unembedding.scaled(1.3))
        _, found = refitted(head, 9.0, data, state, StateStore(dtype=torch.float64), beside=other)
        if few_words == EVERY:
            assert found is None
        else:
            expected = other.losses(state, data.targets(slice(None)), torch.arange(SPLITS.select.stop), "a test")
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_rows_of_words_that_fit_lacks_move_with_the_map_alone() -> None:
    head, data, state = readout(), text(known=10), draw(4, 24, 8, WIDTH)
    of = moving(head, data, state)
    slopes = of.direction({}).slopes
    assert slopes[ROWS].shape == (WIDTH, 10)
    changes = {MAP: draw(5, WIDTH, WIDTH), ROWS: draw(6, WIDTH, 10)}
    turned = head.unembedding.weight + head.unembedding.weight @ changes[MAP].T
    found = of.moved(changes).weight
    torch.testing.assert_close(found[10:], turned[10:])
    assert not torch.isclose(found[:10], turned[:10]).any()


def test_a_turn_of_the_state_is_undone() -> None:
    """Tokens drawn from a head's own probabilities, and a state that is turned: half of what that costs is won back."""
    head, state = readout(), 2 * draw(4, 24, 40, WIDTH)
    logits = head.unembedding.logits(state)
    following = torch.multinomial(logits.softmax(dim=-1).flatten(0, 1), 1, generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([torch.zeros(24, 1, dtype=torch.int64), following.view(24, 40)[:, :-1]], dim=1)
    data = TokenRows(tokens, SPLITS)
    turn = torch.linalg.qr(torch.eye(WIDTH, dtype=torch.float64) + 0.4 * draw(8, WIDTH, WIDTH)).Q
    best, start = loss_of(head, data, state, SPLITS.held_out), loss_of(head, data, state @ turn, SPLITS.held_out)
    before = loss_of(head, data, state @ turn, SPLITS.select)
    found, _ = refitted(head, before, data, state @ turn, StateStore(dtype=torch.float64))
    assert found is not None
    assert loss_of(replace(head, unembedding=found), data, state @ turn, SPLITS.held_out) < best + 0.5 * (start - best)


def test_nothing_is_moved_where_nothing_gains() -> None:
    """A head whose logits are flat for tokens at random is left as it is."""
    head, data, state = readout(scale=1e-6), text(known=WORDS), draw(4, 24, 8, WIDTH)
    before = loss_of(head, data, state, SPLITS.select)
    assert refitted(head, before, data, state, StateStore(dtype=torch.float64)) == (None, None)
