"""BitNet b1.58, as transformers reads it: ternary weights, and inputs rounded to 8 bits in every converted layer.

    bitlinear               weight [outputs / 4, inputs] uint8, four rows of codes (0, 1, 2 for -1, 0, 1) in a byte, the
                            first quarter of the rows in the lowest bits; weights are code / weight_scale
    autobitlinear, offline  the same codes, or floats; weights are code * weight_scale
    autobitlinear, online   latent floats; weights are their absmean ternary rounding

See transformers.integrations.bitnet, and "The Era of 1-bit LLMs", arXiv 2402.17764.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.matching import Origin
from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.store import FLOATS
from peelaudit.errors import UnsupportedCheckpoint

__all__ = ["BitNet", "absmean_ternary", "round_to_8_bits"]

_PLAIN_PATTERN = re.compile(r"[\w.*-]{1,200}")
_LEAST = 1e-5


class BitNet(Method):
    """Ternary weights, one scale a matrix, and 8-bit activations, one scale a token."""

    parts = ("weight", "weight_scale")
    marks = ("weight_scale",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._divides = settings.choice("linear_class", ("bitlinear", "autobitlinear"), "bitlinear") == "bitlinear"
        mode = settings.choice("quantization_mode", ("offline", "online"), "offline")
        self._online = mode == "online" and not self._divides
        self._normed = settings.flag("use_rms_norm")
        epsilon = settings.values.get("rms_norm_eps")
        self._epsilon = 1e-6 if epsilon is None else epsilon
        if type(self._epsilon) not in (int, float) or not 0 <= self._epsilon < 1:
            raise settings.malformed(f"rms_norm_eps is {quoted(epsilon, 40)}")
        self._left_out = settings.names("modules_to_not_convert")
        for pattern in self._left_out or ():
            if not _PLAIN_PATTERN.fullmatch(pattern) or pattern.count("*") > 2:
                raise settings.unsupported(f"modules_to_not_convert {quoted(pattern, 40)}, a pattern that isn't read")

    def layout(self, module: StoredModule) -> Layout | None:
        """The codes' size; None for latent floats and for what isn't converted (norms, the embedding)."""
        packed = module.tensors.get("weight", None)
        if self._online or packed is None:
            return None
        if packed.dtype != "uint8" and "weight_scale" not in module.tensors:
            return None
        rows, inputs = module.shape("weight", 2, ("uint8",) if self._divides else ("uint8", *FLOATS))
        if "weight_scale" not in module.tensors:
            raise module.mismatched("its weight_scale is missing")
        if packed.dtype != "uint8":
            return Layout(rows, inputs, packed.dtype)
        return Layout(rows * 4, inputs, str(PackedType("bitnet", "ternary", "tensor")))

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """The codes -1, 0, 1 (or floats) with their scale, [outputs, inputs]."""
        scale, stored = module.number("weight_scale"), module.read("weight")
        codes = stored.float()
        if stored.dtype == torch.uint8:
            quarters = torch.cat([stored >> shift & 3 for shift in (0, 2, 4, 6)])
            if bool((quarters == 3).any()):
                raise module.malformed("its weight holds a code that isn't -1, 0 or 1")
            codes = quarters.float() - 1
        if self._divides and scale == 0:
            raise module.malformed("its weight_scale is 0")
        return codes / scale if self._divides else codes * scale

    def prepare(self, skeleton: nn.Module) -> nn.Module:
        """The module with inputs of converted layers rounded, after a norm of their own if the settings say so."""
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        converted = dict(self._converted(skeleton))
        head: Any = skeleton.get_output_embeddings()  # type: ignore[operator]
        if any(module is head for module in converted.values()):
            raise self.settings.unsupported("a ternary head (it isn't in modules_to_not_convert), which isn't read")
        for module in converted.values():
            if self._normed:
                with torch.device("meta"):
                    module.rms_norm = LlamaRMSNorm(module.in_features, eps=self._epsilon)
            module.register_forward_pre_hook(_round_input)
        return skeleton

    def _converted(self, skeleton: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
        """The layers that transformers converts: all linear ones but those that are named, or else the head."""
        head: Any = skeleton.get_output_embeddings()  # type: ignore[operator]
        kept = [*(self._left_out or ()), *(getattr(skeleton, "_keep_in_fp32_modules", None) or ())]
        for name, module in skeleton.named_modules():
            if not isinstance(module, nn.Linear) or (self._left_out is None and module is head):
                continue
            if not any(re.match(rf"(?:{key})(?:(?<=\.)|(?=\.|$))", name) or name.endswith(key) for key in kept):
                yield name, module

    def adapt(
        self, origins: Mapping[str, Origin], skeleton: nn.Module, packed: Collection[str]
    ) -> Mapping[str, Origin]:
        """Latent floats as the ternary weights that they stand for."""
        changed = dict(origins)
        for name, _ in self._converted(skeleton):
            origin = origins.get(f"{name}.weight")
            if origin is None:
                continue  # it is missing, which is said of all such together
            if self._online:
                changed[f"{name}.weight"] = replace(origin, change=absmean_ternary)
            elif origin.stored not in packed:
                raise UnsupportedCheckpoint(
                    f"{self.settings.subject}: the quantization_config (bitnet) converts {quoted(name)}, but its"
                    " weight_scale is missing"
                )
        return changed


def absmean_ternary(weight: Tensor) -> Tensor:
    """The ternary weights that latent ones stand for: round(W / s) within -1 and 1, times s = mean |W|, float32."""
    weight = weight.float()
    scale = 1 / weight.abs().mean().clamp(min=_LEAST)
    return (weight * scale).round().clamp(-1, 1) / scale


def round_to_8_bits(hidden: Tensor) -> Tensor:
    """The states on 256 levels, one scale a token (the last dimension); gradients pass as if nothing were rounded."""
    wide = hidden if hidden.dtype == torch.float64 else hidden.float()
    scale = 127 / wide.detach().abs().amax(dim=-1, keepdim=True).clamp(min=_LEAST)
    rounded = ((wide.detach() * scale).round().clamp(-128, 127) / scale).to(hidden.dtype)
    return rounded + (hidden - hidden.detach())  # adds exactly 0


def _round_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A pre-hook of a linear layer. It takes the module as it is called, so that copies of the module keep it."""
    norm = dict(module.named_children()).get("rms_norm")
    hidden = args[0] if norm is None else norm(args[0])
    return (round_to_8_bits(hidden), *args[1:])
