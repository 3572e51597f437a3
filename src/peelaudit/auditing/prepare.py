"""An audit before anything heavy: the checkpoint open, the text in its splits, and the network that comes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from peelaudit.auditing.alike import check_vocabulary
from peelaudit.auditing.effort import Extent, extent, mapped
from peelaudit.auditing.identity import key_of
from peelaudit.auditing.memory import limit_memory
from peelaudit.calibration import Calibration, Held, check_given, load_calibration
from peelaudit.checkpoints import Checkpoint, open_checkpoint
from peelaudit.checkpoints.live import open_module
from peelaudit.errors import ConfigError
from peelaudit.method.linalg.precision import exact_float32
from peelaudit.method.references.schedules import SchedulePlan, parse_schedules
from peelaudit.network.counterparts import check_alike
from peelaudit.network.decoder import Decoder
from peelaudit.network.families import admit, family_of
from peelaudit.network.lowbit import Grids
from peelaudit.network.weights import check_weights
from peelaudit.progress import SILENT, Clock, Progress
from peelaudit.records import LowBit
from peelaudit.settings.audit import AuditConfig, Device, Dtype
from peelaudit.settings.bits import parse_bits
from peelaudit.version import __version__

__all__ = ["Live", "Prepared", "decoder_of", "held_decoder", "opened", "prepared", "tool_version", "versions"]


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

    def checked(self) -> Grids:
        """The one pass over all weights: see `check_weights`."""
        return check_weights(self.checkpoint, self.clock, device=torch.device(self.config.device))


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
        wanted = mapped(wanted, plan, checkpoint.info.layers)
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
    return opened(config, clock)


def opened(config: AuditConfig, progress: Progress = SILENT) -> Checkpoint:
    """The checkpoint that the settings name; errors as `open_checkpoint`."""
    path = Path(config.checkpoint)
    return open_checkpoint(path, config=config.config, adapter=config.adapter, admit=admit, progress=progress)


def _parent(config: AuditConfig, clock: Clock) -> contextlib.AbstractContextManager[Checkpoint | None]:
    if config.parent is None:
        return contextlib.nullcontext()
    return open_checkpoint(Path(config.parent), config=config.config, admit=admit, progress=clock)


def held_decoder(audit: Prepared, grids: Grids) -> tuple[Decoder, LowBit | None]:
    """The network, its blocks held to what the checkpoint or the settings say, and that in the report's words.

    Args:
        audit: as prepared.
        grids: of its checkpoint.

    Raises:
        ConfigError: the matrices can't be held to the set that the settings ask for, or it doesn't fit in the memory.
    """
    return decoder_of(audit.config, audit.checkpoint, grids, audit.calibration.info.seq_len)


def decoder_of(
    config: AuditConfig, checkpoint: Checkpoint, grids: Grids, seq_len: int
) -> tuple[Decoder, LowBit | None]:
    """The same of a checkpoint that is read in sequences of so many tokens; the settings are resolved."""
    family = family_of(checkpoint)
    matrices = grids.matrices(family.blocks)
    rounded = [name for name in matrices if name not in grids.routers]
    wanted = [name for name in rounded if config.bits_on == "all" or family.is_mlp_or_output(name)]
    holding = grids.holding(parse_bits(config.bits), matrices, wanted)
    decoder = Decoder(
        checkpoint,
        seq_len=seq_len,
        device=torch.device(config.device),
        dtype=getattr(torch, config.dtype),
        constraints=holding.constraints,
        rounding=holding.rounding,
    )
    limit_memory(decoder, config, seq_len)
    return decoder, holding.low_bit


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
