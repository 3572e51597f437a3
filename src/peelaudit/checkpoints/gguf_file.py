"""A GGUF file: its configuration by its metadata, and one tensor at a time, dequantised to float32.

The gguf library names the tensors and dequantises them, transformers' processors undo what the conversion to GGUF did
(the permuted rows of Llama's q and k, Gemma's norms plus one, GPT-2's transposed weights). Neither reads the file:
their readers believe its lengths, and transformers dequantises the whole model at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peelaudit.checkpoints.configuration import Description
from peelaudit.checkpoints.files import OpenFile, quoted
from peelaudit.checkpoints.gguf_config import ROTARY_FACTORS, config_values
from peelaudit.checkpoints.gguf_header import GgufTensor, read_header
from peelaudit.checkpoints.matching import Origin
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint
from peelaudit.records import TensorInfo

__all__ = ["GgufFile"]

_FLOAT_KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")


class GgufFile:
    """The tensors of one GGUF file. Each is read as float32 under its stored name, as transformers wants it."""

    format = "gguf"

    def __init__(self, path: Path) -> None:
        """Walk the header and compare the tensors' ranges with the file.

        Raises:
            UnreadableCheckpoint: there is no such file, or it isn't GGUF.
            MalformedCheckpoint: the header is damaged, or the tensors overlap or leave the file.
            UnsupportedCheckpoint: the gguf library is missing, or doesn't know a tensor's type.
        """
        self.paths = (path,)
        self._subject = quoted(path)
        self._gguf = _library(self._subject)
        self._file = OpenFile(path)
        try:
            self._header = read_header(self._file)
            self._tensors = {tensor.name: tensor for tensor in self._header.tensors}
            self.tensors: Mapping[str, TensorInfo] = {
                tensor.name: self._tensor_info(tensor) for tensor in self._header.tensors
            }
            self.floats = frozenset(info.dtype for info in self.tensors.values())
            self._check_ranges()
        except BaseException:
            self._file.close()
            raise

    @property
    def tokenizer(self) -> str | None:
        """The file's own name where it has a tokenizer inside."""
        return self.paths[0].name if "tokenizer.ggml.tokens" in self._header.lengths else None

    def describe(self) -> Description:
        """The configuration, by the file's metadata.

        Raises:
            UnsupportedCheckpoint, MalformedCheckpoint: as `config_values`.
        """
        shapes = {name: info.shape for name, info in self.tensors.items()}
        values = config_values(self._header, shapes, lambda name: self.read(name).numpy(), self._subject)
        return Description({key: value for key, value in values.items() if value is not None}, self._subject)

    def origins(self, skeleton: torch.nn.Module) -> Mapping[str, Origin]:
        """Every tensor under the skeleton's name for it, where it has one."""
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

        architecture = self._header.values["general.architecture"]
        config: Any = skeleton.config
        processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
        names = self._names(str(architecture), config.num_hidden_layers, skeleton)
        found: dict[str, Origin] = {}
        for stored, info in self.tensors.items():
            if stored == ROTARY_FACTORS:
                continue  # part of the configuration
            name = names.get(stored, stored)
            if name in found:
                raise MalformedCheckpoint(f"{self._subject}: the tensor {quoted(name)} is stored twice")
            flip = architecture == "gpt2" and stored.endswith(_TRANSPOSED)
            found[name] = Origin(stored, info.shape[::-1] if flip else info.shape, _undo(processor, stored))
        return found

    def _names(self, architecture: str, layers: int, skeleton: torch.nn.Module) -> Mapping[str, str]:
        """The skeleton's name of every stored one, by gguf's table."""
        kinds = {name: kind for kind, name in self._gguf.MODEL_ARCH_NAMES.items()}
        table = self._gguf.get_tensor_name_map(kinds[architecture], layers)
        stored = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in skeleton.state_dict()}
        return {there: name for name, there in stored.items() if there is not None}

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that stored name as float32, in torch's order, on the CPU."""
        tensor, info = self._tensors[name], self.tensors[name]
        data = self._file.read(self._header.data + tensor.offset, info.bytes)
        rows = np.frombuffer(data, dtype=np.uint8).reshape(math.prod(tensor.shape[:-1]), -1)
        values = self._gguf.dequantize(rows, self._gguf.GGMLQuantizationType(tensor.kind))
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32).reshape(tensor.shape))

    def _tensor_info(self, tensor: GgufTensor) -> TensorInfo:
        where = f"{self._subject}: the tensor {quoted(tensor.name)}"
        try:
            kind = self._gguf.GGMLQuantizationType(tensor.kind)
            block, width = self._gguf.GGML_QUANT_SIZES[kind]
            self._gguf.dequantize(np.zeros((1, width), dtype=np.uint8), kind)
        except (ValueError, KeyError, NotImplementedError):
            raise UnsupportedCheckpoint(f"{where} is of ggml type {tensor.kind}, which isn't read") from None
        if tensor.shape[-1] % block:
            raise MalformedCheckpoint(
                f"{where} has rows of {tensor.shape[-1]}, which {kind.name} can't store in blocks of {block}"
            )
        dtype = _FLOAT_KINDS.get(kind.name, kind.name)
        return TensorInfo(tensor.name, tensor.shape, dtype, math.prod(tensor.shape) // block * width)

    def _check_ranges(self) -> None:
        end = 0
        for tensor in sorted(self._header.tensors, key=lambda tensor: tensor.offset):
            if tensor.offset < end:
                raise MalformedCheckpoint(f"{self._subject}: the tensor {quoted(tensor.name)} overlaps another")
            end = tensor.offset + self.tensors[tensor.name].bytes
        if self._header.data + end > self._file.size:
            raise MalformedCheckpoint(f"{self._subject}: is truncated: its tensors end beyond the file")

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def _library(subject: str) -> Any:
    try:
        import gguf
    except ImportError:
        raise UnsupportedCheckpoint(
            f"{subject}: reading GGUF needs the gguf library; install peelaudit[gguf]"
        ) from None
    return gguf


def _undo(processor: Any, stored: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What transformers does to a tensor of that name to undo the conversion to GGUF."""
    if stored == "output.weight":  # never changed, and its name is misread by GPT-2's processor
        return None

    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = processor.process(tensor.numpy(), stored).weights
        return torch.from_numpy(np.ascontiguousarray(changed))

    return change
