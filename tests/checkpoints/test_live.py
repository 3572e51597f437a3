"""A module's weights as a store: what is read are copies."""

from __future__ import annotations

import torch

from peelaudit.checkpoints.live import open_module
from tests.checkpoints.models import model


def test_what_is_read_is_a_copy() -> None:
    made = model("llama")
    with open_module(made) as checkpoint:
        for name in checkpoint.names():
            checkpoint.tensor(name).zero_()
        assert checkpoint.info.bytes == sum(weight.nbytes for weight in made.state_dict().values())
        assert checkpoint.info.parameters == sum(weight.numel() for weight in made.parameters())
        checkpoint.check_unchanged()
    assert all(bool(weight.any()) for weight in made.parameters())


def test_the_digest_is_of_all_values() -> None:
    made = model("llama")
    digests = set()
    for _ in range(2):
        with open_module(made) as checkpoint:
            digests.add(checkpoint.info.sha256)
        with torch.no_grad():
            made.lm_head.weight[5, 7] += 1e-3
    assert len(digests) == 2
