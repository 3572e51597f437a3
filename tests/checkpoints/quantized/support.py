"""Tiny models with packed linear layers, and the loss that peelaudit finds in them.

The packers here write bits one by one and share nothing with the code that reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError
from peelaudit.method.readouts.readout import Unembedding
from tests.checkpoints import models
from tests.losses import token_losses
from tests.networks import opened

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
"""Multiples of 32, so that every method can pack them in several groups."""

Packer = Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]
"""From a weight, [outputs, inputs], to the stored parts and the weight that they stand for."""


def packed_bits(codes: np.ndarray[Any, Any], bits: int) -> Tensor:
    """Each row's codes as one stream of bits, lowest first, cut into int32 words; the last word is filled with 0."""
    stream = (codes.astype(np.int64)[..., None] >> np.arange(bits)) & 1
    stream = stream.reshape(len(codes), -1).astype(np.uint8)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    return torch.from_numpy(np.ascontiguousarray(np.packbits(stream, axis=1, bitorder="little")).view("<i4"))


def linears(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of the blocks, which methods pack by default."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not name.endswith("lm_head")
    }


def pack(
    family: str, folder: Path, packer: Packer, config: Mapping[str, Any], **changes: Any
) -> transformers.PreTrainedModel:
    """Save a tiny model with its layers packed; return it with the floats that the packed layers stand for."""
    return pack_each(family, folder, lambda _: packer, config, **changes)


@torch.no_grad()
def pack_each(
    family: str, folder: Path, packers: Callable[[str], Packer], config: Mapping[str, Any], **changes: Any
) -> transformers.PreTrainedModel:
    """The same, each layer packed by what its name is given."""
    model = models.model(family, **({} if family == "gpt2" else SIZES), **changes)
    models.save(model, folder)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    for name, module in linears(model).items():
        turn = isinstance(module, Conv1D)
        parts, weight = packers(name)(module.weight.T if turn else module.weight)
        module.weight.copy_(weight.T if turn else weight)
        del state[f"{name}.weight"]
        state |= {f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()}
    save_file(state, folder / "model.safetensors")
    configure(folder, quantization_config=dict(config))
    return model


def configure(folder: Path, **changes: Any) -> None:
    """Change values of the config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def loss_of(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Tensor, float]:
    """The tokens, and the loss in nats/token that peelaudit's own forward pass finds for them."""
    with opened(folder, dtype=dtype) as network, torch.no_grad():
        logits = Unembedding.of(network.decoder).logits(network.states[-1])[:, :-1]
        return network.tokens, float(token_losses(logits, network.tokens[:, 1:]).double().mean())


@torch.no_grad()
def assert_same_loss(folder: Path, model: transformers.PreTrainedModel) -> None:
    """The checkpoint's loss is that of transformers' own model, in the model's dtype."""
    tokens, found = loss_of(folder, model.dtype)
    logits = model(input_ids=tokens).logits[:, :-1].double()
    expected = float(nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
    assert abs(found - expected) < 1e-6, f"{found} is not {expected}"


def assert_refused(folder: Path, message: str) -> None:
    """The checkpoint is refused in one sentence, in which the pattern `message` is found."""
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)
