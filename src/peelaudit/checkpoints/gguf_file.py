"""A GGUF model, in one file or several: its configuration by its metadata, and its tensors in transformers' places.

The gguf library names the tensors, transformers' processors undo what the conversion to GGUF did (the permuted rows of
Llama's q and k, Gemma's norms plus one, GPT-2's transposed weights). Transformers doesn't read the file: it dequantises
the whole model at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peelaudit.checkpoints.configuration import Description
from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.gguf_config import ROTARY_FACTORS, config_values
from peelaudit.checkpoints.gguf_part import library
from peelaudit.checkpoints.gguf_split import open_parts
from peelaudit.checkpoints.matching import Origin
from peelaudit.checkpoints.store import Joined, close_all
from peelaudit.errors import MalformedCheckpoint

__all__ = ["GgufFile"]

_TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")


class GgufFile(Joined):
    """The tensors of a GGUF file, or of all parts of a split one, under their stored names."""

    def __init__(self, path: Path) -> None:
        """Open the file, and the other parts where it is one of several.

        Raises:
            UnreadableCheckpoint, MalformedCheckpoint, UnsupportedCheckpoint: as `open_parts`.
        """
        parts = open_parts(path)
        try:
            super().__init__(parts)
        except BaseException:
            close_all(parts)
            raise
        self._header = parts[0].header
        self._subject = quoted(path)
        self._gguf = library(self._subject)

    @property
    def tokenizer(self) -> str | None:
        """The file's own name, or the first part's, where it has a tokenizer inside."""
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


def _undo(processor: Any, stored: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What transformers does to a tensor of that name to undo the conversion to GGUF."""
    if stored == "output.weight":  # never changed, and its name is misread by GPT-2's processor
        return None

    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = processor.process(tensor.numpy(), stored).weights
        return torch.from_numpy(np.ascontiguousarray(changed))

    return change
