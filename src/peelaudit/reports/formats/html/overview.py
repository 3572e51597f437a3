"""Several reports: an overview, what a gate said, and the trajectory where they are one training run's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from peelaudit.errors import ConfigError
from peelaudit.records import AuditReport
from peelaudit.reports.formats.charts import GAP_SCALE, heat_map, legend
from peelaudit.reports.formats.cloud import cloud_chart
from peelaudit.reports.formats.content import Content
from peelaudit.reports.formats.html.parts import (
    Cell,
    Column,
    figure,
    heading,
    listed,
    number_cell,
    path_text,
    signed_cell,
    table,
    verdict_cell,
)
from peelaudit.reports.formats.html.report import checks_table
from peelaudit.reports.formats.markup import Markup, element
from peelaudit.reports.trajectory import Cloud, Trajectory, trace
from peelaudit.reports.wording.text import count
from peelaudit.reports.wording.words import CLOUD_LEGEND, LEGEND, series_words

__all__ = ["sections"]

_DIFFERENCES_LISTED = 5


def sections(content: Content, names: Mapping[int, str]) -> Iterator[Markup]:
    """What comes before the single reports. `names` has the identifier of each report that has sections of its own."""
    yield element("p", LEGEND)
    yield element(
        "p",
        "Every verdict is against the references that were run, on the held-out tokens of each report: a green is a "
        "certificate against these, not a proof of optimality.",
    )
    if content.failures:
        yield heading(2, "Not audited")
        rows = ([path_text(failure.checkpoint), failure.error, failure.reason] for failure in content.failures)
        yield table(
            "Checkpoints without a report", [Column("checkpoint"), Column("error"), Column("reason", wide=True)], rows
        )
    yield heading(2, "Checkpoints")
    yield _checkpoints(content, names)
    if content.checks:
        yield heading(2, "Gate")
        yield checks_table(content.checks, named=True)
    yield from _series(content)
    yield heading(2, "Each checkpoint")


def _checkpoints(content: Content, names: Mapping[int, str]) -> Markup:
    columns = [
        Column("checkpoint"),
        Column("step", right=True),
        Column("verdict"),
        *(Column(title, right=True) for title in ("trained loss", "YES-0", "YES*", "gap_layers (95 %)")),
        *([Column("gate")] if content.checks else []),
    ]
    rows = (_checkpoint(content, report, names.get(id(report))) for report in content.ranked())
    return table("Held-out losses and gaps, nats/token, what fails first", columns, rows, sortable=True)


def _checkpoint(content: Content, report: AuditReport, name: str | None) -> list[Cell | str]:
    figures, step, path = report.network.held_out, report.checkpoint.training_step, report.checkpoint.path
    return [
        Cell(element("a", path_text(path), href=f"#{name}") if name else path_text(path), path),
        "" if step is None else Cell(count(step), str(step)),
        verdict_cell(figures.verdict),
        number_cell(figures.trained_loss.value),
        number_cell(figures.yes0.value),
        number_cell(figures.bound.value),
        signed_cell(figures.gap_layers),
        *(["fails" if content.fails(report) else "passes"] if content.checks else []),
    ]


def _series(content: Content) -> Iterator[Markup]:
    if len(content.reports) < 2:
        return
    yield heading(2, "The training run")
    try:
        trajectory = trace(content.reports)
    except ConfigError as error:
        more = len(error.problems) - _DIFFERENCES_LISTED
        yield element("p", "These reports are not drawn as one training run under one audit:")
        yield listed(
            [*error.problems[:_DIFFERENCES_LISTED], *([f"and {count(more)} differences more"] if more > 0 else [])]
        )
        return
    for words in series_words(trajectory):
        yield element("p", words)
    yield heading(3, "YES cloud, held-out tokens")
    yield figure(lambda width: cloud_chart(trajectory.held_out, width=width), CLOUD_LEGEND)
    yield _cloud_table(trajectory.held_out, "The YES cloud on held-out tokens in numbers, nats/token")
    yield heading(3, "YES cloud, fit tokens")
    yield figure(
        lambda width: cloud_chart(trajectory.fit, width=width),
        "As in the paper: the model's own head against refitted heads, on the references' own tokens.",
    )
    yield _cloud_table(trajectory.fit, "The YES cloud on fit tokens in numbers, nats/token")
    yield from _layers(trajectory)


def _cloud_table(cloud: Cloud, caption: str) -> Markup:
    titles = ("step", "trained", "YES-0", "YES*", "least YES-0", "least YES*")
    rows = (
        [
            Cell(count(p.step), str(p.step)),
            *map(number_cell, (p.trained, p.yes0, p.yes_star, p.least_yes0, p.least_yes_star)),
            verdict_cell(p.region),
        ]
        for p in cloud.points
    )
    return table(caption, [*(Column(t, right=True) for t in titles), Column("region")], rows, sortable=True)


def _layers(trajectory: Trajectory) -> Iterator[Markup]:
    """Gaps as a heat map over the steps, and in numbers, with the step from which each layer is green."""
    histories, steps = trajectory.layers, [count(step) for step in trajectory.steps]
    cells = {
        (row, column): gap.value for row, history in enumerate(histories) for column, gap in enumerate(history.gaps)
    }
    title = f"Gap of {len(histories)} layers over {len(steps)} steps, nats/token; the numbers are in the table below"
    yield heading(3, "Gap per layer over the steps")
    yield figure(
        lambda width: heat_map(
            cells,
            rows=[str(history.layer) for history in histories],
            columns=steps,
            scale=GAP_SCALE,
            title=title,
            axes=("layer", "training step"),
            width=width,
        ),
        "Held-out gaps, nats/token: above 0, a reference does better than the trained blocks 1 to k.",
        legend(GAP_SCALE),
    )
    columns = [Column("layer", right=True), Column("green from", right=True)]
    columns += [Column(f"gap at {step}", right=True) for step in steps]
    rows = (
        [
            Cell(str(history.layer), str(history.layer)),
            "not yet" if history.green_from is None else Cell(count(history.green_from), str(history.green_from)),
            *map(signed_cell, history.gaps),
        ]
        for history in histories
    )
    caption = "The step from which each layer is green and stays so, and its gaps (95 %), nats/token"
    yield table(caption, columns, rows, sortable=True, small=True)
