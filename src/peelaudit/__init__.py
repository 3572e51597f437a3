"""Layer-wise peeling audits of saved decoder-only checkpoints (method: arXiv 2605.02853).

    report = peelaudit.audit("ckpt.pt", "calibration.txt")
    report.network.held_out.gap_layers      # Estimate(value, low, high), nats/token

Importing the package imports neither torch nor transformers; the first audit does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peelaudit.progress import SILENT, Progress
from peelaudit.version import __version__ as __version__

if TYPE_CHECKING:
    from peelaudit.records import AuditReport

__all__ = ["audit"]


def audit(
    checkpoint: str | os.PathLike[str],
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    *,
    progress: Progress = SILENT,
    **settings: Any,
) -> AuditReport:
    """Audit a saved decoder-only checkpoint: what `peelaudit run` calls.

    Args:
        checkpoint: a file or a directory.
        data: calibration text or token files or directories. Empty: `calibration.*` beside the checkpoint, else a
            built-in generic text.
        progress: told of each stage; silent by default.
        **settings: any other field of `peelaudit.config.AuditConfig`, such as `tokens`, `schedules`, `solver`, `seed`.
            Neither the environment nor a configuration file is read.

    Returns:
        The report: losses and gaps in nats/token, each with its 95 % interval; errors as ratios without unit.

    Raises:
        ConfigError: a setting is out of range, of another type, or unknown.
        CheckpointError: the checkpoint can't be used.
        CalibrationError: the calibration data can't be used.
        AuditError: a state or a loss became NaN or Inf.
        NothingToAudit: the checkpoint has no decoder block.
    """
    from peelaudit.auditing.run import audit_config
    from peelaudit.errors import ConfigError
    from peelaudit.settings.audit import AuditConfig

    unknown = sorted(set(settings) - set(AuditConfig.__dataclass_fields__) | settings.keys() & {"checkpoint", "data"})
    if unknown:
        raise ConfigError(*(f"{name} is no setting of an audit" for name in unknown))
    given: dict[str, Any] = {"checkpoint": checkpoint, "data": data, **settings}  # it makes texts of paths
    return audit_config(AuditConfig(**given), progress=progress)
