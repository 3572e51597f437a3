"""`open_checkpoint`: from a path to a checkpoint whose every tensor is known to be there."""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from peelaudit.checkpoints.checkpoint import Checkpoint, check_floats, gather_info
from peelaudit.checkpoints.configuration import Description, build_config, build_skeleton, check_layer_count, describe
from peelaudit.checkpoints.conversion import Converted
from peelaudit.checkpoints.files import quoted, read_json, take_snapshot
from peelaudit.checkpoints.huggingface import find_tokenizer, find_training_step, open_weights
from peelaudit.checkpoints.matching import Matched, Origin, match, rename
from peelaudit.checkpoints.quantized import Dequantized
from peelaudit.checkpoints.safetensors_file import SafetensorsFile
from peelaudit.checkpoints.state_dict import StateDict, nanogpt_config, nanogpt_origins, recognise
from peelaudit.checkpoints.store import Store
from peelaudit.checkpoints.torch_file import TorchFile, TorchTensors
from peelaudit.errors import UnreadableCheckpoint
from peelaudit.filenames import CHECKPOINT_SUFFIXES, TORCH_SUFFIXES
from peelaudit.progress import SILENT, Progress

__all__ = ["Admit", "open_checkpoint"]

Names = Callable[[Store, torch.nn.Module], tuple[Store, Mapping[str, Origin]]]
"""From a format's tensors and the module to a store of what the parameters are made of, and where each comes from."""
Admit = Callable[[str, str, Mapping[str, Any], torch.nn.Module | None], object]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a format's module found, before anything is compared."""

    format: str
    store: Store
    description: Description
    names: Names
    config_path: Path | None = None
    tokenizer: str | None = None
    training_step: int | None = None


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    admit: Admit | None = None,
    progress: Progress = SILENT,
) -> Checkpoint:
    """Open a Hugging Face directory, a `.safetensors`, torch or GGUF file, and compare all names and shapes.

    No tensor is read yet; `Checkpoint.check_weights` does that. `config` is a config.json, or a directory with one, for
    a file that has none beside it. Nothing is fetched, and no code of the checkpoint is run.

    `admit` is called twice with the path, the family and the configuration's values: as soon as these are read, before
    any other complaint and before anything is built of them; then with the module on the meta device besides, once all
    names and shapes are known to be there and before the files are hashed. What it raises is the complaint.

    Raises:
        CheckpointError: it isn't there, is damaged, doesn't fit its configuration, or can't be audited.
        NothingToAudit: it has no layer.
    """
    where = Path(path)
    parts = _find_parts(where, None if config is None else Path(config))
    try:
        if admit is not None:
            admit(str(where), parts.description.family, parts.description.values, None)
        return _assemble(where, parts, admit, progress)
    except BaseException:
        parts.store.close()
        raise


def _assemble(path: Path, parts: _Parts, admit: Admit | None, progress: Progress) -> Checkpoint:
    subject = quoted(path)
    layers, method = parts.description.layers, parts.description.method
    check_layer_count(parts.store.tensors, layers, subject)
    config = build_config(parts.description)
    skeleton = build_skeleton(config, parts.description.subject)
    store, skeleton, matched = _match(parts, skeleton, subject)
    check_floats(store, matched)
    if admit is not None:
        admit(str(path), parts.description.family, parts.description.values, copy.deepcopy(skeleton))
    snapshot = take_snapshot((*store.paths, *((parts.config_path,) if parts.config_path else ())), progress)
    info = gather_info(
        path,
        format_name=parts.format,
        config=config,
        skeleton=skeleton,
        store=store,
        matched=matched,
        tokenizer=parts.tokenizer,
        training_step=parts.training_step,
        sha256=snapshot.sha256,
    )
    notes = (*parts.description.notes, *(method.notes if method else ()))
    return Checkpoint(info, config, skeleton, store, matched, snapshot, notes)


def _match(parts: _Parts, skeleton: torch.nn.Module, subject: str) -> tuple[Store, torch.nn.Module, Matched]:
    """The store of what the parameters are made of, the skeleton with what a quantisation computes beside them, and
    where each parameter comes from.
    """
    method, store = parts.description.method, parts.store
    if method is None:
        store, found = parts.names(store, skeleton)
    else:
        packed = Dequantized(store, method)
        skeleton = method.prepare(skeleton)
        store, found = parts.names(packed, skeleton)
        found = packed.origins(found, skeleton)
    return store, skeleton, match(found, skeleton, subject, within_wrapper=parts.description.within_wrapper)


def _find_parts(path: Path, config: Path | None) -> _Parts:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UnreadableCheckpoint(f"{quoted(path)}: no such file or directory") from None
    except (OSError, ValueError) as error:
        raise UnreadableCheckpoint(f"{quoted(path)}: can't be opened ({type(error).__name__})") from None
    if stat.S_ISDIR(mode):
        return _directory(path, config)
    if path.suffix == ".gguf":
        return _gguf(path)
    if path.suffix == ".safetensors":
        return _described(path, SafetensorsFile(path), config)
    if path.suffix in TORCH_SUFFIXES:
        return _torch(path, config)
    suffixes = ", ".join(CHECKPOINT_SUFFIXES)
    raise UnreadableCheckpoint(f"{quoted(path)}: expected a directory or a file that ends in one of {suffixes}")


def _directory(path: Path, config: Path | None) -> _Parts:
    store = open_weights(path)
    return _described(path / "any", store, config)


def _described(path: Path, store: Store, config: Path | None, state: StateDict | None = None) -> _Parts:
    """Tensors under transformers' names, with a config.json that is given or stands beside them."""
    try:
        chosen = config or path.parent
        if not config or chosen.is_dir():
            chosen /= "config.json"
        if not config and not chosen.exists():
            raise UnreadableCheckpoint(f"{quoted(path.parent)}: has no config.json; say where it is with --config")
        description = describe(read_json(chosen), quoted(chosen))
        step = state.training_step if state else None
        return _Parts(
            format=state.format if state else f"huggingface/{store.format}",
            store=store,
            description=description,
            names=lambda found, skeleton: _named(found, skeleton, within_wrapper=description.within_wrapper),
            config_path=chosen,
            tokenizer=find_tokenizer(path.parent) or _beside(config),
            training_step=find_training_step(path.parent) if step is None else step,
        )
    except BaseException:
        store.close()
        raise


def _named(store: Store, skeleton: torch.nn.Module, *, within_wrapper: bool) -> tuple[Store, Mapping[str, Origin]]:
    """The tensors as transformers has them once it has read them, by its names."""
    made = Converted(store, skeleton, within_wrapper=within_wrapper)
    return made, rename(made, skeleton, made=made.made, within_wrapper=within_wrapper)


def _beside(config: Path | None) -> str | None:
    """The tokenizer's file beside a config.json that was given, which serves a checkpoint without one of its own."""
    folder = config if config is None or config.is_dir() else config.parent
    return None if folder is None or (name := find_tokenizer(folder)) is None else str(folder / name)


def _torch(path: Path, config: Path | None) -> _Parts:
    file = TorchFile(path)
    try:
        state = recognise(file.content, path)
        store = TorchTensors(file, state.tensors)
        if state.model_args is None:
            return _described(path, store, config, state)
        arguments = state.model_args
        description = Description(nanogpt_config(arguments, quoted(path)), quoted(path))
    except BaseException:
        file.close()
        raise
    return _Parts(
        format=state.format,
        store=store,
        description=description,
        names=lambda found, _: (found, nanogpt_origins(found, arguments, quoted(path))),
        tokenizer=find_tokenizer(path.parent) or _beside(config),
        training_step=state.training_step,
    )


def _gguf(path: Path) -> _Parts:
    from peelaudit.checkpoints.gguf_file import GgufFile

    store = GgufFile(path)
    try:
        description = store.describe()
    except BaseException:
        store.close()
        raise
    return _Parts(
        format="gguf",
        store=store,
        description=description,
        names=lambda found, skeleton: (found, store.origins(skeleton)),
        tokenizer=store.tokenizer,
    )
