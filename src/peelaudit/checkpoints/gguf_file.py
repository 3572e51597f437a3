"""A GGUF file: its configuration by transformers' table of keys, and one tensor at a time, dequantised to float32.

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
from peelaudit.checkpoints.gguf_header import GgufTensor, read_header
from peelaudit.checkpoints.matching import Origin
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint
from peelaudit.records import TensorInfo

__all__ = ["GgufFile"]

_FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "gpt2": "gpt2",
}
"""GGUF's architectures whose every number is read, and transformers' name of the family."""

_FLOAT_KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
_ROTARY_TABLES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


_WIDTH_SCALED = {"gemma2": 46, "gemma3": 62}
"""Gemma's 27B models, told by their layers, scale attention by width per head; all others by the head's own size."""


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
        """The configuration, by transformers' table of GGUF's keys.

        Raises:
            UnsupportedCheckpoint: the architecture isn't known or isn't dense, or scales its rotary embedding in a way
                that transformers doesn't read from GGUF.
            MalformedCheckpoint: a value is missing or impossible.
        """
        from transformers.integrations import GGUF_CONFIG_MAPPING

        values = self._header.values
        name = values.get("general.architecture")
        if not isinstance(name, str):
            raise MalformedCheckpoint(f"{self._subject}: doesn't name its architecture")
        if name not in _FAMILIES:
            raise UnsupportedCheckpoint(
                f"{self._subject}: GGUF files of the architecture {quoted(name, 40)} can't be audited;"
                f" these can: {', '.join(_FAMILIES)}"
            )
        self._check_dense(name)
        own, keys = self._own_values(name), GGUF_CONFIG_MAPPING[name]
        found = {keys[key]: value for key, value in own.items() if keys.get(key)}
        found |= self._beyond_the_table(name, own)
        return Description({key: value for key, value in found.items() if value is not None}, self._subject)

    def _beyond_the_table(self, name: str, own: Mapping[str, Any]) -> dict[str, Any]:
        """What transformers' table of keys leaves to its defaults, or gives another name."""
        found: dict[str, Any] = {
            "model_type": _FAMILIES[name],
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "bos_token_id": self._header.values.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self._header.values.get("tokenizer.ggml.eos_token_id"),
        }
        if "vocab_size" not in own and "token_embd.weight" in self.tensors:
            found["vocab_size"] = self.tensors["token_embd.weight"].shape[0]
        if name == "gpt2":
            found |= {"n_positions": own.get("context_length"), "n_inner": own.get("feed_forward_length")}
        elif "attention.key_length" in own:
            found["head_dim"] = own["attention.key_length"]
        if name in _WIDTH_SCALED:  # as llama.cpp scales its scores: the file doesn't say
            per_head = own.get("embedding_length", 0) // (own.get("attention.head_count") or 1)
            by_width = own.get("block_count") == _WIDTH_SCALED[name]
            found["query_pre_attn_scalar"] = per_head if by_width else own.get("attention.key_length")
        return found

    def _own_values(self, name: str) -> dict[str, Any]:
        """The values under the architecture's own prefix, without it."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in self._header.values.items() if key.startswith(prefix)}

    def _check_dense(self, name: str) -> None:
        own = self._own_values(name)
        if own.get("expert_count"):
            raise UnsupportedCheckpoint(f"{self._subject}: mixtures of experts can't be audited")
        scaling = own.get("rope.scaling.type", "none")
        if scaling != "none" or any(table in self.tensors for table in _ROTARY_TABLES):
            raise UnsupportedCheckpoint(
                f"{self._subject}: scales its rotary embedding, which transformers doesn't read from GGUF;"
                " use the Hugging Face directory of this model"
            )

    def origins(self, skeleton: torch.nn.Module) -> Mapping[str, Origin]:
        """Every tensor under the skeleton's name for it, where it has one."""
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

        architecture = self._header.values["general.architecture"]
        config: Any = skeleton.config
        processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
        names = self._names(str(architecture), config.num_hidden_layers, skeleton)
        found: dict[str, Origin] = {}
        for stored, info in self.tensors.items():
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
