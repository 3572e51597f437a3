"""The one pass over all weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import ImplausibleWeights, NonFiniteWeights
from peelaudit.network.weights import check_weights
from tests.checkpoints import models
from tests.places import FIXTURES


def test_a_weight_that_is_not_finite_is_refused_by_its_name(tmp_path: Path) -> None:
    model = models.model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 3] = torch.inf
    with (
        open_checkpoint(models.save(model, tmp_path / "model")) as checkpoint,
        pytest.raises(NonFiniteWeights, match=r"layers\.1\.mlp\.up_proj\.weight"),
    ):
        check_weights(checkpoint)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"])
def test_a_flipped_bit_of_an_exponent_is_refused_by_its_place(name: str, tmp_path: Path) -> None:
    model = models.model("llama")
    with torch.no_grad():
        weight = model.get_parameter(name)
        weight[2, 3] = 0.02
        weight.view(torch.int32)[2, 3] ^= 1 << 30
    with (
        open_checkpoint(models.save(model, tmp_path / "model")) as checkpoint,
        pytest.raises(ImplausibleWeights, match=rf"{name}.*\[2, 3\]"),
    ):
        check_weights(checkpoint)


def test_the_grids_of_the_same_pass_come_back() -> None:
    with open_checkpoint(FIXTURES / "llama-ternary") as checkpoint:
        grids = check_weights(checkpoint)
    assert any(tensor.grid is not None for tensor in grids.info().tensors)


def test_every_tensor_is_told_of() -> None:
    told: list[tuple[str, int]] = []

    class Listener:
        def stage(self, name: str, total: int) -> None:
            told.append((name, total))

        def advance(self, steps: int = 1) -> None:
            told[-1] = (told[-1][0], told[-1][1] - steps)

    with open_checkpoint(FIXTURES / "llama") as checkpoint:
        check_weights(checkpoint, Listener())
    assert told == [("check the weights", 0)]
