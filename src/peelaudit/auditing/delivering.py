"""A mended network written, and read back as any checkpoint is."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from peelaudit.auditing.adapting import Factors
from peelaudit.auditing.mending import Bench, Cure
from peelaudit.auditing.prepare import held_decoder
from peelaudit.calibration import write_tokenizer
from peelaudit.checkpoints import Checkpoint, open_checkpoint
from peelaudit.checkpoints.adapter import save_adapter
from peelaudit.checkpoints.patching import OwnFiles
from peelaudit.checkpoints.placing import copy_beside
from peelaudit.checkpoints.saving import other_weights, save_directory
from peelaudit.errors import CalibrationError, OutputError
from peelaudit.method.statistics.panel import Losses
from peelaudit.network.families import admit
from peelaudit.network.linear import keeps_inputs_first

__all__ = ["Written", "write_adapter", "write_network"]


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, as it was read back.

    Attributes:
        losses: [sequences] nats of *held-out*.
        sha256: of its files.
        same_files: whether they are the checkpoint's own with other values in some tensors.
        notes: what couldn't be written beside it, each a sentence.
    """

    losses: Losses
    sha256: str
    same_files: bool
    notes: tuple[str, ...] = ()


def write_network(bench: Bench, cure: Cure, losses: Losses, directory: Path, *, untie: bool) -> Written:
    """Write a network into an empty directory.

    Args:
        bench: of the checkpoint.
        cure: what is changed in it.
        losses: [sequences] nats of *held-out* that it has.
        directory: where to.
        untie: whether its head, which is tied to the embedding, is to be one of its own.

    Raises:
        OutputError: it couldn't be written, or is another network when it is read back.
    """
    checkpoint = bench.audit.checkpoint
    same = _write(bench, cure, directory, untie=untie)
    path = Path(checkpoint.info.path)
    notes = () if same or path.suffix != ".gguf" else _write_tokenizer(path, directory)
    return dataclasses.replace(
        _read_back(bench, _place(path, directory, same=same), losses), same_files=same, notes=notes
    )


def _write_tokenizer(gguf: Path, directory: Path) -> tuple[str, ...]:
    """Write the tokenizer inside a GGUF file; what to say where that can't be done."""
    try:
        write_tokenizer(gguf, directory)
    except CalibrationError as error:
        return (f"{error}: put one beside {directory.name}",)
    return ()


def write_adapter(bench: Bench, factors: Factors, rank: int, directory: Path) -> Written:
    """Write an adapter of the checkpoint into an empty directory.

    Raises:
        OSError: it couldn't be written.
    """
    checkpoint, config = bench.audit.checkpoint, bench.audit.config
    modules = dict(checkpoint.skeleton().named_modules())
    across = any(keeps_inputs_first(modules[name]) for name in factors)
    save_adapter(directory, config.checkpoint, factors, rank, across=across)
    with open_checkpoint(
        config.checkpoint, config=config.config, adapter=directory, admit=admit, progress=bench.audit.clock
    ) as merged:
        return Written(_losses(bench, merged), merged.info.sha256, same_files=False)


def _write(bench: Bench, cure: Cure, directory: Path, *, untie: bool) -> bool:
    """Write the network into an empty directory; whether by its own files."""
    checkpoint = bench.audit.checkpoint
    files = OwnFiles(checkpoint)
    try:
        same = not untie and all(files.hold(part) for part in _changed(bench, cure))
        copy_beside(checkpoint, directory, bench.audit.config.config, configured=same)
        if same:
            files.copy(directory)
            for part in _changed(bench, cure):
                files.put(directory, part)
            return True
    finally:
        files.close()
    config = copy.deepcopy(checkpoint.config)
    config.tie_word_embeddings = config.tie_word_embeddings and not untie
    save_directory(checkpoint, directory, config, _all(bench, cure, untie=untie))
    return False


def _changed(bench: Bench, cure: Cure) -> Iterator[dict[str, Tensor]]:
    """The parameters that are others, by transformers' names, a block at a time."""
    for layer in cure.layers:
        prefix = _prefix(bench, layer)
        yield {prefix + name: part for name, part in cure.decoder.block(layer).present().items()}
    if head := _head(bench.audit.checkpoint, cure):
        yield head


def _head(checkpoint: Checkpoint, cure: Cure) -> dict[str, Tensor]:
    """The head's parameters, none where it is as it was."""
    if cure.head is None:
        return {}
    parts = {checkpoint.head: cure.head.weight}
    if cure.head.bias is not None:
        parts[f"{checkpoint.head.removesuffix('weight')}bias"] = cure.head.bias
    return parts


def _all(bench: Bench, cure: Cure, *, untie: bool) -> Iterator[dict[str, Tensor]]:
    """All parameters in the dtypes that they are stored in, a block at a time."""
    checkpoint = bench.audit.checkpoint

    def stored(parts: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        return {name: part.cpu().to(checkpoint.dtype(name)) for name, part in parts}

    for layer in range(1, bench.decoder.n_layers + 1):
        prefix = _prefix(bench, layer)
        part = {name: checkpoint.tensor(name) for name in checkpoint.names() if name.startswith(prefix)}
        if layer in cure.layers:
            present = cure.decoder.block(layer).present()
            part |= {prefix + name: tensor for name, tensor in present.items()}
        yield stored(part.items())
    head = _head(checkpoint, cure)
    for part in other_weights(checkpoint, bench.decoder.family.blocks):
        yield stored((name, head.get(name, tensor)) for name, tensor in part.items())
    if untie:
        yield stored(head.items())


def _prefix(bench: Bench, layer: int) -> str:
    return f"{bench.decoder.family.blocks}.{layer - 1}."


def _place(path: Path, directory: Path, *, same: bool) -> Path:
    """What is opened of it: the directory, or the file where the checkpoint was one."""
    return directory / path.name if same and path.is_file() else directory


def _read_back(bench: Bench, path: Path, losses: Losses) -> Written:
    """Open what was written, and hold it to the losses that are told.

    Raises:
        OutputError: it has others.
    """
    with open_checkpoint(path, admit=admit, progress=bench.audit.clock) as written:
        found = _losses(bench, written)
        if not np.allclose(found, losses, rtol=1e-6):
            before, after = (bench.estimate(each).value for each in (losses, found))
            raise OutputError(
                f"{bench.audit.checkpoint.info.path}: what was written, read back, has a loss of {after:.6f}, where the"
                f" mended network has {before:.6f}: its format says more of the network than weights"
            )
        return Written(found, written.info.sha256, same_files=False)


def _losses(bench: Bench, checkpoint: Checkpoint) -> Losses:
    """[sequences] nats of *held-out* of another checkpoint of this shape."""
    audit = dataclasses.replace(bench.audit, checkpoint=checkpoint)
    decoder, _ = held_decoder(audit, audit.checked())
    return bench.losses_of(decoder, None)
