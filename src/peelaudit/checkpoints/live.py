"""A module in memory as a checkpoint: its weights are copied as they are read, and nothing of it is called."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from peelaudit.checkpoints.checkpoint import Checkpoint, check_floats, gather_info
from peelaudit.checkpoints.configuration import Description, build_config, build_skeleton, describe
from peelaudit.checkpoints.conversion import named
from peelaudit.checkpoints.files import Snapshot
from peelaudit.checkpoints.matching import match
from peelaudit.checkpoints.opening import Admit
from peelaudit.checkpoints.state_dict import is_nanogpt, nanogpt_config, nanogpt_origins
from peelaudit.checkpoints.store import FLOATS, as_bytes
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.progress import SILENT, Progress
from peelaudit.records import TensorInfo

__all__ = ["open_module"]

_WITHIN = ("module", "_orig_mod", "model")
"""Where the network is in what is wrapped around it: data parallelism, torch.compile, Lightning's modules."""


def open_module(model: nn.Module, *, admit: Admit | None = None, progress: Progress = SILENT) -> Checkpoint:
    """A causal language model of transformers, or nanoGPT's, as it is now.

    Raises:
        CheckpointError: it is none, or its weights aren't here.
    """
    inner, config = _within(model)
    name = type(inner).__name__
    store = _LiveTensors(inner, name)
    arguments = _nanogpt_arguments(config)
    if arguments is None:
        description = describe(config.to_dict(), name)
    else:
        description = Description(nanogpt_config(arguments, name), name)
    if description.method is not None:
        raise UnsupportedCheckpoint(f"{name}: its weights are packed; audit the checkpoint that they came from")
    if admit is not None:
        admit(name, description.family, description.values, None)
    built = build_config(description)
    skeleton = build_skeleton(built, name)
    if arguments is None:
        read, found = named(store, skeleton, within_wrapper=description.within_wrapper)
    else:
        read, found = store, nanogpt_origins(store, arguments, name)
    matched = match(found, skeleton, name, within_wrapper=description.within_wrapper)
    check_floats(read, matched)
    if admit is not None:
        admit(name, description.family, description.values, copy.deepcopy(skeleton))
    sha256 = store.digest(progress)
    info = gather_info(
        Path(name),
        format_name="module",
        config=built,
        skeleton=skeleton,
        store=read,
        matched=matched,
        tokenizer=None,
        training_step=None,
        sha256=sha256,
        size=sum(tensor.bytes for tensor in store.tensors.values()),
    )
    info = dataclasses.replace(info, files=())
    return Checkpoint(info, built, skeleton, read, matched, Snapshot((), (), sha256), description.notes)


class _LiveTensors:
    """The tensors of a module's state dict, as a store: what is read is a copy."""

    format = "module"
    floats: Collection[str] = FLOATS

    def __init__(self, model: nn.Module, name: str) -> None:
        self.paths = (Path(name),)
        self._state = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
        if away := next((key for key, value in self._state.items() if value.is_meta), None):
            raise UnsupportedCheckpoint(f"{name}: the weight {away!r} isn't in memory")
        self.tensors: Mapping[str, TensorInfo] = {
            key: TensorInfo(key, tuple(value.shape), str(value.dtype).removeprefix("torch."), value.nbytes)
            for key, value in self._state.items()
        }

    def read(self, name: str) -> Tensor:
        """A copy of the tensor of that name, on the CPU."""
        return self._state[name].detach().to("cpu", copy=True)

    def digest(self, progress: Progress) -> str:
        """SHA-256 of all names and values."""
        progress.stage("hash the weights", len(self._state))
        digest = hashlib.sha256()
        for name, tensor in sorted(self._state.items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(as_bytes(tensor))
            progress.advance()
        return digest.hexdigest()

    def close(self) -> None:
        """Let go of them."""
        self._state = {}


def _within(model: nn.Module) -> tuple[nn.Module, Any]:
    """The network and its configuration, in or under what is wrapped around it.

    Raises:
        UnsupportedCheckpoint: there is none.
    """
    seen: nn.Module | None = model
    while isinstance(seen, nn.Module):
        config = getattr(seen, "config", None)
        if hasattr(config, "to_dict") or _nanogpt_arguments(config) is not None:
            return seen, config
        seen = next((inner for name in _WITHIN if isinstance(inner := getattr(seen, name, None), nn.Module)), None)
    raise UnsupportedCheckpoint(
        f"{type(model).__name__}: has no config of transformers or of nanoGPT, so what it computes isn't known"
    )


def _nanogpt_arguments(config: object) -> Mapping[str, Any] | None:
    """The arguments of nanoGPT's own class; None of anything else."""
    values = vars(config) if dataclasses.is_dataclass(config) and not isinstance(config, type) else {}
    return values if is_nanogpt(values) else None
