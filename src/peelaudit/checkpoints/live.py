"""A module in memory as a checkpoint: its weights are copied as they are read, and nothing of it is called."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from peelaudit.checkpoints.checkpoint import Checkpoint, check_floats, gather_info
from peelaudit.checkpoints.configuration import Description, build_config, build_skeleton, describe
from peelaudit.checkpoints.conversion import named
from peelaudit.checkpoints.files import Snapshot
from peelaudit.checkpoints.matching import match
from peelaudit.checkpoints.opening import Admit
from peelaudit.checkpoints.split import check_whole, is_part
from peelaudit.checkpoints.state_dict import is_nanogpt, nanogpt_config, nanogpt_origins
from peelaudit.checkpoints.store import FLOATS, as_bytes
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.progress import SILENT, Progress
from peelaudit.records import TensorInfo

__all__ = ["open_module"]

_LEFT_OUT = ("module", "_orig_mod")
_WITHIN = (*_LEFT_OUT, "model")
"""Where the network is in what is wrapped around it: data parallelism, torch.compile, Lightning's modules."""


def open_module(
    model: nn.Module,
    state: Mapping[str, Tensor] | None = None,
    *,
    admit: Admit | None = None,
    progress: Progress = SILENT,
) -> Checkpoint:
    """A causal language model of transformers, or nanoGPT's, as it is now.

    Args:
        model: the module, also within a wrapper.
        state: its state dict, or the wrapper's, where the module itself is split over processes.
        admit: asked whether its family is opened.
        progress: told of hashing.

    Raises:
        CheckpointError: it is none, or its weights aren't here.
    """
    inner, config, path = _within(model)
    name = type(inner).__name__
    if state is None:
        check_whole(model, name)
    store = _LiveTensors(_tensors(inner.state_dict()) if state is None else _unwrapped(state, path), name)
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

    def __init__(self, state: Mapping[str, Tensor], name: str) -> None:
        self.paths = (Path(name),)
        self._state = state
        if away := next((key for key, value in self._state.items() if value.is_meta), None):
            raise UnsupportedCheckpoint(f"{name}: the weight {away!r} isn't in memory")
        if part := next((key for key, value in self._state.items() if is_part(value)), None):
            raise UnsupportedCheckpoint(f"{name}: of the weight {part!r} this process has a part alone")
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


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _unwrapped(state: Mapping[str, Any], path: Sequence[str]) -> dict[str, Tensor]:
    """A state dict by the network's own names, of what the network is at this path of.

    Torch leaves wrappers for data parallelism and compilation out of the names that it gathers.
    """
    tensors = _tensors(state)
    for steps in (path, [step for step in path if step not in _LEFT_OUT]):
        prefix = "".join(f"{step}." for step in steps)
        if prefix and all(key.startswith(prefix) for key in tensors):
            return {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _within(model: nn.Module) -> tuple[nn.Module, Any, Sequence[str]]:
    """The network, its configuration and its path in or under what is wrapped around it.

    Raises:
        UnsupportedCheckpoint: there is none.
    """
    seen, path = model, list[str]()
    while True:
        config = vars(seen).get("config")  # its own: FSDP's wrapper passes on what is asked for
        if hasattr(config, "to_dict") or _nanogpt_arguments(config) is not None:
            return seen, config, path
        step = next((name for name in _WITHIN if isinstance(getattr(seen, name, None), nn.Module)), None)
        if step is None:
            break
        seen, path = getattr(seen, step), [*path, step]
    raise UnsupportedCheckpoint(
        f"{type(model).__name__}: has no config of transformers or of nanoGPT, so what it computes isn't known"
    )


def _nanogpt_arguments(config: object) -> Mapping[str, Any] | None:
    """The arguments of nanoGPT's own class; None of anything else."""
    values = vars(config) if dataclasses.is_dataclass(config) and not isinstance(config, type) else {}
    return values if is_nanogpt(values) else None
