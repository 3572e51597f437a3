"""What an audit's result depends on, as one key: two audits with equal keys find the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from peelaudit.records import SCHEMA_VERSION, AuditReport, CheckpointInfo, DataInfo
from peelaudit.settings.audit import AuditConfig

__all__ = ["key_of", "key_of_report"]

_PATHS = ("checkpoint", "data", "config", "adapter", "tokenizer", "parent")  # told by their content
_PLACES = ("max_memory",)  # change nothing but last digits


def key_of(
    config: AuditConfig,
    checkpoint: CheckpointInfo,
    data: DataInfo,
    version: str,
    *,
    parent: CheckpointInfo | None = None,
) -> str:
    """The key of the audit of this content under these resolved settings by this version of peelaudit.

    The checkpoint, and its parent if it has one, count by the bytes of their weights and configuration, the calibration
    data by their bytes and by the tokens in the three splits (so that another tokenizer is another audit), as they were
    drawn: what is put before each follows from that. Where they lie makes no difference.
    """
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    facts = {
        "peelaudit": version,
        "schema": SCHEMA_VERSION,
        "checkpoint": checkpoint.sha256,
        "training_step": checkpoint.training_step,
        "data": data.sha256,
        "tokens": data.drawn_sha256 or data.tokens_sha256,
        "settings": {name: value for name, value in settings.items() if name not in _PATHS + _PLACES},
    }
    if parent is not None:  # without one, the key is that of before there were any
        facts["parent"] = parent.sha256
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def key_of_report(report: AuditReport) -> str:
    """The key of the audit that gave this report, from what it says of itself.

    Raises:
        ConfigError: its settings aren't settings.
        TypeError: likewise.
    """
    config = AuditConfig(**dict(report.settings))  # type: ignore[arg-type]  # checked by what is raised
    version = dict(report.versions).get("peelaudit", "")
    parent = None if report.parent is None else report.parent.checkpoint
    return key_of(config, report.checkpoint, report.data, version, parent=parent)
