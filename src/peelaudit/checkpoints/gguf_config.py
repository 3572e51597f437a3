"""What a GGUF file's metadata says of the network, as the values of transformers' configuration.

Every value under the architecture's own prefix is used, or is known to be without effect, or the file is refused: a
value that llama.cpp would compute with and an audit wouldn't is a network that nobody trained. What llama.cpp takes a
missing value for is written out, since transformers' classes have other defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.gguf_header import GgufHeader
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint

__all__ = ["FAMILIES", "ROTARY_FACTORS", "config_values"]

Read = Callable[[str], npt.NDArray[np.float32]]
"""One tensor by its name, dequantised."""

FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "gpt2": "gpt2",
}
"""GGUF's architectures whose every number is read, and transformers' name of the family."""

ROTARY_FACTORS = "rope_freqs.weight"
"""The tensor of Llama 3.1 and later: what each rotary frequency is divided by. It is part of the configuration."""

_NEEDED = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")
_WINDOWED = ("gemma2", "gemma3")
_WIDTH_SCALED = {"gemma2": 46, "gemma3": 62}
"""Gemma's 27B models, told by their layers, scale attention by width per head; all others by the head's own size."""

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.shared_kv_layers": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
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

_LLAMA3 = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (16.0, 1.0, 4.0, 8192), (4.0, 1.0, 4.0, 8192))
"""Factor, low and high frequency factor and original context of Llama 3.1, 3.2 and what was made of them."""


class _Own:
    """The values under an architecture's prefix. What is taken is used; the rest must be without effect."""

    def __init__(self, header: GgufHeader, name: str, subject: str) -> None:
        self.name, self.subject = name, subject
        prefix = f"{name}."
        long = {key: f"an array of {length}" for key, length in header.lengths.items() if key not in header.values}
        values = {**header.values, **long}
        self._left: dict[str, Any] = {
            key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
        }

    def take(self, key: str, default: Any = None) -> Any:
        return self._left.pop(key, default)

    def need(self, key: str) -> Any:
        if key not in self._left:
            raise MalformedCheckpoint(f"{self.subject}: lacks the value {quoted(f'{self.name}.{key}')}")
        return self._left.pop(key)

    def need_count(self, key: str) -> int:
        value = self.need(key)
        if type(value) is not int or value < 0:
            raise MalformedCheckpoint(f"{self.subject}: {quoted(f'{self.name}.{key}')} is {quoted(value, 40)}")
        return value

    def number(self, key: str, default: float = 0.0) -> float:
        value: float = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise MalformedCheckpoint(f"{self.subject}: {quoted(f'{self.name}.{key}')} is {quoted(value, 40)}")
        return value

    def refuse_others(self) -> None:
        for key, value in self._left.items():
            if not any(type(value) in (type(one), float) and value == one for one in _NEUTRAL.get(key, ())):
                raise self.unused(key, value)

    def unused(self, key: str, value: object) -> UnsupportedCheckpoint:
        return UnsupportedCheckpoint(
            f"{self.subject}: {quoted(f'{self.name}.{key}')} is {quoted(value, 40)}, which changes what the network"
            f" computes in a way that isn't read from GGUF; use the Hugging Face directory of this model"
        )


def config_values(
    header: GgufHeader, shapes: Mapping[str, tuple[int, ...]], read: Read, subject: str
) -> dict[str, Any]:
    """The values of a config.json for the network.

    Args:
        header: the file's.
        shapes: of its tensors, by name.
        read: one of the tensors, dequantised.
        subject: the file, which begins the messages.

    Raises:
        UnsupportedCheckpoint: the architecture isn't known or isn't dense, the file is no model, or a value changes
            what the network computes and can't be taken over.
        MalformedCheckpoint: a value is missing or impossible.
    """
    name = _architecture(header, subject)
    own = _Own(header, name, subject)
    if own.take("expert_count"):
        raise UnsupportedCheckpoint(f"{subject}: mixtures of experts can't be audited")
    found = _gpt2(own) if name == "gpt2" else _llama(own, shapes, read)
    vocabulary = own.take("vocab_size", shapes.get("token_embd.weight", (None,))[0])
    own.refuse_others()
    special = {f"{kind}_token_id": header.values.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")}
    return {
        **found,
        **special,
        "vocab_size": vocabulary,
        "model_type": FAMILIES[name],
        "tie_word_embeddings": "output.weight" not in shapes,
        "attention_bias": "blk.0.attn_q.bias" in shapes,
        "mlp_bias": "blk.0.ffn_down.bias" in shapes,
    }


def _architecture(header: GgufHeader, subject: str) -> str:
    values = header.values
    if (kind := values.get("general.type", "model")) != "model":
        raise UnsupportedCheckpoint(f"{subject}: its general.type is {quoted(kind, 40)}; only models can be audited")
    name = values.get("general.architecture")
    if not isinstance(name, str):
        raise MalformedCheckpoint(f"{subject}: doesn't name its architecture")
    if name not in FAMILIES:
        raise UnsupportedCheckpoint(
            f"{subject}: GGUF files of the architecture {quoted(name, 40)} can't be audited;"
            f" these can: {', '.join(FAMILIES)}"
        )
    return name


def _gpt2(own: _Own) -> dict[str, Any]:
    layers, context, width, inner, heads = (own.need_count(key) for key in _NEEDED)
    return {
        "n_layer": layers,
        "n_positions": context,
        "n_embd": width,
        "n_inner": inner,
        "n_head": heads,
        "layer_norm_epsilon": own.need("attention.layer_norm_epsilon"),
    }


def _llama(own: _Own, shapes: Mapping[str, tuple[int, ...]], read: Read) -> dict[str, Any]:
    """The values of Llama's likes: RMS norms, and rotary embeddings over the whole of each head."""
    layers, context, width, inner, heads = (own.need_count(key) for key in _NEEDED)
    head = own.take("attention.key_length", width // max(heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if (size := own.take(key, head)) != head:
            raise own.unused(key, size)
    if (scale := own.number("attention.scale")) and not math.isclose(scale * math.sqrt(head), 1, rel_tol=1e-5):
        raise own.unused("attention.scale", scale)
    return {
        "num_hidden_layers": layers,
        "max_position_embeddings": context,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": own.take("attention.head_count_kv", heads),
        "head_dim": head,
        "rms_norm_eps": own.need("attention.layer_norm_rms_epsilon"),
        **_windows(own, layers, context),
        **_rotary(own, context, head, shapes, read),
        **(_gemma(own, layers, width // max(heads, 1), head) if own.name in _WINDOWED else {}),
    }


def _gemma(own: _Own, layers: int, per_head: int, head: int) -> dict[str, Any]:
    """Soft caps, which llama.cpp has for Gemma 2 where the file doesn't say, and how scores are scaled."""
    final, scores = (30.0, 50.0) if own.name == "gemma2" else (0.0, 0.0)
    found: dict[str, Any] = {
        "final_logit_softcapping": own.number("final_logit_softcapping", final) or None,
        "query_pre_attn_scalar": per_head if layers == _WIDTH_SCALED[own.name] else head,
    }
    if own.name == "gemma2":  # transformers' Gemma 3 has no use for it
        found["attn_logit_softcapping"] = own.number("attn_logit_softcapping", scores) or None
    return found


def _windows(own: _Own, layers: int, context: int) -> dict[str, Any]:
    """The sliding window, which only Gemma has. One that is as long as the context is none."""
    if own.name not in _WINDOWED:
        window = own.number("attention.sliding_window")
        if 0 < window < context:
            raise own.unused("attention.sliding_window", window)
        return {}
    found: dict[str, Any] = {"sliding_window": own.need_count("attention.sliding_window")}
    pattern = own.take("attention.sliding_window_pattern")
    if isinstance(pattern, list) and len(pattern) == layers and all(type(slides) is bool for slides in pattern):
        found["layer_types"] = ["sliding_attention" if slides else "full_attention" for slides in pattern]
    elif pattern is not None and pattern != (6 if own.name == "gemma3" else 2):
        raise own.unused("attention.sliding_window_pattern", pattern)
    return found


def _rotary(own: _Own, context: int, head: int, shapes: Mapping[str, tuple[int, ...]], read: Read) -> dict[str, Any]:
    """The rotary embedding's base and scaling; a factor without a type is llama.cpp's `linear`."""
    theta = own.number("rope.freq_base", 10_000.0)
    found: dict[str, Any] = {"rope_theta": theta}
    if own.name == "gemma3":
        found["rope_local_base_freq"] = own.number("rope.freq_base_swa", 10_000.0)
    kind = own.take("rope.scaling.type", "linear")
    older = own.number("rope.scale_linear")
    factor = own.number("rope.scaling.factor", older)
    original = own.take("rope.scaling.original_context_length", context)
    scaling: dict[str, Any] | None = None
    if kind == "linear" and factor not in (0, 1):
        scaling = {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        scaling = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "beta_fast": own.number("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": own.number("rope.scaling.yarn_beta_slow", 1.0),
        }
    elif kind not in ("linear", "none"):
        raise own.unused("rope.scaling.type", kind)
    if ROTARY_FACTORS in shapes:
        factors = _llama3(own, theta, head, read(ROTARY_FACTORS))
        if scaling and factors:
            raise own.unused("rope.scaling.type", kind)
        scaling = scaling or factors
    return found | ({"rope_scaling": scaling} if scaling else {})


def _llama3(own: _Own, theta: float, head: int, factors: npt.NDArray[np.float32]) -> dict[str, Any] | None:
    """The scaling that llama.cpp's converter made the factors of; None where all are 1."""
    if (factors == 1).all():
        return None
    for factor, low, high, original in _LLAMA3:
        waves = 2 * math.pi * theta ** (np.arange(0, head, 2) / head)
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
        f"{own.subject}: the tensor {quoted(ROTARY_FACTORS)} scales its rotary embedding in a way that isn't read;"
        " use the Hugging Face directory of this model"
    )
