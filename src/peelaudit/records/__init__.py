"""What an audit found: frozen records without torch, so that a saved report is read, gated or drawn without it.

All losses and gaps are in nats/token. The JSON report has the names of the fields here (`records/json.py`).
"""

from __future__ import annotations

from peelaudit.records.audit import (
    SCHEMA_VERSION,
    AuditReport,
    BaselineLosses,
    BlockFit,
    DataInfo,
    DataShare,
    Front,
    LayerRefinement,
    NetworkRow,
    Refinement,
    ScheduleBounds,
    ScheduleResult,
    ScheduleSearch,
    SplitInfo,
    YesBound,
    named_layers,
)
from peelaudit.records.checkpoints import (
    CheckpointInfo,
    Grid,
    GridKind,
    LowBit,
    LowBitSet,
    ScaleLayout,
    TensorInfo,
    ZeroPoint,
)
from peelaudit.records.faults import FaultKind, FaultResult, Said, Score, Selftest
from peelaudit.records.figures import ClusterSums, Estimate, SplitFigures, Verdict
from peelaudit.records.fixes import Fix, FixKind
from peelaudit.records.fleet import TaskFigures, TaskRow, TaskState, Unaudited
from peelaudit.records.gating import GateCheck, Outcome
from peelaudit.records.layers import LayerRow, LayerSigns, Symptom
from peelaudit.records.parents import Parent

__all__ = [
    "SCHEMA_VERSION",
    "AuditReport",
    "BaselineLosses",
    "BlockFit",
    "CheckpointInfo",
    "ClusterSums",
    "DataInfo",
    "DataShare",
    "Estimate",
    "FaultKind",
    "FaultResult",
    "Fix",
    "FixKind",
    "Front",
    "GateCheck",
    "Grid",
    "GridKind",
    "LayerRefinement",
    "LayerRow",
    "LayerSigns",
    "LowBit",
    "LowBitSet",
    "NetworkRow",
    "Outcome",
    "Parent",
    "Refinement",
    "Said",
    "ScaleLayout",
    "ScheduleBounds",
    "ScheduleResult",
    "ScheduleSearch",
    "Score",
    "Selftest",
    "SplitFigures",
    "SplitInfo",
    "Symptom",
    "TaskFigures",
    "TaskRow",
    "TaskState",
    "TensorInfo",
    "Unaudited",
    "Verdict",
    "YesBound",
    "ZeroPoint",
    "named_layers",
]
