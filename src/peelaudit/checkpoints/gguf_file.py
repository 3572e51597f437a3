"""A GGUF model, in one file or several: its configuration by its metadata, and its tensors in transformers' places.

The gguf library names the tensors. Transformers doesn't read the file: it dequantises the whole model at once, and
some architectures it reads wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch

from peelaudit.checkpoints.configuration import Description
from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.gguf_config import GgufConfig, read_config
from peelaudit.checkpoints.gguf_joined import joined_pairs
from peelaudit.checkpoints.gguf_listed import listed_parameters
from peelaudit.checkpoints.gguf_names import stored_names
from peelaudit.checkpoints.gguf_part import library
from peelaudit.checkpoints.gguf_rotary import Stored
from peelaudit.checkpoints.gguf_split import open_parts
from peelaudit.checkpoints.gguf_undo import transposed
from peelaudit.checkpoints.matching import Origin
from peelaudit.checkpoints.store import FLOATS, Joined, close_all
from peelaudit.errors import MalformedCheckpoint
from peelaudit.records import TensorInfo

__all__ = ["GgufFile"]


class GgufFile(Joined):
    """The tensors of a GGUF file, or of all parts of a split one, under their stored names."""

    def __init__(self, path: Path) -> None:
        """Open the file, and the other parts where it is one of several.

        Raises:
            UnreadableCheckpoint, MalformedCheckpoint, UnsupportedCheckpoint: as `open_parts`.
        """
        self._subject = quoted(path)
        parts = open_parts(path)
        self._header = parts[0].header
        try:
            super().__init__(parts)
            self._listed = listed_parameters(self._header, self._subject)
        except BaseException:
            close_all(parts)
            raise
        listed = {name: TensorInfo(name, tuple(one.shape), "float32", 4) for name, one in self._listed.items()}
        self._pairs = joined_pairs(self._header, self.tensors)
        apart = {name for pair in self._pairs.values() for name in (pair.first, pair.second)}
        self.tensors = {
            **{name: info for name, info in self.tensors.items() if name not in apart},
            **{name: self._joined(name) for name in self._pairs},
            **listed,
        }
        self.floats = frozenset((*self.floats, *(info.dtype for info in self.tensors.values())))
        self._gguf = library(self._subject)

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that stored name, on the CPU; what is stored as values has transformers' names."""
        if name in self._pairs:
            pair = self._pairs[name]
            return pair.join(super().read(pair.first), super().read(pair.second))
        return self._listed[name].clone() if name in self._listed else super().read(name)

    def _joined(self, name: str) -> TensorInfo:
        """A tensor of two."""
        pair = self._pairs[name]
        first, second = self.tensors[pair.first], self.tensors[pair.second]
        alike = first.dtype == second.dtype and (pair.parts > 1 or first.dtype in FLOATS)  # the same groups of inputs
        dtype = first.dtype if alike else f"{first.dtype} and {second.dtype}"
        return TensorInfo(name, pair.shape, dtype, first.bytes + second.bytes)

    @property
    def tokenizer(self) -> str | None:
        """The file's own name, or the first part's, where it has a tokenizer inside."""
        return self.paths[0].name if "tokenizer.ggml.tokens" in self._header.lengths else None

    @cached_property
    def _config(self) -> GgufConfig:
        shapes = {name: info.shape for name, info in self.tensors.items()}
        return read_config(self._header, Stored(shapes, lambda name: self.read(name).numpy()), self._subject)

    def describe(self) -> Description:
        """The configuration, by the file's metadata.

        Raises:
            UnsupportedCheckpoint, MalformedCheckpoint: as `read_config`.
        """
        return Description(self._config.values, self._subject)

    def origins(self, skeleton: torch.nn.Module) -> Mapping[str, Origin]:
        """Every tensor under the skeleton's name for it, where it has one."""
        names = stored_names(self._gguf, self._config.name, skeleton)
        found: dict[str, Origin] = {}
        for stored in self.tensors:
            if stored in self._config.used:
                continue
            name = names.get(stored, stored)
            if name in found:
                raise MalformedCheckpoint(f"{self._subject}: the tensor {quoted(name)} is stored twice")
            found[name] = self._origin(stored)
        return found

    def _origin(self, stored: str) -> Origin:
        """Where a parameter comes from, with what undoes the conversion."""
        config, shape = self._config, self.tensors[stored].shape
        undo = next((undo for end, undo in config.architecture.undo if stored.endswith(end)), None)
        if undo is None:
            return Origin(stored, shape, parts=self._pairs[stored].parts if stored in self._pairs else 1)
        return Origin(stored, shape[::-1] if undo is transposed else shape, lambda tensor: undo(tensor, config.heads))
