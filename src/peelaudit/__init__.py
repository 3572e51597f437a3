"""Layer-wise peeling audits of saved decoder-only checkpoints (method: arXiv 2605.02853).

    report = peelaudit.audit("ckpt.pt", "calibration.txt")
    report.network.held_out.gap_layers      # Estimate(value, low, high), nats/token
    report.save("report.html")

Importing the package imports neither torch nor transformers; the first audit does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peelaudit.errors import (
    AuditError,
    CalibrationError,
    CheckpointError,
    ConfigError,
    NothingToAudit,
    OutputError,
    PeelauditError,
)
from peelaudit.progress import SILENT, Progress
from peelaudit.records.figures import Verdict
from peelaudit.version import __version__ as __version__

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from peelaudit.library import Report

__all__ = [
    "AuditError",
    "CalibrationError",
    "CheckpointError",
    "ConfigError",
    "NothingToAudit",
    "OutputError",
    "PeelauditError",
    "Verdict",
    "audit",
]


def audit(
    checkpoint: str | os.PathLike[str] | Module,
    data: Any = (),
    *,
    progress: Progress = SILENT,
    state_dict: Mapping[str, Tensor] | None = None,
    **settings: Any,
) -> Report:
    """Audit a decoder-only language model: a saved one, as `peelaudit run` does, or a module in memory.

    A module's weights are read and never changed, and nothing of it is called: its mode, its gradients and hooks stay
    as they are, and so do the process's random generators, threads and torch's modes.

    Args:
        checkpoint: a file or a directory; or a causal language model of transformers (or nanoGPT's), also wrapped for
            data parallelism or compiled.
        data: calibration text or token files or directories, one or several. Empty: `calibration.*` beside the
            checkpoint, else a built-in generic text. For a module also a list of texts, or of sequences of token ids,
            or an array of ids; files are named by one text, or by `pathlib.Path`.
        progress: told of each stage; silent by default.
        state_dict: a module's weights, where it is split over processes: what torch's `get_model_state_dict` gathers.
        **settings: any other field of `peelaudit.config.AuditConfig`, such as `tokens`, `schedules`, `solver`, `seed`.
            Neither the environment nor a configuration file is read. For texts and a module, `tokenizer` may be
            transformers' own object.

    Returns:
        The report: losses and gaps in nats/token, each with its 95 % interval; errors as ratios without unit.

    Raises:
        ConfigError: a setting is out of range, of another type, or unknown.
        CheckpointError: the checkpoint can't be used.
        CalibrationError: the calibration data can't be used.
        AuditError: a state or a loss became NaN or Inf.
        NothingToAudit: the checkpoint has no decoder block.
    """
    from peelaudit.library import audit_checkpoint, audit_model
    from peelaudit.settings.audit import AuditConfig

    unknown = sorted(set(settings) - set(AuditConfig.__dataclass_fields__) | settings.keys() & {"checkpoint", "data"})
    if unknown:
        raise ConfigError(*(f"{name} is no setting of an audit" for name in unknown))
    if isinstance(checkpoint, str | os.PathLike) or not hasattr(checkpoint, "state_dict"):
        if state_dict is not None:
            raise ConfigError("state_dict is for a module in memory")
        return audit_checkpoint(checkpoint, data, settings, progress)  # type: ignore[arg-type]  # which it says itself
    return audit_model(checkpoint, data, settings, progress, state_dict)
