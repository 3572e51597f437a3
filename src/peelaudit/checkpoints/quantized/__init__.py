"""Checkpoints whose config.json has a `quantization_config`: packed weights, read as the floats that they stand for."""

from __future__ import annotations

from peelaudit.checkpoints.quantized.codebooks import refuse_codebooks_by_tensors
from peelaudit.checkpoints.quantized.method import Method
from peelaudit.checkpoints.quantized.methods import SETTINGS_FILES, find_method
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.quantized.store import Dequantized

__all__ = ["SETTINGS_FILES", "Dequantized", "Method", "PackedType", "find_method", "refuse_codebooks_by_tensors"]
