"""One audit from settings to report: orchestration only."""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from peelaudit.advice import calibration_warnings
from peelaudit.calibration import load_calibration
from peelaudit.checkpoints import open_checkpoint
from peelaudit.config import AuditConfig, Device, Dtype
from peelaudit.decoder import Decoder
from peelaudit.errors import ConfigError
from peelaudit.hidden_states import StateStore
from peelaudit.measuring import measure
from peelaudit.progress import SILENT, Clock, Progress
from peelaudit.records import SCHEMA_VERSION, AuditReport
from peelaudit.reporting import conclude
from peelaudit.schedules import parse_schedules

__all__ = ["audit_config"]


def audit_config(config: AuditConfig, *, progress: Progress = SILENT) -> AuditReport:
    """Audit one checkpoint.

    Args:
        config: the settings.
        progress: told of each stage.

    Raises:
        PeelauditError: see `peelaudit.errors` for what can go wrong.
    """
    clock = Clock(progress)
    config = dataclasses.replace(config, device=_device(config), dtype=_dtype(config))
    device, dtype = torch.device(config.device), getattr(torch, config.dtype)
    with open_checkpoint(Path(config.checkpoint), config=config.config, progress=clock) as checkpoint:
        plan = parse_schedules(config.schedules, checkpoint.info.layers)
        calibration = load_calibration(config, checkpoint.info, progress=clock)
        checkpoint.check_weights(clock)
        seq_len = calibration.info.seq_len
        decoder = Decoder(checkpoint, seq_len=seq_len, device=device, dtype=dtype)
        measured = measure(decoder, calibration, plan, config, store=StateStore(dtype=dtype), progress=clock)
        info = checkpoint.info
    clock.stage("intervals", 1)
    findings = conclude(measured, config, info.vocabulary)
    resolved = dataclasses.replace(config, seq_len=seq_len)
    return AuditReport(
        schema_version=SCHEMA_VERSION,
        versions=_versions(),
        checkpoint=info,
        data=calibration.info,
        held_out_predictions=findings.held_out_predictions,
        settings=tuple((field.name, getattr(resolved, field.name)) for field in dataclasses.fields(resolved)),
        baselines=findings.baselines,
        network=findings.network,
        layers=findings.layers,
        schedules=findings.schedules,
        yes=findings.yes,
        search=findings.search,
        warnings=(*calibration.warnings, *calibration_warnings(calibration.info, measured.unknowns)),
        advice=findings.advice,
        timings=clock.seconds(),
    )


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


def _versions() -> tuple[tuple[str, str], ...]:
    libraries = ("peelaudit", "torch", "transformers", "numpy", "safetensors")
    return (*((name, version(name)) for name in libraries), ("python", platform.python_version()))
