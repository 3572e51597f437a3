"""A checkpoint's own files again, with the bytes of some tensors replaced: all else in them stays as it is.

That way a training checkpoint keeps its optimizer, and a directory its shards, without anything of them being run or
understood.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from peelaudit.checkpoints.checkpoint import Checkpoint
from peelaudit.checkpoints.files import within
from peelaudit.checkpoints.huggingface import open_file
from peelaudit.checkpoints.safetensors_file import SafetensorsFile
from peelaudit.checkpoints.saving import as_saved
from peelaudit.checkpoints.store import FLOATS, close_all
from peelaudit.checkpoints.torch_file import TorchTensors
from peelaudit.filenames import WEIGHT_FILES

__all__ = ["OwnFiles"]

_KEPT = ("huggingface/safetensors", "huggingface/torch", "nanogpt", "torch", "lightning")
"""Formats whose files hold the network as it is: no adapter beside them, no optimizer's copy of the weights."""


class OwnFiles:
    """The files of a checkpoint's weights, open until `close`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._files: dict[str, SafetensorsFile | TorchTensors] = {}
        if checkpoint.info.format in _KEPT:
            for path in checkpoint.paths:
                file = open_file(path)
                self._files.update(dict.fromkeys(file.tensors, file))

    def hold(self, names: Iterable[str]) -> bool:
        """Whether these parameters lie in the files as plain floats, so that others can be put there."""
        weights = {name: self._checkpoint.tensor(name) for name in names}
        return bool(self._files) and all(self._has(name, part) for name, part in self._parts(weights).items())

    def _has(self, name: str, tensor: Tensor) -> bool:
        file = self._files.get(name)
        return file is not None and file.tensors[name].dtype in FLOATS and torch.equal(file.read(name), tensor)

    def copy(self, directory: Path) -> None:
        """Copy the files into a directory, as they are, and the index of several.

        Raises:
            OSError: they can't be.
        """
        folder = Path(self._checkpoint.info.path)
        found = next((name for name in WEIGHT_FILES if (folder / name).exists()), "")
        index = [within(folder, found)] if found.endswith(".index.json") else []
        for path in (*self._checkpoint.paths, *index):
            shutil.copyfile(path, directory / path.name)

    def put(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Put parameters that the files hold, in the dtypes that they are stored in, into the copies.

        Raises:
            OSError: they can't be.
        """
        for name, tensor in self._parts(weights).items():
            file = self._files[name]
            with (directory / file.paths[0].name).open("r+b") as handle:
                file.overwrite(handle, name, tensor.to(FLOATS[file.tensors[name].dtype]))

    def _parts(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What these parameters are read from, by their stored names: those that transformers makes of others as it
        reads them are taken apart by its own code.
        """
        plain: dict[str, Tensor] = {}
        made: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            origin = self._checkpoint.origin(name)
            if origin.stored in self._files:
                plain[origin.stored] = tensor if origin.change is None else origin.change(tensor)
            else:
                made[name] = tensor
        return plain | as_saved(self._checkpoint, made)

    def close(self) -> None:
        """Release the files."""
        close_all(set(self._files.values()))
