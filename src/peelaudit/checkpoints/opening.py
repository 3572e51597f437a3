"""`open_checkpoint`: from a path to a checkpoint whose every tensor is known to be there."""

from __future__ import annotations

import contextlib
import copy
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from peelaudit.checkpoints.adapter import Adapter, Merged
from peelaudit.checkpoints.checkpoint import Checkpoint, check_floats, gather_info
from peelaudit.checkpoints.configuration import Description, build_config, build_skeleton, check_layer_count, describe
from peelaudit.checkpoints.conversion import named
from peelaudit.checkpoints.deepspeed import DEEPSPEED_FORMAT
from peelaudit.checkpoints.distributed import DISTRIBUTED_FORMAT
from peelaudit.checkpoints.files import quoted, read_json, take_snapshot, within
from peelaudit.checkpoints.folding import folded
from peelaudit.checkpoints.foreign import check_names
from peelaudit.checkpoints.huggingface import find_beside, find_tokenizer, find_training_step, open_weights
from peelaudit.checkpoints.inert import StoredTensor
from peelaudit.checkpoints.matching import Matched, Origin, match, stored_vocabulary
from peelaudit.checkpoints.prediction_heads import without_heads
from peelaudit.checkpoints.quantized import SETTINGS_FILES, Dequantized, refuse_codebooks_by_tensors
from peelaudit.checkpoints.safetensors_file import SafetensorsFile
from peelaudit.checkpoints.state_dict import StateDict, nanogpt_config, nanogpt_origins, recognise
from peelaudit.checkpoints.store import Store
from peelaudit.checkpoints.torch_file import TorchFile, TorchTensors
from peelaudit.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from peelaudit.filenames import CHECKPOINT_SUFFIXES, TORCH_SUFFIXES
from peelaudit.progress import SILENT, Progress

__all__ = ["Admit", "open_checkpoint"]

_OWN = frozenset({DISTRIBUTED_FORMAT, DEEPSPEED_FORMAT})
"""The formats of directories that aren't Hugging Face's."""

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
    config_paths: tuple[Path, ...] = ()
    tokenizer: str | None = None
    training_step: int | None = None
    notes: tuple[str, ...] = ()


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    admit: Admit | None = None,
    progress: Progress = SILENT,
) -> Checkpoint:
    """Open a Hugging Face directory, a `.safetensors`, torch or GGUF file, and compare all names and shapes.

    No tensor is read yet; `Checkpoint.check_weights` does that. `config` is a config.json, or a directory with one, for
    a file that has none beside it; `adapter` is the directory of a LoRA adapter, which is merged into the weights as
    they are read. Nothing is fetched, and no code of the checkpoint is run.

    `admit` is called twice with the path, the family and the configuration's values: as soon as these are read, before
    any other complaint and before anything is built of them; then with the module on the meta device besides, once all
    names and shapes are known to be there and before the files are hashed. What it raises is the complaint.

    Raises:
        CheckpointError: it isn't there, is damaged, doesn't fit its configuration, or can't be audited.
        NothingToAudit: it has no layer.
    """
    where = Path(path)
    beside = None if adapter is None else Path(adapter)
    parts = _find_parts(where, None if config is None else Path(config), beside)
    with contextlib.ExitStack() as opened:
        opened.callback(parts.store.close)
        if admit is not None:
            admit(str(where), parts.description.family, parts.description.values, None)
        found = None
        if beside is not None:
            opened.callback((found := Adapter(beside)).close)
        checkpoint = _assemble(where, parts, found, admit, progress)
        opened.pop_all()
    return checkpoint


def _assemble(
    path: Path, parts: _Parts, adapter: Adapter | None, admit: Admit | None, progress: Progress
) -> Checkpoint:
    subject = quoted(path)
    layers, method = parts.description.layers, parts.description.method
    if method is None:
        refuse_codebooks_by_tensors(parts.store.tensors, subject)
    check_layer_count(parts.store.tensors, layers, subject)
    config, skeleton, notes = _built(parts)
    store, skeleton, matched = _match(parts, skeleton, subject)
    check_floats(store, matched)
    if admit is not None:
        admit(str(path), parts.description.family, parts.description.values, copy.deepcopy(skeleton))
    files = parts.config_paths
    if adapter is not None:
        if method is not None or parts.format == "gguf":
            raise UnsupportedCheckpoint(f"{subject}: its weights are packed, so that no adapter is merged into them")
        store, files = Merged(store, matched, skeleton, adapter), (*files, *adapter.paths)
        notes = (*notes, f"the LoRA adapter {quoted(adapter.path)} was merged: the network with it was audited")
    snapshot = take_snapshot((*store.paths, *files), progress)
    info = gather_info(
        path,
        format_name=parts.format if adapter is None else f"{parts.format}+lora",
        config=config,
        skeleton=skeleton,
        store=store,
        matched=matched,
        tokenizer=parts.tokenizer,
        training_step=parts.training_step,
        sha256=snapshot.sha256,
    )
    return Checkpoint(info, config, skeleton, store, matched, snapshot, (*notes, *(method.notes if method else ())))


def _built(parts: _Parts) -> tuple[Any, torch.nn.Module, tuple[str, ...]]:
    """The configuration and its module, of as many words as the tensors have where these agree; what to say of it."""
    description = parts.description
    config = build_config(description)
    skeleton = build_skeleton(config, description.subject)
    method = description.method
    store = parts.store if method is None else Dequantized(parts.store, method)
    notes = (*description.notes, *parts.notes)
    stored = stored_vocabulary(parts.names(store, skeleton)[1], skeleton)
    if stored is None:
        return config, skeleton, notes
    said = f"the configuration says {config.vocab_size:,} words, the embedding and the head hold {stored:,}"
    config.vocab_size = stored
    return (
        config,
        build_skeleton(config, description.subject),
        (*notes, f"{said}: the network with {stored:,} was audited"),
    )


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


def _find_parts(path: Path, config: Path | None, adapter: Path | None) -> _Parts:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UnreadableCheckpoint(f"{quoted(path)}: no such file or directory") from None
    except (OSError, ValueError) as error:
        raise UnreadableCheckpoint(f"{quoted(path)}: can't be opened ({type(error).__name__})") from None
    if stat.S_ISDIR(mode):
        return _directory(path, config, adapter)
    if path.suffix == ".gguf":
        return _gguf(path)
    if path.suffix == ".safetensors":
        return _described(path, SafetensorsFile(path), config)
    if path.suffix in TORCH_SUFFIXES:
        return _torch(path, config)
    suffixes = ", ".join(CHECKPOINT_SUFFIXES)
    raise UnreadableCheckpoint(f"{quoted(path)}: expected a directory or a file that ends in one of {suffixes}")


def _directory(path: Path, config: Path | None, adapter: Path | None) -> _Parts:
    store = open_weights(path, adapter)
    return _described(path / "any", store, config)


def _described(path: Path, store: Store, config: Path | None, state: StateDict[StoredTensor] | None = None) -> _Parts:
    """Tensors under transformers' names, with a config.json that is given or stands beside them."""
    try:
        store = folded(store)
        check_names(store.tensors, store.paths[0])
        chosen = config or path.parent
        if not config or chosen.is_dir():
            chosen = within(chosen, "config.json")
        if not config and not chosen.exists():
            raise UnreadableCheckpoint(f"{quoted(path.parent)}: has no config.json; say where it is with --config")
        values, beside = read_json(chosen), find_beside(chosen.parent, SETTINGS_FILES)
        if beside is None or values.get("quantization_config"):
            beside, description = None, describe(values, quoted(chosen))
        else:
            values |= {"quantization_config": SETTINGS_FILES[beside.name](read_json(beside))}
            description = describe(values, quoted(chosen), packing=quoted(beside))
        store, notes = without_heads(store, description.values)
        step = state.training_step if state else None
        return _Parts(
            format=state.format if state else store.format if store.format in _OWN else f"huggingface/{store.format}",
            store=store,
            description=description,
            names=lambda found, skeleton: named(found, skeleton, within_wrapper=description.within_wrapper),
            config_paths=(chosen, *((beside,) if beside else ())),
            tokenizer=find_tokenizer(path.parent) or _beside(config),
            training_step=find_training_step(path.parent) if step is None else step,
            notes=notes,
        )
    except BaseException:
        store.close()
        raise


def _beside(config: Path | None) -> str | None:
    """The tokenizer's file beside a config.json that was given, which serves a checkpoint without one of its own."""
    folder = config if config is None or config.is_dir() else config.parent
    return None if folder is None or (name := find_tokenizer(folder)) is None else str(folder / name)


def _torch(path: Path, config: Path | None) -> _Parts:
    file = TorchFile(path)
    try:
        state = recognise(file.content, path, StoredTensor)
        store: Store = TorchTensors(file, state.tensors)
        if state.model_args is None:
            return _described(path, store, config, state)
        store, arguments = folded(store), state.model_args
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
