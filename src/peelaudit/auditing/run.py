"""One audit from settings to report: orchestration only."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from peelaudit.auditing.alike import check_vocabulary
from peelaudit.auditing.caching import Resumption
from peelaudit.auditing.cautions import bits_warnings, calibration_warnings, experts_warnings, rank_warnings
from peelaudit.auditing.conclude import Findings, conclude
from peelaudit.auditing.effort import Extent, expected_passes, extent
from peelaudit.auditing.feeding import fed
from peelaudit.auditing.identity import key_of
from peelaudit.auditing.measure import Measurer
from peelaudit.auditing.measurements import Measurements, ParentLosses
from peelaudit.auditing.memory import limit_memory
from peelaudit.auditing.parent import parent_losses, parent_warnings
from peelaudit.auditing.precision import exact_float32
from peelaudit.auditing.resuming import Kept, place_key
from peelaudit.calibration import Calibration, Held, check_given, load_calibration
from peelaudit.calibration.drawing import cut_short
from peelaudit.checkpoints import Checkpoint, open_checkpoint
from peelaudit.checkpoints.live import open_module
from peelaudit.errors import ConfigError, OutputError
from peelaudit.method.diagnosis.naming import naming_warnings
from peelaudit.method.references.schedules import SchedulePlan, parse_schedules
from peelaudit.method.refinement.files import block_path, load_block, load_head, save_block, save_head
from peelaudit.method.refinement.refine import Refined
from peelaudit.method.statistics.panel import Losses
from peelaudit.network.counterparts import check_alike
from peelaudit.network.decoder import Decoder
from peelaudit.network.families import admit, family_of
from peelaudit.network.lowbit import Grids
from peelaudit.network.memory import Memory
from peelaudit.network.states import StateStore
from peelaudit.network.weights import check_weights
from peelaudit.progress import SILENT, Clock, Progress
from peelaudit.records import SCHEMA_VERSION, AuditReport, CheckpointInfo, LowBit, Parent
from peelaudit.settings.audit import AuditConfig, Device, Dtype
from peelaudit.settings.bits import parse_bits
from peelaudit.version import __version__

__all__ = [
    "Live",
    "Prepared",
    "Save",
    "audit_config",
    "audit_prepared",
    "held_decoder",
    "prepared",
    "tool_version",
    "versions",
]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An audit before anything heavy: the checkpoint open and hashed, the calibration tokens in their splits.

    `config` is resolved: its device, dtype and seq_len are those that will be used. With `checkpoint.info` and
    `calibration.info` it is all that the result depends on, but for the `parent`, if there is one; `notes` are what is
    to be said of that.
    """

    config: AuditConfig
    checkpoint: Checkpoint
    plan: SchedulePlan
    extent: Extent
    calibration: Calibration
    clock: Clock
    parent: Checkpoint | None = None
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The audit's: of another one that finds the same, it is the same."""
        parent = None if self.parent is None else self.parent.info
        return key_of(self.config, self.checkpoint.info, self.calibration.info, tool_version(), parent=parent)


@dataclass(frozen=True, slots=True)
class Live:
    """A module in memory.

    Attributes:
        model: the module.
        held: the texts that a program holds; None where files are named.
        state: its state dict, where it is split over processes.
    """

    model: nn.Module
    held: Held | None
    state: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Save:
    """Directories for blocks that were refined: each alone, and all together with the head that they are read by."""

    repairs: Path | None = None
    refined: Path | None = None


NOTHING = Save()


def audit_config(
    config: AuditConfig,
    *,
    live: Live | None = None,
    save: Save = NOTHING,
    resumption: Resumption | None = None,
    opened: Callable[[CheckpointInfo], None] | None = None,
    progress: Progress = SILENT,
) -> AuditReport:
    """Audit one checkpoint.

    Args:
        config: the settings.
        live: what is audited instead of a checkpoint.
        save: where refined blocks are written.
        resumption: where what is found is kept until its `end`, so that an audit that was killed goes on; nowhere if
            None.
        opened: given what is known of the checkpoint before anything is computed; what it raises ends the audit.
        progress: told of each stage.

    Raises:
        PeelauditError: see `peelaudit.errors` for what can go wrong.
    """
    with prepared(config, live=live, progress=progress) as audit:
        if opened is not None:
            opened(audit.checkpoint.info)
        return audit_prepared(audit, save=save, resumption=resumption)


@contextlib.contextmanager
def prepared(config: AuditConfig, *, live: Live | None = None, progress: Progress = SILENT) -> Iterator[Prepared]:
    """The audit that `config` asks for, up to where it becomes heavy; the checkpoint is closed at the end.

    Args:
        config: the settings.
        live: what is audited instead of a checkpoint; then of the settings `data` is used where that holds no text.
        progress: told of each stage.

    Raises:
        PeelauditError: as `audit_config`.
    """
    clock = Clock(progress)
    config = dataclasses.replace(config, device=_device(config), dtype=_dtype(config))
    check_given(config)  # before hundreds of gigabytes are hashed
    with exact_float32(), _opened(config, live, clock) as checkpoint, _parent(config, clock) as parent:
        if parent is not None:
            check_alike(parent, checkpoint)
        wanted = extent(config, checkpoint.info.layers)
        plan = parse_schedules(wanted.schedules, checkpoint.info.layers)
        held = None if live is None else live.held
        calibration = load_calibration(config, checkpoint.info, held=held, progress=clock)
        resolved = dataclasses.replace(config, seq_len=calibration.info.seq_len)
        notes = () if parent is None else parent.notes
        if parent is not None and held is None:
            notes += check_vocabulary(config, calibration, checkpoint, parent)
        yield Prepared(resolved, checkpoint, plan, wanted, calibration, clock, parent, notes)


def _opened(config: AuditConfig, live: Live | None, clock: Clock) -> Checkpoint:
    if live is not None:
        return open_module(live.model, live.state, admit=admit, progress=clock)
    path = Path(config.checkpoint)
    return open_checkpoint(path, config=config.config, adapter=config.adapter, admit=admit, progress=clock)


def _parent(config: AuditConfig, clock: Clock) -> contextlib.AbstractContextManager[Checkpoint | None]:
    if config.parent is None:
        return contextlib.nullcontext()
    return open_checkpoint(Path(config.parent), config=config.config, admit=admit, progress=clock)


def audit_prepared(audit: Prepared, *, save: Save = NOTHING, resumption: Resumption | None = None) -> AuditReport:
    """The rest of the audit, see `audit_config`.

    Raises:
        PeelauditError: as `audit_config`; the checkpoint having changed meanwhile is one.
    """
    config, checkpoint, clock, wanted = audit.config, audit.checkpoint, audit.clock, audit.extent
    grids = check_weights(checkpoint, clock)
    decoder, low_bit = held_decoder(audit, grids)
    drawn = audit.calibration
    sequences = sum(len(split.tokens) for split in (drawn.fit, drawn.select, drawn.held_out))
    expected = expected_passes(wanted, audit.plan, decoder.n_layers)
    clock.metered(lambda: decoder.passes / sequences, expected)
    store = StateStore.of(decoder)
    key = "" if resumption is None else _key(audit, save, decoder.memory)
    kept = Kept(clock, decoder.work, resumption, key, memory=decoder.memory)
    calibration = decoder.memory.retried(partial(fed, drawn, decoder, config.bos, store, progress=kept))
    measurer = Measurer(decoder, calibration, config, store=store, kept=kept, depth_passes=wanted.depth_passes)
    trained = measurer.trained()
    against = _against(audit, decoder, calibration, store, kept)
    references = measurer.references(trained, audit.plan, map_reach=wanted.map_reach)
    refined = None
    if audit.plan.refined:
        told = None if save.refined is None else partial(_save_refined, save.refined, decoder, measurer)
        refined = measurer.refined(wanted.whole, half=wanted.half, told=told)
    examiner, gains = measurer.examiner(), None
    if wanted.alone is not None:
        each = None if save.repairs is None else partial(_save_repair, save.repairs, decoder, measurer)
        gains = measurer.gaps(examiner, wanted.alone, told=each)
    estimated = measurer.estimated() if wanted.estimate else None
    measured = Measurements(
        trained, references, refined, measurer.examination(examiner, gains), estimated, decoder.low_bit, against
    )
    for one in (checkpoint, *([] if audit.parent is None else [audit.parent])):
        one.check_unchanged()
    calibration.check_unchanged()
    clock.stage("intervals", 1)
    seq_len = calibration.info.seq_len
    cut_at = seq_len if cut_short(seq_len, checkpoint.info.context) else None
    findings = conclude(measured, config, checkpoint.info.vocabulary, cut_at=cut_at)
    return AuditReport(
        schema_version=SCHEMA_VERSION,
        versions=versions(),
        checkpoint=grids.info(),
        data=calibration.info,
        low_bit=low_bit,
        held_out_predictions=findings.held_out_predictions,
        settings=tuple((field.name, getattr(config, field.name)) for field in dataclasses.fields(config)),
        baselines=findings.baselines,
        network=findings.network,
        layers=findings.layers,
        schedules=findings.schedules,
        yes=findings.yes,
        search=findings.search,
        warnings=(
            *calibration.warnings,
            *calibration_warnings(calibration.info, references.unknowns),
            *rank_warnings(findings.schedules),
            *naming_warnings(calibration.info),
            *experts_warnings(findings.layers),
            *checkpoint.notes,
            *audit.notes,
            *parent_warnings(findings.parent, findings.baselines),
            *bits_warnings(low_bit),
            *decoder.memory.notes,
        ),
        headline=findings.headline,
        advice=findings.advice,
        timings=clock.seconds(),
        passes=clock.work(),
        refinement=findings.naming.refinement,
        parent=_record(audit, findings),
    )


def _against(
    audit: Prepared, decoder: Decoder, calibration: Calibration, store: StateStore, kept: Kept
) -> ParentLosses | None:
    """What the network loses to its parent's blocks; None without one."""
    if audit.parent is None:
        return None
    compute = partial(parent_losses, audit.parent, audit.checkpoint, decoder, calibration, store, kept)
    return kept.one("parent", ParentLosses, compute)


def _record(audit: Prepared, findings: Findings) -> Parent | None:
    if audit.parent is None or findings.parent is None:
        return None
    return findings.parent.record(audit.parent.info)


def _key(audit: Prepared, save: Save, memory: Memory) -> str:
    """Of what is kept until the audit ends."""
    wishes = (save.repairs is not None, save.refined is not None, memory.tokens, memory.logit_bytes)
    return place_key(audit.key, audit.config.device, wishes)


def held_decoder(audit: Prepared, grids: Grids) -> tuple[Decoder, LowBit | None]:
    """The network, its blocks held to what the checkpoint or the settings say, and that in the report's words.

    Args:
        audit: as prepared.
        grids: of its checkpoint.

    Raises:
        ConfigError: the matrices can't be held to the set that the settings ask for, or it doesn't fit in the memory.
    """
    config, checkpoint = audit.config, audit.checkpoint
    family = family_of(checkpoint)
    matrices = grids.matrices(family.blocks)
    rounded = [name for name in matrices if name not in grids.routers]
    wanted = [name for name in rounded if config.bits_on == "all" or family.is_mlp_or_output(name)]
    holding = grids.holding(parse_bits(config.bits), matrices, wanted)
    decoder = Decoder(
        checkpoint,
        seq_len=audit.calibration.info.seq_len,
        device=torch.device(config.device),
        dtype=getattr(torch, config.dtype),
        constraints=holding.constraints,
        rounding=holding.rounding,
    )
    limit_memory(decoder, config, audit.calibration.info.seq_len)
    return decoder, holding.low_bit


def _save_repair(directory: Path, decoder: Decoder, measurer: Measurer, refined: Refined, gap: float) -> None:
    """Save a block that was refined alone, and hold the file to the loss that is reported.

    Raises:
        OutputError: it couldn't be written, or the block that is read back has another loss.
    """
    (block,) = measurer.refiner.blocks(refined)
    save_block(directory, decoder, block, {"gap": repr(gap)})
    loaded = load_block(directory, decoder, block.layer)
    losses = measurer.examiner().losses_with(loaded, f"layer {block.layer} as saved")
    if not np.allclose(losses, measurer.refiner.losses(refined, measurer.rows.held_out), rtol=1e-6):
        raise OutputError(f"{block_path(directory, block.layer)}, read back, has another loss than was measured")


def _save_refined(directory: Path, decoder: Decoder, measurer: Measurer, refined: Refined, losses: Losses) -> None:
    """Save the reference `refined`: a file for each block, and the head that it is read by.

    Raises:
        OutputError: it couldn't be written, or what is read back has another loss.
    """
    for block in measurer.refiner.blocks(refined):
        save_block(directory, decoder, block, {})
    save_head(directory, decoder, measurer.head)
    saved = decoder
    for layer in range(1, decoder.n_layers + 1):
        saved = saved.replacing(load_block(directory, decoder, layer))
    head = load_head(directory, decoder, measurer.head)
    if not np.allclose(measurer.losses_of(saved, head), losses[measurer.rows.held_out], rtol=1e-6):
        raise OutputError(f"{directory}, read back, has another loss than was measured")


def _device(config: AuditConfig) -> Device:
    """The device that was asked for; `auto` is CUDA where there is one.

    Raises:
        ConfigError: it isn't there, or can't compute in the dtype.
    """
    name: Device = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda': torch finds no CUDA device here")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device is 'mps': torch finds no MPS device here")
    if name == "mps" and config.dtype == "float64":
        raise ConfigError("dtype is 'float64': MPS has none")
    return name


def _dtype(config: AuditConfig) -> Dtype:
    return "float32" if config.dtype == "auto" else config.dtype


def tool_version() -> str:
    """The version of peelaudit that computes, as reports have it."""
    return __version__


def versions() -> tuple[tuple[str, str], ...]:
    """Of the tool and of the libraries that compute."""
    libraries = ("torch", "transformers", "numpy", "safetensors")
    return (
        ("peelaudit", tool_version()),
        *((name, version(name)) for name in libraries),
        ("python", platform.python_version()),
    )
