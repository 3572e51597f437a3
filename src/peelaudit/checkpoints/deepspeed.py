"""A directory of DeepSpeed: the 16-bit weights of ZeRO stages 0 to 2, stage 3's in float32, a universal checkpoint's.

    global_step100/mp_rank_00_model_states.pt       {"module": state dict, …}, by torch.save
    global_step100_universal/zero/<name>/fp32.pt    {"param": tensor, …}, one file a parameter
    latest, latest_universal                        beside them: the name of the step's directory

A universal checkpoint of ZeRO stage 3 has each parameter's elements in a row; their shape is among the `param_shapes`
of the model states beside `zero`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path

import torch

from peelaudit.checkpoints.files import OpenFile, quoted, within
from peelaudit.checkpoints.inert import StoredTensor
from peelaudit.checkpoints.state_dict import recognise
from peelaudit.checkpoints.store import FLOATS, MAX_TENSORS, Store
from peelaudit.checkpoints.torch_file import TorchFile, TorchTensors
from peelaudit.checkpoints.zero_stage_3 import Stage3Tensors, param_shapes
from peelaudit.errors import MalformedCheckpoint, UnreadableCheckpoint, UnsupportedCheckpoint
from peelaudit.filenames import DEEPSPEED
from peelaudit.records import TensorInfo

__all__ = ["DEEPSPEED_FORMAT", "open_deepspeed"]

DEEPSPEED_FORMAT = "deepspeed"
_LATEST = ("latest", "latest_universal")
_MOST_ENTRIES = 4 * MAX_TENSORS


def open_deepspeed(directory: Path) -> Store | None:
    """The weights of a step's directory, or of one with several that says which is the latest; None if it is neither.

    Raises:
        CheckpointError: they are split over ranks, or damaged.
    """
    step = _latest(directory) or directory
    if (step / "zero").is_dir():
        return _Universal(step)
    names = _names(step)
    subject = quoted(step)
    ranked = _ranked(names)
    if any("mp_rank_01_" in name or name.startswith("layer_") for name in ranked):
        raise UnsupportedCheckpoint(
            f"{subject}: its weights are split over model-parallel ranks; run DeepSpeed's ds_to_universal.py and name"
            " what that writes"
        )
    if DEEPSPEED in names:
        return _Consolidated(within(step, DEEPSPEED))
    if any(name.startswith("zero_pp_rank_") for name in ranked):
        return Stage3Tensors(step, names, DEEPSPEED_FORMAT)
    return None


def _latest(directory: Path) -> Path | None:
    """The step's directory that the file `latest` names."""
    for name in _LATEST:
        if (directory / name).is_file():
            with OpenFile(within(directory, name)) as file:
                text = bytes(file.read(0, min(file.size, 256))).decode("utf-8", "replace").strip()
            found = within(directory, text)
            if found.is_dir():
                return found
    return None


def _names(directory: Path) -> set[str]:
    try:
        with os.scandir(directory) as entries:
            return {entry.name for entry in islice(entries, _MOST_ENTRIES)}
    except OSError as error:
        raise UnreadableCheckpoint(f"{quoted(directory)}: can't be listed ({type(error).__name__})") from None


def _ranked(names: Collection[str]) -> set[str]:
    return {name for name in names if name.endswith(("_model_states.pt", "-model_states.pt"))}


def _shapes(step: Path) -> Mapping[str, tuple[int, ...]]:
    """The parameters' shapes as the first rank's model states list them; none where it has none."""
    for name in sorted(_ranked(_names(step)))[:1]:
        file = TorchFile(within(step, name))
        file.close()
        return param_shapes(file.content)
    return {}


class _Consolidated(TorchTensors):
    """The state dict that rank 0 wrote whole."""

    format = DEEPSPEED_FORMAT

    def __init__(self, path: Path) -> None:
        """Open it; raises as `TorchFile` and `TorchTensors`."""
        file = TorchFile(path)
        try:
            super().__init__(file, recognise(file.content, path, StoredTensor).tensors)
        except BaseException:
            file.close()
            raise


class _Universal:
    """A universal checkpoint's parameters, a file each."""

    format = DEEPSPEED_FORMAT
    floats: Collection[str] = FLOATS

    def __init__(self, step: Path) -> None:
        """Look into every parameter's file.

        Raises:
            UnreadableCheckpoint: a file isn't there.
            MalformedCheckpoint: one is damaged, or holds no tensor.
        """
        directory = within(step, "zero")
        self._shapes = _shapes(step)
        names = sorted(name for name in _names(directory) if (directory / name).is_dir())
        if len(names) > MAX_TENSORS:
            raise MalformedCheckpoint(f"{quoted(directory)}: {len(names)} parameters are more than any model has")
        self._files = {name: within(within(directory, name), "fp32.pt") for name in names}
        self.paths = tuple(self._files.values())
        self.tensors: Mapping[str, TensorInfo] = {name: self._described(name) for name in names}

    def _described(self, name: str) -> TensorInfo:
        file, tensor = self._open(name)
        file.close()
        shape = self._shapes.get(name, tensor.shape)
        in_a_row = tensor.shape == (math.prod(shape),)
        return TensorInfo(name, shape if in_a_row else tensor.shape, tensor.dtype, tensor.bytes)

    def _open(self, name: str) -> tuple[TorchFile, StoredTensor]:
        """A parameter's file, which is the caller's to close, and the tensor that it holds."""
        path = self._files[name]
        file = TorchFile(path)
        try:
            content = file.content
            found = content.get("param") if isinstance(content, dict) else content
            if not isinstance(found, StoredTensor):
                raise MalformedCheckpoint(f"{quoted(path)}: holds no parameter")
            file.record_of(name, found)
        except BaseException:
            file.close()
            raise
        return file, found

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that name, on the CPU; raises as `TorchArchive.read`."""
        file, tensor = self._open(name)
        try:
            return file.read(name, tensor).reshape(self.tensors[name].shape)
        finally:
            file.close()

    def close(self) -> None:
        """Nothing: files are opened to read a parameter and closed again."""
