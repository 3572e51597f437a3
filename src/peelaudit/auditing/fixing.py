"""A mended checkpoint from settings to directory: made, judged on *held-out*, written, and read back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from peelaudit.auditing.mending import Bench, Cure
from peelaudit.auditing.run import Prepared, held_decoder, prepared, versions
from peelaudit.checkpoints import Checkpoint, open_checkpoint
from peelaudit.checkpoints.patching import OwnFiles
from peelaudit.checkpoints.placing import check_place, copy_beside, placed
from peelaudit.checkpoints.saving import other_weights, save_directory
from peelaudit.errors import ConfigError, NothingToFix, OutputError
from peelaudit.filenames import FIX_RECORD
from peelaudit.method.statistics.panel import Losses
from peelaudit.network.families import admit
from peelaudit.network.weights import check_weights
from peelaudit.progress import SILENT, Progress
from peelaudit.records import Fix, FixKind
from peelaudit.records.json import dump
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.rules import Selector

__all__ = ["Wish", "fix"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to become of a checkpoint.

    Attributes:
        out: the directory that is written.
        layers: that are refined, one after another; those that an audit names; None for all together.
        head: whether the head is refitted too.
        untie: whether one that is tied to the embedding is made one of its own for that.
        force: whether what an earlier fix wrote there is replaced.
    """

    out: Path
    layers: Selector | Literal["named"] | None = None
    head: bool = False
    untie: bool = False
    force: bool = False


def fix(config: AuditConfig, wish: Wish, *, progress: Progress = SILENT) -> Fix:
    """Write the checkpoint with blocks that predict better.

    Args:
        config: the settings; the readout is the network's own head, or the one that is refitted.
        wish: what is done, and where it is written.
        progress: told of each stage.

    Raises:
        NothingToFix: no change gains on *held-out*, interval and all; nothing was written.
        PeelauditError: as `audit_config`.
    """
    check_place(wish.out, Path(config.checkpoint), force=wish.force)
    with prepared(config, progress=progress) as audit:
        tied = audit.checkpoint.info.tied_head
        head = wish.head and (wish.untie or not tied)
        left = "the head is tied to the embedding: without --untie it was left as it is"
        notes = (left,) if wish.head and not head else ()
        readout: Literal["refit", "own"] = "refit" if head else "own"
        bench = Bench(dataclasses.replace(audit, config=dataclasses.replace(audit.config, readout=readout)))
        cure = _cured(bench, wish)
        losses = bench.losses_of(cure.decoder, cure.head)
        _check_gain(bench, losses)
        with placed(wish.out) as directory:
            same = _write(bench, cure, directory, untie=tied and cure.head is not None)
            sha256 = _read_back(bench, _written(audit, directory, same=same), losses)
            audit.checkpoint.check_unchanged()
            bench.calibration.check_unchanged()
            found = Fix(
                kind=FixKind.REFINED if wish.layers is None else FixKind.LAYERS,
                checkpoint=audit.checkpoint.info.path,
                checkpoint_sha256=audit.checkpoint.info.sha256,
                out=str(wish.out),
                written_sha256=sha256,
                same_files=same,
                data=bench.calibration.info,
                effort=config.effort,
                layers=cure.layers,
                dropped=(),
                head=cure.head is not None,
                rank=None,
                steps=cure.steps,
                products=cure.products,
                before=bench.estimate(bench.losses),
                after=bench.estimate(losses),
                gain=bench.estimate(bench.losses - losses),
                notes=(*notes, *audit.checkpoint.notes),
                versions=versions(),
            )
            (directory / FIX_RECORD).write_text(dump(found, Fix), encoding="utf-8")
    return found


def _cured(bench: Bench, wish: Wish) -> Cure:
    """The network with what was asked for.

    Raises:
        ConfigError: a layer isn't there, or none is refined alone with that effort.
        NothingToFix: nothing helps on *select*.
    """
    if wish.layers is None:
        cure = bench.refined()
    else:
        reach, n_layers = bench.audit.extent.alone, bench.decoder.n_layers
        if reach is None:
            raise ConfigError("--layers needs --effort default or thorough")
        if wish.layers == "named":
            layers = bench.named(reach)
        else:
            if missing := wish.layers.beyond(n_layers):
                raise ConfigError(f"--layers has {', '.join(missing)}: the network has {n_layers} layers")
            layers = tuple(layer for layer in range(1, n_layers + 1) if layer in wish.layers)
        cure = bench.one_by_one(layers, reach)
    if not cure.layers and cure.head is None:
        raise NothingToFix("nothing that was tried gains on the text that decides: nothing was written")
    return cure


def _check_gain(bench: Bench, losses: Losses) -> None:
    """Raise NothingToFix unless the whole interval of the gain is above 0."""
    gain = bench.estimate(bench.losses - losses)
    if gain.low <= 0:
        told = f"{gain.value:+.4f} nats/token, {gain.low:+.4f} to {gain.high:+.4f}"
        raise NothingToFix(f"what was refined gains {told} on held-out text: nothing was written")


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


def _written(audit: Prepared, directory: Path, *, same: bool) -> Path:
    """What is opened of it: the directory, or the file where the checkpoint was one."""
    path = Path(audit.checkpoint.info.path)
    return directory / path.name if same and path.is_file() else directory


def _read_back(bench: Bench, path: Path, losses: Losses) -> str:
    """Open what was written as any checkpoint, and hold it to the losses that are told; its digest.

    Raises:
        OutputError: it has others.
    """
    with open_checkpoint(path, admit=admit, progress=bench.audit.clock) as written:
        audit = dataclasses.replace(bench.audit, checkpoint=written)
        decoder, _ = held_decoder(audit, check_weights(written, bench.audit.clock))
        found = bench.losses_of(decoder, None)
        if not np.allclose(found, losses, rtol=1e-6):
            before, after = (bench.estimate(each).value for each in (losses, found))
            raise OutputError(
                f"{path.name}, read back, has a loss of {after:.6f}, where the mended network has {before:.6f}:"
                " its format says more of the network than weights; nothing was written"
            )
        return written.info.sha256
