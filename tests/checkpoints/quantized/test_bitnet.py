"""BitNet: ternary weights however they are stored, and 8-bit inputs, as transformers' own modules compute them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import peelaudit
from peelaudit.checkpoints import open_checkpoint
from peelaudit.checkpoints.quantized.bitnet import round_to_8_bits
from peelaudit.errors import CheckpointError, MalformedCheckpoint, UnsupportedCheckpoint
from peelaudit.method.references.writers import observe
from tests.checkpoints import models
from tests.checkpoints.quantized.support import SIZES, assert_same_loss, configure, linears, loss_of
from tests.networks import opened

with pytest.MonkeyPatch.context() as patch:  # its functions are compiled as they are defined: here they stay plain
    patch.setattr(torch, "compile", lambda function: function)
    from transformers.integrations.bitnet import replace_with_bitnet_linear


def codes_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The ternary codes, and the scale's inverse: a power of two, for which it doesn't matter when it is multiplied.

    Else the last bits of a sum would differ, and with them, here and there, an input that is rounded.
    """
    inverse = (-weight.abs().mean().log2().round()).exp2()
    return (weight * inverse).round().clamp(-1, 1), inverse


def quarters(codes: Tensor) -> Tensor:
    """Four rows in a byte: row r of each quarter, the first in the lowest bits."""
    rows = len(codes) // 4
    packed = torch.zeros(rows, codes.shape[1], dtype=torch.uint8)
    for row in range(len(codes)):
        packed[row % rows] += ((codes[row] + 1) * 4 ** (row // rows)).to(torch.uint8)
    return packed


def bitnet(folder: Path, **settings: Any) -> transformers.PreTrainedModel:
    """A checkpoint as the settings want it stored, and transformers' own model with its weights."""
    plain = models.model("bitnet", **SIZES)
    models.save(plain, folder)
    config = transformers.BitNetQuantConfig(**settings)
    own = replace_with_bitnet_linear(
        copy.deepcopy(plain), [*(config.modules_to_not_convert or ()), "lm_head"], quantization_config=config
    )
    converted = {name for name, module in own.named_modules() if "BitLinear" in type(module).__name__}
    state = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    for name in sorted(converted):
        codes, inverse = codes_of(state[f"{name}.weight"])
        if config.linear_class == "bitlinear":
            state[f"{name}.weight"], state[f"{name}.weight_scale"] = quarters(codes), inverse.reshape(1)
        elif config.quantization_mode == "offline":
            state[f"{name}.weight"], state[f"{name}.weight_scale"] = codes, 1 / inverse.reshape(1)
        if config.use_rms_norm:
            state[f"{name}.rms_norm.weight"] = torch.linspace(0.5, 1.5, codes.shape[1])
    own.load_state_dict(state, strict=True, assign=True)
    if config.linear_class == "autobitlinear" and config.quantization_mode == "offline":
        state |= {f"{name}.weight": quarters(state[f"{name}.weight"]) for name in sorted(converted)}
    save_file(state, folder / "model.safetensors")
    configure(folder, quantization_config={**config.to_dict(), "quant_method": "bitnet"})
    return own.eval()


SETTINGS = [
    {"linear_class": "bitlinear"},
    {"linear_class": "bitlinear", "use_rms_norm": True, "rms_norm_eps": 1e-3},
    {"linear_class": "autobitlinear"},
    {"linear_class": "autobitlinear", "use_rms_norm": True},
    {"linear_class": "autobitlinear", "quantization_mode": "online"},
    {"linear_class": "autobitlinear", "quantization_mode": "online", "use_rms_norm": True},
    {
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
        "modules_to_not_convert": ["down_proj", "lm_head"],
    },
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda found: "-".join(map(str, found.values())))
def test_the_loss_is_that_of_transformers_own_modules(settings: dict[str, Any], tmp_path: Path) -> None:
    own = bitnet(tmp_path, **settings)
    if settings["linear_class"] == "bitlinear":  # it scales the sums of integers, so that float32 would differ
        own = own.double()
        for module in own.modules():
            if type(module).__name__ == "BitLinear":
                module.weight, module.dtype = module.weight.to(torch.uint8), torch.float64
    assert_same_loss(tmp_path, own)


def test_offline_weights_may_be_stored_as_floats(tmp_path: Path) -> None:
    own = bitnet(tmp_path, linear_class="autobitlinear")
    state = load_file(tmp_path / "model.safetensors")
    codes = {name: tensor for name, tensor in own.state_dict().items() if name in state and name.endswith("weight")}
    save_file(state | {name: tensor.contiguous() for name, tensor in codes.items()}, tmp_path / "model.safetensors")
    assert_same_loss(tmp_path, own)


def test_the_8_bit_inputs_are_what_makes_the_difference(tmp_path: Path) -> None:
    """The same ternary weights with inputs that aren't rounded are another network."""
    bitnet(tmp_path, linear_class="autobitlinear")
    _, rounded = loss_of(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        weights = {name: checkpoint.tensor(name) for name in checkpoint.names()}
    plain = models.model("bitnet", **SIZES)
    plain.load_state_dict(weights)
    _, unrounded = loss_of(models.save(plain, tmp_path / "plain"))
    assert abs(rounded - unrounded) > 1e-5


def test_rounding_is_per_token_and_passes_gradients() -> None:
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rounded = round_to_8_bits(hidden)
    steps = rounded / hidden.abs().amax(dim=-1, keepdim=True) * 127
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert bool(steps.abs().amax(dim=-1).round().eq(127).all())
    pull = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
    (rounded * pull).sum().backward()
    assert torch.equal(hidden.grad, pull)
    assert torch.equal(round_to_8_bits(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_features_of_a_regression_and_copies_of_a_block_see_rounded_inputs(tmp_path: Path) -> None:
    bitnet(tmp_path, linear_class="autobitlinear")
    with opened(tmp_path, dtype=torch.float32) as network:
        block = network.decoder.block(1).copy()
        features = observe(block, network.states[0], (1,)).features
        torch.testing.assert_close(features, round_to_8_bits(features), rtol=1e-6, atol=0)
        assert all(len(token.unique()) <= 256 for token in features)
        assert len(features.unique()) > 256, "one scale for all tokens"
        assert torch.equal(block(network.states[0]), network.states[1])


def test_rounding_is_on_every_converted_layer_and_no_other(tmp_path: Path) -> None:
    bitnet(tmp_path, linear_class="autobitlinear", modules_to_not_convert=["model.layers.1.mlp.*", "q_proj", "lm_head"])
    seen: set[str] = set()
    with open_checkpoint(tmp_path) as checkpoint:
        skeleton = checkpoint.skeleton().to_empty(device="cpu")
    for name, module in linears(skeleton).items():
        inputs = torch.linspace(-1, 1, module.in_features)
        module.register_forward_pre_hook(
            lambda _, args, name=name, inputs=inputs: None if torch.equal(args[0], inputs) else seen.add(name)
        )
        module(inputs)
    expected = {name for name in linears(skeleton) if "layers.1.mlp" not in name and "q_proj" not in name}
    assert seen == expected


def test_tensors_say_that_they_are_ternary(tmp_path: Path) -> None:
    bitnet(tmp_path, linear_class="bitlinear")
    with open_checkpoint(tmp_path) as checkpoint:
        found = {tensor.name: tensor for tensor in checkpoint.info.tensors}
        assert checkpoint.info.parameters == sum(p.numel() for p in models.model("bitnet", **SIZES).parameters())
    tensor = found["model.layers.0.mlp.up_proj.weight"]
    assert (tensor.shape, tensor.dtype, tensor.bytes) == ((96, 64), "bitnet-ternary-tensor", 96 * 64 // 4 + 4)
    assert not any("weight_scale" in name for name in found)


def without(name: str, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state[name]
    save_file(state, folder / "model.safetensors")


UP = "model.layers.1.mlp.up_proj"


def test_a_packed_layer_without_a_scale_is_refused(tmp_path: Path) -> None:
    bitnet(tmp_path, linear_class="bitlinear")
    without(f"{UP}.weight_scale", tmp_path)
    with pytest.raises(CheckpointError, match=rf"{UP}'.*its weight_scale is missing"):
        open_checkpoint(tmp_path).close()


def test_a_layer_that_is_converted_but_not_stored_so_is_refused(tmp_path: Path) -> None:
    models.save(models.model("bitnet", **SIZES), tmp_path)
    configure(tmp_path, quantization_config={"quant_method": "bitnet"})
    with pytest.raises(UnsupportedCheckpoint, match=r"converts '.*q_proj', but its weight_scale is missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{UP}.weight": torch.full((24, 64), 255, dtype=torch.uint8)}, "a code that isn't -1, 0 or 1"),
        ({f"{UP}.weight_scale": torch.zeros(1)}, "weight_scale is 0"),
        (
            {f"{UP}.weight": torch.zeros(20, 64, dtype=torch.uint8)},
            "is 80 × 64, but the configuration makes it 96 × 64",
        ),
        ({f"{UP}.weight": torch.zeros(64, dtype=torch.uint8)}, r"its weight has the shape \[64\]"),
        ({f"{UP}.weight_scale": torch.ones(2)}, "weight_scale isn't one float"),
        ({f"{UP}.weight": torch.zeros(24, 64, dtype=torch.int32)}, "stored as int32, not as uint8"),
    ],
)
def test_impossible_tensors_are_refused(change: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    bitnet(tmp_path, linear_class="bitlinear")
    save_file(load_file(tmp_path / "model.safetensors") | change, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message), open_checkpoint(tmp_path) as checkpoint:
        checkpoint.check_weights()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"linear_class": "own"}, "linear_class 'own': only bitlinear or autobitlinear"),
        ({"quantization_mode": "later"}, "quantization_mode 'later'"),
        ({"use_rms_norm": "yes"}, "use_rms_norm 'yes'"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"modules_to_not_convert": "lm_head"}, "modules_to_not_convert isn't a list of names"),
        ({"modules_to_not_convert": ["(a+)+$"]}, "a pattern that isn't read"),
        ({"modules_to_not_convert": []}, "a ternary head"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    bitnet(tmp_path, linear_class="bitlinear")
    configure(tmp_path, quantization_config={"quant_method": "bitnet", **settings})
    with pytest.raises((UnsupportedCheckpoint, MalformedCheckpoint), match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("solver", "effort"), [("ridge", "default"), ("adam", "quick")])
def test_a_whole_audit_runs_with_rounded_inputs(solver: str, effort: str, tmp_path: Path) -> None:
    own = bitnet(tmp_path / "model", linear_class="autobitlinear")
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(3, 64, 2000).astype(np.uint16))
    settings = {"tokens": 1024, "seq_len": 16, "resamples": 100, "steps": 4, "solver": solver, "effort": effort}
    report = peelaudit.audit(tmp_path / "model", tmp_path / "tokens.npy", **settings)
    grids = {tensor.grid.name for tensor in report.checkpoint.tensors if tensor.grid is not None}
    assert grids == {"ternary per tensor"}
    assert len(report.layers) == own.config.num_hidden_layers


def test_gradients_pass_the_rounded_layers(tmp_path: Path) -> None:
    bitnet(tmp_path, linear_class="autobitlinear", quantization_mode="online")
    with opened(tmp_path, dtype=torch.float32) as network:
        block = network.decoder.block(1)
        weights = [parameter.requires_grad_() for parameter in block.trainable().values()]
        with torch.enable_grad():
            block(network.states[0]).square().mean().backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in weights)
    assert all(isinstance(module, nn.Linear) for module in linears(block.module).values())
