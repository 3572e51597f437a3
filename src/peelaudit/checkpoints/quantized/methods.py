"""The one table of quantisation methods, and which of them a config.json asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.quantized.auto_round import auto_round
from peelaudit.checkpoints.quantized.awq import Awq
from peelaudit.checkpoints.quantized.bitnet import BitNet
from peelaudit.checkpoints.quantized.bitsandbytes import BitsAndBytes
from peelaudit.checkpoints.quantized.codebooks import refuse_codebooks
from peelaudit.checkpoints.quantized.compressed_tensors import CompressedTensors
from peelaudit.checkpoints.quantized.fp8 import Float8
from peelaudit.checkpoints.quantized.gptq import Gptq
from peelaudit.checkpoints.quantized.hqq import Hqq
from peelaudit.checkpoints.quantized.method import Method, Settings
from peelaudit.checkpoints.quantized.modelopt import ModelOpt, settings_beside
from peelaudit.checkpoints.quantized.mxfp4 import Mxfp4
from peelaudit.checkpoints.quantized.quanto import Quanto, settings_of_map
from peelaudit.checkpoints.quantized.torchao import TorchAo
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint

__all__ = ["METHODS", "SETTINGS_FILES", "find_method"]

METHODS: Mapping[str, Callable[[Settings], Method]] = {
    "bitnet": BitNet,
    "gptq": Gptq,
    "awq": Awq,
    "compressed-tensors": CompressedTensors,
    "bitsandbytes": BitsAndBytes,
    "auto-round": auto_round,
    "intel/auto-round": auto_round,
    "fp8": Float8,
    "mxfp8": Float8,
    "fbgemm_fp8": Float8,
    "hqq": Hqq,
    "mxfp4": Mxfp4,
    "modelopt": ModelOpt,
    "quanto": Quanto,
    "torchao": TorchAo,
}
"""By `quant_method`. A method stands here when a test proves its loss to be that of the floats that were packed."""

SETTINGS_FILES: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "hf_quant_config.json": settings_beside,
    "quanto_qmap.json": settings_of_map,
}
"""Files beside a config.json that may describe a quantisation in its stead, and how they are read."""


def find_method(values: Mapping[str, Any], subject: str) -> Method | None:
    """The method of a config.json; None where its weights are plain.

    Raises:
        UnsupportedCheckpoint: the method isn't known, or its settings ask for something that can't be read.
        MalformedCheckpoint: a setting makes no sense.
    """
    settings = values.get("quantization_config") or values.get("compression_config")
    refuse_codebooks(values, settings.get("quant_method") if isinstance(settings, dict) else None, subject)
    if not settings:
        return None
    if not isinstance(settings, dict):
        raise MalformedCheckpoint(f"{subject}: its quantization_config isn't a JSON object")
    name = settings.get("quant_method")
    if name is None and (settings.get("load_in_8bit") or settings.get("load_in_4bit")):
        name = "bitsandbytes"  # which wrote no name at first
    if not isinstance(name, str) or name not in METHODS:
        raise UnsupportedCheckpoint(
            f"{subject}: weights packed by {quoted(name or 'an unnamed method', 40)} can't be audited (these can:"
            f" {', '.join(METHODS)}); use the unpacked ones, or a GGUF file"
        )
    return METHODS[name](Settings(settings, name, subject))
