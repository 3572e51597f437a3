"""A GGUF file's rotary embedding as transformers' `rope_parameters`: its base, its share of a head, its scaling.

Part of it is stored as tensors: what each frequency is divided by, for Llama 3.1 and its kin and for Phi-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.gguf_values import OwnValues
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint

__all__ = ["Sizes", "Stored", "rotary_parameters"]

_FACTORS = "rope_freqs.weight"
"""What Llama 3.1 and later divide each rotary frequency by."""
_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
"""The same of Phi-3, for sequences longer than it was first trained with and for others."""

_LLAMA3 = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (16.0, 1.0, 4.0, 8192), (4.0, 1.0, 4.0, 8192))
"""Factor, low and high frequency factor and original context of Llama 3.1, 3.2 and what was made of them."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """`head` is how wide one head is, `rotary` how much of that is rotated."""

    layers: int
    context: int
    width: int
    inner: int
    heads: int
    keys: int
    head: int
    rotary: int


@dataclass(frozen=True, slots=True)
class Stored:
    """The file's tensors: `shapes` by name, `read` for one of them, `used` for those that become configuration."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], npt.NDArray[np.float32]]
    used: set[str] = field(default_factory=set)

    def take(self, name: str) -> npt.NDArray[np.float32]:
        """The values of a tensor that becomes configuration."""
        self.used.add(name)
        return self.read(name)


def rotary_parameters(own: OwnValues, sizes: Sizes, stored: Stored, *, partial: bool, longrope: bool) -> dict[str, Any]:
    """The values of transformers' `rope_parameters`.

    Args:
        own: the file's values.
        sizes: the network's.
        stored: the file's tensors.
        partial: whether transformers' family is told how much of a head is rotated.
        longrope: whether the family has Phi-3's two tables of factors.

    Raises:
        UnsupportedCheckpoint: it is scaled in a way that isn't read.
        MalformedCheckpoint: a value is impossible.
    """
    if (theta := own.number("rope.freq_base", 10_000.0)) <= 0:
        raise own.unused("rope.freq_base", theta)
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if partial:
        found["partial_rotary_factor"] = _share(sizes)
    kind = own.take("rope.scaling.type", "linear")
    scaling = _long(own, sizes, stored) if longrope and kind in ("linear", "longrope") else {}
    scaling = scaling or _scaling(own, kind, sizes.context)
    if _FACTORS in stored.shapes and not ((factors := stored.take(_FACTORS)) == 1).all():
        if scaling:
            raise own.unused("rope.scaling.type", kind)
        scaling = _llama3(own, theta, sizes, factors)
    return found | scaling


def _share(sizes: Sizes) -> float:
    """The part of a head that is rotated, of which the whole channels are taken."""
    share = sizes.rotary / sizes.head
    return share if int(sizes.head * share) == sizes.rotary else math.nextafter(share, math.inf)


def _scaling(own: OwnValues, kind: str, context: int) -> dict[str, Any]:
    """The scaling of a type. A factor without one is llama.cpp's `linear`, and one of 1 or 0 is none."""
    older = own.number("rope.scale_linear")
    factor = own.number("rope.scaling.factor", older)
    original = own.count("rope.scaling.original_context_length", context)
    if kind not in ("linear", "yarn", "none"):
        raise own.unused("rope.scaling.type", kind)
    if factor < 0 or original == 0:
        raise own.unused("rope.scaling.factor", factor)
    if kind == "none" or factor in (0, 1):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    own.must_be("rope.scaling.yarn_attn_factor", 0.1 * math.log(max(factor, 1)) + 1)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_fast": own.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": own.number("rope.scaling.yarn_beta_slow", 1.0),
    }


def _long(own: OwnValues, sizes: Sizes, stored: Stored) -> dict[str, Any]:
    """Phi-3's two tables of factors; nothing where it has none."""
    if not {_LONG, _SHORT} & stored.shapes.keys():
        return {}
    if not (original := own.need_count("rope.scaling.original_context_length")):
        raise own.unused("rope.scaling.original_context_length", original)
    return {
        "rope_type": "longrope",
        "factor": sizes.context / original,
        "long_factor": _table(own, sizes, stored, _LONG),
        "short_factor": _table(own, sizes, stored, _SHORT),
        "original_max_position_embeddings": original,
        "attention_factor": own.number("rope.scaling.attn_factor", 1.0) or 1.0,
    }


def _table(own: OwnValues, sizes: Sizes, stored: Stored, name: str) -> list[float]:
    if stored.shapes.get(name) != (sizes.rotary // 2,):
        raise MalformedCheckpoint(f"{own.subject}: the tensor {quoted(name)} isn't {sizes.rotary // 2} numbers")
    return [float(factor) for factor in stored.take(name)]


def _llama3(own: OwnValues, theta: float, sizes: Sizes, factors: npt.NDArray[np.float32]) -> dict[str, Any]:
    """The scaling that llama.cpp's converter made the factors of."""
    for factor, low, high, original in _LLAMA3:
        waves = 2 * math.pi * theta ** (np.arange(0, sizes.rotary, 2) / sizes.rotary)
        smooth = (original / waves - low) / (high - low)
        expected = np.where(waves > original / low, factor, 1 / ((1 - smooth) / factor + smooth))
        expected = np.where(waves < original / high, 1, expected)
        if factors.shape == expected.shape and np.allclose(factors, expected, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise UnsupportedCheckpoint(
        f"{own.subject}: the tensor {quoted(_FACTORS)} scales its rotary embedding in a way that isn't read;"
        " use the Hugging Face directory of this model"
    )
