"""What a LoRA adapter's adapter_config.json says, every setting of it used or known to be without effect."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peelaudit.checkpoints.files import quoted
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint

__all__ = ["LoraSettings"]

_USED = frozenset({"peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"})
_NO_EFFECT = frozenset(
    {
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "auto_mapping",
        "target_modules",  # the stored tensors say where; those that are named must have some
        "modules_to_save",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "fan_in_fan_out",  # the module says which way its matrix lies
        "lora_dropout",
        "qalora_group_size",
        "megatron_core",
        "peft_version",
    }
)
_HARMLESS: Mapping[str, tuple[object, ...]] = {
    "bias": ("none",),
    "task_type": ("CAUSAL_LM",),
    "init_lora_weights": (True, "gaussian", "orthogonal", "eva"),
}
"""Values without effect on a trained adapter. Other ways to begin (PiSSA, OLoRA, …) take from the base's weights."""
_PATTERN = re.compile(r"\^?[\w.]+")
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Ranks, factors and modules of an adapter. `listed` are names, or ends of them, that must have tensors."""

    rank: float
    alpha: float
    ranks: Mapping[str, float]
    alphas: Mapping[str, float]
    stabilised: bool
    dora: bool
    listed: frozenset[str]

    @classmethod
    def read(cls, values: Mapping[str, Any], subject: str) -> LoraSettings:
        """The settings of an adapter_config.json; `subject` begins the messages.

        Raises:
            UnsupportedCheckpoint: it isn't LoRA, or a setting isn't known that may change what is computed.
            MalformedCheckpoint: a rank or a factor is no number.
        """
        if values.get("peft_type") != "LORA":
            kind = quoted(values.get("peft_type"), 40)
            raise UnsupportedCheckpoint(f"{subject}: an adapter of the kind {kind}, where only LORA is read")
        for key, value in values.items():
            if key in _USED | _NO_EFFECT or not value or value in _HARMLESS.get(key, ()):
                continue
            raise UnsupportedCheckpoint(
                f"{subject}: {quoted(key, 40)} is {quoted(value, 40)}, which isn't read; merge it by peft"
                " (merge_and_unload) and save that"
            )
        narrowed = values.get("layers_to_transform") is not None or values.get("exclude_modules")
        lists = [values.get("modules_to_save"), None if narrowed else values.get("target_modules")]
        return cls(
            rank=_number(values.get("r"), subject),
            alpha=_number(values.get("lora_alpha"), subject),
            ranks=_pattern(values.get("rank_pattern"), subject),
            alphas=_pattern(values.get("alpha_pattern"), subject),
            stabilised=values.get("use_rslora") is True,
            dora=values.get("use_dora") is True,
            listed=frozenset(
                name for names in lists if isinstance(names, list) for name in names if isinstance(name, str)
            ),
        )

    def rank_of(self, module: str) -> float:
        """The rank of a module's matrices."""
        return _of_module(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """What the product of a module's matrices is multiplied by."""
        rank = self.rank_of(module)
        return _of_module(self.alphas, module, self.alpha) / (math.sqrt(rank) if self.stabilised else rank)

    def lists(self, module: str) -> bool:
        """Whether a module must have tensors."""
        return not self.listed.isdisjoint(_ends(module))


def _number(value: object, subject: str) -> float:
    if type(value) in (int, float) and isinstance(value, int | float) and 0 < value < _MOST:
        return value
    raise MalformedCheckpoint(f"{subject}: a rank or alpha isn't a number above 0")


def _pattern(value: object, subject: str) -> Mapping[str, float]:
    """Values by modules' names. peft takes the names for regular expressions; only those that are names are read."""
    if not value:
        return {}
    if not isinstance(value, dict):
        raise MalformedCheckpoint(f"{subject}: its patterns of ranks or alphas are damaged")
    if odd := next((key for key in value if not _PATTERN.fullmatch(key)), None):
        raise UnsupportedCheckpoint(f"{subject}: the pattern {quoted(odd)} isn't a module's name; merge it by peft")
    return {key: _number(number, subject) for key, number in value.items()}


def _of_module(pattern: Mapping[str, float], module: str, default: float) -> float:
    """The value for a module: that of the first key which is its name or the end of it."""
    keys = [key for key in (f"^{module}", *_ends(module)) if key in pattern]
    if len(keys) > 1:
        keys.sort(key=list(pattern).index)
    return pattern[keys[0]] if keys else default


def _ends(name: str) -> list[str]:
    """The name, and what is left of it behind each of its dots."""
    parts = name.split(".")
    return [".".join(parts[begin:]) for begin in range(len(parts))]
