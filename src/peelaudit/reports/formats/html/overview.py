"""Several reports: an overview, what a gate said, and the trajectory where they are one training run's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from peelaudit.errors import ConfigError
from peelaudit.records import AuditReport
from peelaudit.records.quantities import Form
from peelaudit.reports.formats.charts import GAP_SCALE, Mark, heat_map, legend, whiskers
from peelaudit.reports.formats.cloud import cloud_chart
from peelaudit.reports.formats.content import Content
from peelaudit.reports.formats.html.parts import (
    Cell,
    Column,
    Figure,
    Table,
    figure,
    figure_cell,
    number_cell,
    path_text,
    schedule_name,
    signed_cell,
    table,
    verdict_cell,
)
from peelaudit.reports.formats.html.report import checks_table
from peelaudit.reports.formats.html.templates import render
from peelaudit.reports.trajectory import Cloud, Trajectory, trace
from peelaudit.reports.wording.series import defect_words, series_words
from peelaudit.reports.wording.text import count, interval, signed, verdict_text
from peelaudit.reports.wording.words import CLOUD_LEGEND, FIT_CLOUD_WORDS

__all__ = ["body"]

_DIFFERENCES_LISTED = 5


@dataclass(frozen=True, slots=True)
class _Part:
    """A picture of a training run and its numbers."""

    heading: str
    picture: Figure | None
    figures: Table


@dataclass(frozen=True, slots=True)
class _Run:
    """What reports of one training run show together."""

    words: tuple[str, ...]
    defects: tuple[str, ...]
    parts: tuple[_Part, ...]


def body(content: Content, sections: Sequence[tuple[str, Markup]]) -> Markup:
    """The inside of the page. `sections` has a heading and a section for the gravest reports, all of them or fewer."""
    run, differences = _run(content.reports)
    return render(
        "overview.html",
        failures=_failures(content) if content.failures else None,
        checkpoints=_checkpoints(content, len(sections)),
        gate=checks_table(content.checks, named=True) if content.checks else None,
        run=run,
        differences=differences,
        sections=sections,
        cut=len(content.reports) - len(sections),
    )


def _failures(content: Content) -> Table:
    columns = [Column("checkpoint"), Column("error"), Column("reason", wide=True)]
    rows = ([path_text(failure.checkpoint), failure.error, failure.reason] for failure in content.failures)
    return table("Checkpoints without a report", columns, rows)


def _checkpoints(content: Content, detailed: int) -> Table:
    """A row for each report, what fails first; the first `detailed` lead to their sections."""
    columns = [
        Column("checkpoint"),
        Column("step", right=True),
        Column("verdict"),
        *(Column(title, right=True) for title in ("trained loss", "YES-0", "YES*", "gap_layers (95 %)")),
        *([Column("gate")] if content.checks else []),
    ]
    rows = (
        _checkpoint(content, report, f"#r{index}" if index <= detailed else "")
        for index, report in enumerate(content.ranked(), 1)
    )
    notes = (f"{report.headline}." for report in content.ranked())
    caption = "Held-out losses and gaps, nats/token, what fails first"
    return table(caption, columns, rows, sortable=True, stacked=True, notes=notes)


def _checkpoint(content: Content, report: AuditReport, link: str) -> list[Cell | str]:
    figures, step, path = report.network.held_out, report.checkpoint.training_step, report.checkpoint.path
    return [
        Cell(path_text(path), path, link=link),
        "" if step is None else Cell(count(step), str(step)),
        verdict_cell(figures.verdict),
        number_cell(figures.trained_loss.value),
        "" if figures.yes0 is None else number_cell(figures.yes0.value),
        number_cell(figures.bound.value),
        "" if (gap := report.network.gap_layers) is None else signed_cell(gap),
        *(["fails" if content.fails(report) else "passes"] if content.checks else []),
    ]


def _run(reports: Sequence[AuditReport]) -> tuple[_Run | None, tuple[str, ...]]:
    """The training run that the reports are of, or why they are of none; neither for a single report."""
    if len(reports) < 2:
        return None, ()
    try:
        trajectory = trace(reports)
    except ConfigError as error:
        more = len(error.problems) - _DIFFERENCES_LISTED
        cut = (f"and {count(more)} differences more",) if more > 0 else ()
        return None, (*error.problems[:_DIFFERENCES_LISTED], *cut)
    defects = tuple(map(defect_words, trajectory.defects))
    return _Run(series_words(trajectory), defects, tuple(_parts(trajectory))), ()


def _parts(trajectory: Trajectory) -> Iterator[_Part]:
    yield _Part(
        "YES cloud, held-out tokens",
        figure(lambda width: cloud_chart(trajectory.held_out, width=width), CLOUD_LEGEND),
        _cloud_table(trajectory.held_out, "The YES cloud on held-out tokens in numbers, nats/token"),
    )
    compared = any(report.network.gap_layers is not None for report in trajectory.reports)
    yield _Part("gap_layers over the steps", _steps(trajectory) if compared else None, _steps_table(trajectory))
    yield _Part(
        "YES cloud, fit tokens",
        figure(
            lambda width: cloud_chart(trajectory.fit, width=width),
            FIT_CLOUD_WORDS,
        ),
        _cloud_table(trajectory.fit, "The YES cloud on fit tokens in numbers, nats/token"),
    )
    if any(gap is not None for history in trajectory.layers for gap in history.gaps):
        yield _Part("Gap per layer over the steps", _gap_map(trajectory), _gap_table(trajectory))


def _steps(trajectory: Trajectory) -> Figure:
    """What separates trained loss and YES* in the cloud, on a scale of its own."""
    marks = []
    for step, report in zip(trajectory.steps, trajectory.reports, strict=True):
        gap = report.network.gap_layers
        if gap is None:
            continue
        shown = f"{signed(gap.value)} ({interval(gap, sign=True)})"
        words = f"step {count(step)}: gap_layers {shown}, {verdict_text(report.verdict)}"
        marks.append(Mark(count(step), gap, words, report.verdict))
    title = f"gap_layers over {len(marks)} steps with 95 % intervals, nats/token; the numbers are in the table below"
    return figure(
        lambda width: whiskers(marks, title=title, unit="gap_layers, nats/token", width=width, axis="training step"),
        "Trained states minus each step's own best reference, held-out, same readout, a mark for the step's verdict. "
        "Above 0, a reference does better.",
    )


def _steps_table(trajectory: Trajectory) -> Table:
    """Each step against its own references, and the layers that its audit names."""
    columns = [
        Column("step", right=True),
        Column("verdict"),
        Column("gap_layers (95 %)", right=True),
        Column("best reference"),
        Column("nearest rival"),
        Column("rival - trained (95 %)", right=True),
        Column("named layers"),
    ]
    rows = (
        [
            Cell(count(step), str(step)),
            verdict_cell(report.verdict),
            "" if (gap := report.network.gap_layers) is None else signed_cell(gap),
            schedule_name(report.network.best_schedule),
            "none" if report.network.rival is None else schedule_name(report.network.rival),
            "" if report.network.margin is None else signed_cell(report.network.margin),
            ", ".join(map(str, sorted(set(report.named)))) or "none",
        ]
        for step, report in zip(trajectory.steps, trajectory.reports, strict=True)
    )
    caption = "Each step against its own references, held-out, nats/token, and the layers that are named"
    return table(caption, columns, rows, sortable=True, stacked=True)


def _cloud_table(cloud: Cloud, caption: str) -> Table:
    titles = ("step", "trained", "YES-0", "YES*", "least YES-0", "least YES*")
    rows = (
        [
            Cell(count(p.step), str(p.step)),
            *(
                "" if v is None else number_cell(v)
                for v in (p.trained, p.yes0, p.yes_star, p.least_yes0, p.least_yes_star)
            ),
            verdict_cell(p.region),
        ]
        for p in cloud.points
    )
    return table(caption, [*(Column(t, right=True) for t in titles), Column("region")], rows, sortable=True)


def _gap_map(trajectory: Trajectory) -> Figure:
    histories, steps = trajectory.layers, [count(step) for step in trajectory.steps]
    cells = {
        (row, column): gap.value
        for row, history in enumerate(histories)
        for column, gap in enumerate(history.gaps)
        if gap is not None
    }
    title = f"Gap of {len(histories)} layers over {len(steps)} steps, nats/token; the numbers are in the table below"
    return figure(
        lambda width: heat_map(
            cells,
            rows=[str(history.layer) for history in histories],
            columns=steps,
            scale=GAP_SCALE,
            title=title,
            axes=("layer", "training step"),
            width=width,
        ),
        "The layers' own gaps, held-out, nats/token: what the step's network gains when the block alone is refined.",
        legend(GAP_SCALE),
    )


def _gap_table(trajectory: Trajectory) -> Table:
    """The gaps in numbers, and at which steps each layer is named."""
    columns = [Column("layer", right=True), Column("named at step")]
    columns += [Column(f"gap at {count(step)}", right=True) for step in trajectory.steps]
    rows = (
        [
            Cell(str(history.layer), str(history.layer)),
            ", ".join(count(step) for step, named in zip(trajectory.steps, history.named, strict=True) if named),
            *(figure_cell(gap, Form.GAP) for gap in history.gaps),
        ]
        for history in trajectory.layers
    )
    caption = "Each layer's own gap at each step (95 %), nats/token"
    return table(caption, columns, rows, sortable=True, small=True)
