"""One audit from settings to report: orchestration only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peelaudit.auditing.caching import Resumption
from peelaudit.auditing.cautions import bits_warnings, calibration_warnings, experts_warnings, rank_warnings
from peelaudit.auditing.conclude import Findings, conclude
from peelaudit.auditing.effort import expected_passes
from peelaudit.auditing.feeding import fed
from peelaudit.auditing.machines import Machines
from peelaudit.auditing.measure import Measurer
from peelaudit.auditing.measurements import Measurements, ParentLosses
from peelaudit.auditing.parent import parent_losses, parent_warnings
from peelaudit.auditing.prepare import Live, Prepared, held_decoder, prepared, versions
from peelaudit.auditing.resuming import Kept, place_key
from peelaudit.auditing.saving import save_refined, save_repair
from peelaudit.calibration import Calibration
from peelaudit.calibration.drawing import cut_short
from peelaudit.method.diagnosis.naming import naming_warnings
from peelaudit.network.decoder import Decoder
from peelaudit.network.memory import Memory
from peelaudit.network.states import StateStore
from peelaudit.progress import SILENT, Progress
from peelaudit.records import SCHEMA_VERSION, AuditReport, CheckpointInfo, Parent
from peelaudit.settings.audit import AuditConfig

__all__ = ["Save", "audit_config", "audit_prepared"]


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
    machines: Machines | None = None,
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
        machines: that refine each layer alone; this one does if None.
        progress: told of each stage.

    Raises:
        PeelauditError: see `peelaudit.errors` for what can go wrong.
    """
    with prepared(config, live=live, progress=progress) as audit:
        if machines is not None:
            machines.check(audit.config)
        if opened is not None:
            opened(audit.checkpoint.info)
        return audit_prepared(audit, save=save, resumption=resumption, machines=machines)


def audit_prepared(
    audit: Prepared,
    *,
    save: Save = NOTHING,
    resumption: Resumption | None = None,
    machines: Machines | None = None,
) -> AuditReport:
    """The rest of the audit, see `audit_config`.

    Raises:
        PeelauditError: as `audit_config`; the checkpoint having changed meanwhile is one.
    """
    config, checkpoint, clock, wanted = audit.config, audit.checkpoint, audit.clock, audit.extent
    grids = audit.checked()
    decoder, low_bit = held_decoder(audit, grids)
    drawn = audit.calibration
    sequences = sum(len(split.tokens) for split in (drawn.fit, drawn.select, drawn.held_out))
    expected = expected_passes(wanted, audit.plan, decoder.n_layers, decoder.head_share)
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
        told = None if save.refined is None else partial(save_refined, save.refined, decoder, measurer)
        refined = measurer.refined(wanted.whole, half=wanted.half, told=told)
    examiner, gains = measurer.examiner(), None
    if wanted.alone is not None:
        each = None if save.repairs is None else partial(save_repair, save.repairs, decoder, measurer)
        gains = measurer.gaps(examiner, wanted.alone, told=each, machines=machines)
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
