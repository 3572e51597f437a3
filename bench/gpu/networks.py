"""Small networks that are opened where a check wants them: on a device, in a dtype, with weights a little off."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from peelaudit.checkpoints import Checkpoint, open_checkpoint
from peelaudit.network.decoder import Decoder
from peelaudit.network.families import family_of
from peelaudit.network.lowbit.constraints import Constraint
from peelaudit.network.states import Rows, StateStore, TokenRows, trained_states

__all__ = ["FAMILIES", "Network", "Nudge", "opened", "save_model"]

_SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**_SIZES, "num_key_value_heads": 2, "tie_word_embeddings": False},
    "gpt2": {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32},
    "gemma3_text": {**_SIZES, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8},
    "phi": _SIZES,
}
"""One of each kind: a plain one, one of Conv1D with biases, one with a norm behind its writers, one whose halves run
side by side.
"""

_ROWS = Rows(slice(0, 24), slice(24, 32), slice(32, 38))
_POSITIONS = 16


@dataclass(frozen=True, slots=True)
class Nudge:
    """Every weight times 1 + `size` times a number drawn from -1 to 1."""

    size: float
    seed: int


@dataclass(frozen=True, slots=True)
class Network:
    """A decoder over the tokens of `data`, and its states h_0 … h_L."""

    decoder: Decoder
    data: TokenRows
    states: tuple[Tensor, ...]


class _Nudged:
    """A checkpoint whose weights are a little off."""

    def __init__(self, checkpoint: Checkpoint, nudge: Nudge) -> None:
        self._checkpoint, self._nudge = checkpoint, nudge

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoint, name)

    def tensor(self, name: str) -> Tensor:
        weight = self._checkpoint.tensor(name).double()
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {self._nudge.seed}".encode()))
        draw = 2 * torch.rand(weight.shape, generator=generator, dtype=torch.float64) - 1
        return weight * (1 + self._nudge.size * draw)


def save_model(family: str, folder: Path) -> Path:
    """A tiny random model of the family: weights that are all different, biases and norms included."""
    torch.manual_seed(0)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    made = transformers.AutoModelForCausalLM.from_config(
        transformers.CONFIG_MAPPING[family](**FAMILIES[family], **special)
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_pretrained(folder)
    return folder


@contextmanager
def opened(
    path: Path, device: torch.device, dtype: torch.dtype, *, bits: Constraint | None = None, nudge: Nudge | None = None
) -> Iterator[Network]:
    """The network over random tokens; with `bits` every matrix of its blocks is rounded to that set, and held to it."""
    with open_checkpoint(path) as checkpoint:
        blocks = family_of(checkpoint).blocks
        held = [name for name in checkpoint.names() if name.startswith(blocks) and checkpoint.tensor(name).ndim == 2]
        read: Any = checkpoint if nudge is None else _Nudged(checkpoint, nudge)
        constraints = dict.fromkeys(held, bits) if bits else None
        decoder = Decoder(
            read, seq_len=_POSITIONS, device=device, dtype=dtype, constraints=constraints, rounding=bits is not None
        )
        generator = torch.Generator().manual_seed(1)
        shape = (_ROWS.held_out.stop, _POSITIONS)
        data = TokenRows(torch.randint(3, decoder.vocabulary, shape, generator=generator), _ROWS)
        yield Network(
            decoder,
            data,
            trained_states(decoder, data.tokens, StateStore(dtype=dtype, device=device, device_budget=1 << 30)),
        )
