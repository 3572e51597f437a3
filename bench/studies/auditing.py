"""Audits the checkpoints of one run; keeps the reports and draws the clouds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.studies.plan import Run, Study
from bench.studies.texts import Corpus, calibration
from bench.studies.training import checkpoints
from peelaudit.auditing.prepare import prepared
from peelaudit.auditing.run import audit_prepared
from peelaudit.calibration import Calibration
from peelaudit.records import AuditReport
from peelaudit.records.json import read_report
from peelaudit.reports.formats import Format, export
from peelaudit.reports.formats.cloud import cloud_svg
from peelaudit.reports.trajectory import trace
from peelaudit.reports.writing import write_whole
from peelaudit.settings.audit import AuditConfig


@dataclass(frozen=True, slots=True)
class Audited:
    """One checkpoint and its report."""

    run: Run
    epoch: int
    report: AuditReport


def audit_run(run: Run, study: Study, corpus: Corpus, out: Path) -> Iterator[Audited]:
    """An audit of each checkpoint of a trained run; a report that is there is read, not made again.

    Raises:
        PeelauditError: an audit can't be completed.
    """
    data = calibration(corpus, study)
    for epoch, folder in checkpoints(run, study, out).items():
        kept = folder.with_name(f"{folder.name}.json")
        if not kept.is_file():
            write_whole(kept, export((_audit(folder, study, corpus, data),), Format.JSON))
        yield Audited(run, epoch, read_report(kept))


def _audit(folder: Path, study: Study, corpus: Corpus, data: Calibration) -> AuditReport:
    """All eight staircases, as in the paper, and `refined` beside them. The library splits one text by document; here
    the splits are given.
    """
    config = AuditConfig(
        checkpoint=str(folder),
        data=(str(corpus.train), str(corpus.test)),
        tokens=study.fit_tokens + study.select_tokens + study.test_tokens,
        seq_len=study.context,
        schedules=("refined", "all"),
        effort="quick",
        solver=study.solver,
        steps=study.steps,
        device="cpu",
        seed=study.seed,
    )
    with prepared(config) as audit:
        return audit_prepared(dataclasses.replace(audit, calibration=data))


def draw_clouds(audited: list[Audited], out: Path) -> None:
    """The YES clouds of one run: on fit tokens as the paper draws it, and on held-out tokens.

    Raises:
        OutputError: a picture can't be written.
    """
    name, trajectory = audited[0].run.name, trace(row.report for row in audited)
    write_whole(out / f"{name}.fit.svg", cloud_svg(trajectory.fit, unit="epoch"))
    write_whole(out / f"{name}.held-out.svg", cloud_svg(trajectory.held_out, unit="epoch"))
