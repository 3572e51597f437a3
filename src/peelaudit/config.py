"""An audit's settings by their public name, `peelaudit.config.AuditConfig`, and what its choices are typed as."""

from __future__ import annotations

from peelaudit.settings.audit import (
    AuditConfig,
    BitsOn,
    Device,
    Dtype,
    Effort,
    Initial,
    ReadoutKind,
    SolverKind,
)

__all__ = ["AuditConfig", "BitsOn", "Device", "Dtype", "Effort", "Initial", "ReadoutKind", "SolverKind"]
