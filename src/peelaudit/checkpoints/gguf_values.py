"""The values under a GGUF file's architecture: each is used, or known to be without effect, or the file is refused.

A value that llama.cpp would compute with and an audit wouldn't is a network that nobody trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.gguf_header import GgufHeader
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint

__all__ = ["OwnValues"]

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.temperature_scale": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_gating_func": (1,),
    "expert_shared_count": (0,),
    "expert_used_count": (0,),
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "residual_scale": (0, 1),
    "rope.scaling.attn_factor": (0, 1),
    "rope.scaling.finetuned": (False, True),
    "rope.scaling.yarn_attn_factor": (1,),
    "rope.scaling.yarn_ext_factor": (-1, 1),
    "rope.scaling.yarn_log_multiplier": (0,),
    "swin_norm": (False,),
    "tensor_data_layout": ("Meta AI original pth",),
    "use_parallel_residual": (False,),
}
"""Values with which a key that isn't used changes nothing. Keys under other prefixes (`general`, `tokenizer`, a
quantiser's own) are never part of the network."""


class OwnValues:
    """The values under an architecture's prefix. What is taken is used; the rest must be without effect."""

    def __init__(self, header: GgufHeader, name: str, subject: str) -> None:
        """`name` is the architecture's, which is the prefix; `subject` is the file, which begins the messages."""
        self.name, self.subject = name, subject
        prefix = f"{name}."
        long = {key: f"an array of {length}" for key, length in header.lengths.items() if key not in header.values}
        values = {**header.values, **long}
        self._left: dict[str, Any] = {
            key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
        }

    def take(self, key: str, default: Any = None) -> Any:
        """The value, of any type, or what llama.cpp takes a missing one for."""
        return self._left.pop(key, default)

    def peek(self, key: str) -> Any:
        """The value, of any type, which is left to be taken; None where it is missing."""
        return self._left.get(key)

    def need(self, key: str) -> Any:
        """The value, of any type.

        Raises:
            MalformedCheckpoint: it is missing.
        """
        if key not in self._left:
            raise MalformedCheckpoint(f"{self.subject}: lacks the value {quoted(f'{self.name}.{key}')}")
        return self._left.pop(key)

    def need_count(self, key: str) -> int:
        """The value, a whole number from 0.

        Raises:
            MalformedCheckpoint: it is missing, or anything else.
        """
        value = self.need(key)
        if type(value) is not int or value < 0:
            raise self._impossible(key, value)
        return value

    def count(self, key: str, default: int) -> int:
        """The value, a whole number from 0, or what llama.cpp takes a missing one for.

        Raises:
            MalformedCheckpoint: it is anything else.
        """
        return self.need_count(key) if key in self._left else default

    def per_layer(self, key: str, default: int | None = None) -> int:
        """A whole number from 0 that may be listed for every layer; transformers' families have one for all.

        Raises:
            MalformedCheckpoint: it is missing without a default, or anything else.
            UnsupportedCheckpoint: layers differ.
        """
        if isinstance(listed := self._left.get(key), list) and listed:
            if any(one != listed[0] for one in listed):
                raise self.unused(key, listed)
            self._left[key] = listed[0]
        return self.need_count(key) if default is None else self.count(key, default)

    def number(self, key: str, default: float | None = 0.0) -> float:
        """The value, a finite number, or what llama.cpp takes a missing one for; None where it takes it for nothing.

        Raises:
            MalformedCheckpoint: it is anything else.
        """
        value: Any = self.need(key) if default is None else self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._impossible(key, value)
        return value

    def must_be(self, key: str, expected: float) -> None:
        """Raise UnsupportedCheckpoint where the value is there and isn't the only one that can be taken over."""
        value = self.number(key, expected)
        if not math.isclose(value, expected, rel_tol=1e-5):
            raise self.unused(key, value)

    def refuse_others(self) -> None:
        """Raise UnsupportedCheckpoint for a value that nobody took and that isn't known to be without effect."""
        for key, value in self._left.items():
            if not any(type(value) in (type(one), float) and value == one for one in _NEUTRAL.get(key, ())):
                raise self.unused(key, value)

    def unused(self, key: str, value: object) -> UnsupportedCheckpoint:
        """What is raised for a value that can't be taken over."""
        return UnsupportedCheckpoint(
            f"{self.subject}: {quoted(f'{self.name}.{key}')} is {quoted(value, 40)}, which changes what the network"
            f" computes in a way that isn't read from GGUF; use the Hugging Face directory of this model"
        )

    def _impossible(self, key: str, value: object) -> MalformedCheckpoint:
        return MalformedCheckpoint(f"{self.subject}: {quoted(f'{self.name}.{key}')} is {quoted(value, 40)}")
