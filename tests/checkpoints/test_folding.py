"""Weight norm, by torch's own modules: a weight in two parts is the one that they compute with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils import parametrize, weight_norm
from torch.nn.utils.parametrizations import orthogonal, spectral_norm
from torch.nn.utils.parametrizations import weight_norm as parametrized_weight_norm

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import MismatchedWeights, UnsupportedCheckpoint
from tests.checkpoints.models import model, nanogpt

Norm = Callable[..., torch.nn.Module]


def normed(norm: Norm, dim: int | None = 0, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A Llama of which all linear maps of the blocks have weight norm, with sizes of their own."""
    made = model("llama").to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, module in made.model.layers.named_modules():
            if isinstance(module, torch.nn.Linear):
                norm(made.model.layers.get_submodule(name), dim=dim)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith(("weight_g", "original0")):
                parameter.mul_(1 + torch.rand_like(parameter))
    return made


def save(made: torch.nn.Module, directory: Path, file: str) -> Path:
    made.config.save_pretrained(directory)
    state = made.state_dict()
    (save_file if file.endswith(".safetensors") else torch.save)(state, directory / file)
    return directory / file


@pytest.mark.parametrize("norm", [weight_norm, parametrized_weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("file", ["model.safetensors", "model.pt"])
def test_the_weight_is_the_one_that_torch_computes_with(norm: Norm, dim: int | None, file: str, tmp_path: Path) -> None:
    made = normed(norm, dim)
    tokens = torch.arange(24).reshape(2, 12)
    logits = made(tokens).logits
    with open_checkpoint(save(made, tmp_path, file)) as checkpoint:
        checkpoint.check_weights()
        weight = made.model.layers[1].mlp.up_proj.weight
        torch.testing.assert_close(checkpoint.tensor("model.layers.1.mlp.up_proj.weight"), weight.detach())
        module = checkpoint.skeleton()
        module.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()}, assign=True)
        module.model.rotary_emb = made.model.rotary_emb  # its buffers are in no file
        torch.testing.assert_close(module(tokens).logits, logits, rtol=1e-4, atol=1e-5)


def test_half_precision_stays_what_is_stored(tmp_path: Path) -> None:
    made = normed(parametrized_weight_norm, dtype=torch.bfloat16)
    with open_checkpoint(save(made, tmp_path, "model.pt")) as checkpoint:
        found = checkpoint.tensor("model.layers.0.mlp.down_proj.weight")
        assert (found.dtype, checkpoint.info.dtype) == (torch.bfloat16, "bfloat16")
        torch.testing.assert_close(found, made.model.layers[0].mlp.down_proj.weight.detach())


def test_nanogpt(tmp_path: Path) -> None:
    content = nanogpt(bias=False)
    name = "transformer.h.0.mlp.c_fc.weight"
    direction = content["model"].pop(name)
    size = torch.rand(direction.shape[0], 1) + 1
    content["model"] |= {f"_orig_mod.{name}_g": size, f"_orig_mod.{name}_v": direction}
    torch.save(content, tmp_path / "ckpt.pt")
    with open_checkpoint(tmp_path / "ckpt.pt") as checkpoint:
        expected = size * direction / direction.norm(dim=1, keepdim=True)
        torch.testing.assert_close(checkpoint.tensor(name), expected.T)


@pytest.mark.parametrize("norm", [weight_norm, parametrized_weight_norm])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, size, direction: state.pop(direction), "of which .* is missing"),
        (lambda state, size, direction: state.update({size: torch.ones(3, 1)}), "don't fit each other"),
        (lambda state, size, direction: state.update({size: torch.ones(1, 1)}), "don't fit each other"),
        (lambda state, size, direction: state.update({size: state[size].double()}), "don't fit each other"),
        (
            lambda state, size, direction: state.update({"model.layers.0.mlp.up_proj.weight": state[direction]}),
            "is stored twice",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(
    norm: Norm, change: Callable[..., object], message: str, tmp_path: Path
) -> None:
    made = normed(norm)
    made.config.save_pretrained(tmp_path)
    state = dict(made.state_dict())
    size, direction = (name for name in state if name.startswith("model.layers.0.mlp.up_proj."))
    change(state, size, direction)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(MismatchedWeights, match=rf"'model\.layers\.0\.mlp\.up_proj\.weight' .*{message}"):
        open_checkpoint(tmp_path / "model.pt")


class Doubled(torch.nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


@pytest.mark.parametrize(
    "add",
    [
        lambda module: parametrize.register_parametrization(module, "weight", Doubled()),
        lambda module: orthogonal(module, "weight"),
        lambda module: spectral_norm(module, "weight"),
        lambda module: parametrize.register_parametrization(parametrized_weight_norm(module), "weight", Scaled(32)),
    ],
)
def test_other_parametrizations_are_refused_by_name(add: Callable[[torch.nn.Module], object], tmp_path: Path) -> None:
    made = model("llama")
    add(made.model.layers[0].self_attn.o_proj)
    path = save(made, tmp_path, "model.pt")
    with pytest.raises(
        UnsupportedCheckpoint, match=r"'model\.layers\.0\.self_attn\.o_proj\.parametrizations\.weight\."
    ):
        open_checkpoint(path)


class Scaled(torch.nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(size))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return self.scale * weight
