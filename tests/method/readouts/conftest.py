"""The Llama fixture's states over tokens of two kinds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.method.readouts.readout import Unembedding
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import StateStore, TokenRows, trained_states
from tests.method.readouts.support import ROWS
from tests.places import FIXTURES


@pytest.fixture(scope="module")
def peeled() -> Iterator[tuple[Decoder, TokenRows, tuple[Tensor, ...]]]:
    """The Llama fixture over 44 sequences of random tokens."""
    with open_checkpoint(FIXTURES / "llama") as checkpoint:
        decoder = Decoder(checkpoint, seq_len=32, device=torch.device("cpu"), dtype=torch.float32)
        torch.manual_seed(0)
        tokens = torch.randint(0, decoder.vocabulary, (44, 32))
        data = TokenRows(tokens, ROWS)
        yield decoder, data, trained_states(decoder, tokens, StateStore())


@pytest.fixture(scope="module")
def drawn(peeled: tuple) -> tuple[Decoder, TokenRows, tuple[Tensor, ...]]:
    """The same over text that the fixture writes token by token, from its own probabilities."""
    decoder, data, _ = peeled
    tokens, generator = data.tokens.clone(), torch.Generator().manual_seed(0)
    for position in range(1, tokens.shape[1]):
        final = trained_states(decoder, tokens, StateStore())[-1][:, position - 1]
        chances = Unembedding.of(decoder).logits(final).softmax(dim=-1)
        tokens[:, position] = torch.multinomial(chances, 1, generator=generator)[:, 0]
    return decoder, TokenRows(tokens, ROWS), trained_states(decoder, tokens, StateStore())
