"""One GGUF file: its header, checked against the file, and one tensor at a time, dequantised to float32.

The gguf library dequantises; it doesn't read the file, for its reader believes all lengths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peelaudit.checkpoints.files import OpenFile, quoted
from peelaudit.checkpoints.gguf_header import GgufTensor, read_header
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint
from peelaudit.records import TensorInfo

__all__ = ["GgufPart", "library"]

_FLOAT_KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class GgufPart:
    """The tensors of one GGUF file, of which there may be others of the same model. Each is read as float32."""

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
        self._gguf = library(self._subject)
        self._file = OpenFile(path)
        try:
            self.header = read_header(self._file)
            self._tensors = {tensor.name: tensor for tensor in self.header.tensors}
            self.tensors: Mapping[str, TensorInfo] = {
                tensor.name: self._tensor_info(tensor) for tensor in self.header.tensors
            }
            self.floats = frozenset(info.dtype for info in self.tensors.values())
            self._check_ranges()
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that stored name as float32, in torch's order, on the CPU."""
        tensor, info = self._tensors[name], self.tensors[name]
        data = self._file.read(self.header.data + tensor.offset, info.bytes)
        rows = np.frombuffer(data, dtype=np.uint8).reshape(math.prod(tensor.shape[:-1]), -1)
        with np.errstate(all="ignore"):  # what isn't finite is refused later, by the tensor's name
            values = self._gguf.dequantize(rows, self._gguf.GGMLQuantizationType(tensor.kind))
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32).reshape(tensor.shape))

    def _tensor_info(self, tensor: GgufTensor) -> TensorInfo:
        where = f"{self._subject}: the tensor {quoted(tensor.name)}"
        name = str(tensor.kind)
        try:
            kind = self._gguf.GGMLQuantizationType(tensor.kind)
            name = kind.name
            block, width = self._gguf.GGML_QUANT_SIZES[kind]
            self._gguf.dequantize(np.zeros((1, width), dtype=np.uint8), kind)
        except (ValueError, KeyError, NotImplementedError):
            raise UnsupportedCheckpoint(f"{where} is of ggml type {name}, which isn't read") from None
        if tensor.shape[-1] % block:
            raise MalformedCheckpoint(
                f"{where} has rows of {tensor.shape[-1]}, which {kind.name} can't store in blocks of {block}"
            )
        dtype = _FLOAT_KINDS.get(kind.name, kind.name)
        return TensorInfo(tensor.name, tensor.shape, dtype, math.prod(tensor.shape) // block * width)

    def _check_ranges(self) -> None:
        end = 0
        for tensor in sorted(self.header.tensors, key=lambda tensor: tensor.offset):
            if tensor.offset < end:
                raise MalformedCheckpoint(f"{self._subject}: the tensor {quoted(tensor.name)} overlaps another")
            end = tensor.offset + self.tensors[tensor.name].bytes
        if self.header.data + end > self._file.size:
            raise MalformedCheckpoint(f"{self._subject}: is truncated: its tensors end beyond the file")

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def library(subject: str) -> Any:
    """The gguf library.

    Raises:
        UnsupportedCheckpoint: it isn't installed.
    """
    try:
        import gguf
    except ImportError:
        raise UnsupportedCheckpoint(
            f"{subject}: reading GGUF needs the gguf library; install peelaudit[gguf]"
        ) from None
    return gguf
