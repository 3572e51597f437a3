"""GitHub-flavoured Markdown, for a step summary or a pull request's comment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from peelaudit.exports.shapes import check_finite
from peelaudit.records import AuditReport, LayerRow, SplitFigures
from peelaudit.render.escape import printable
from peelaudit.render.text import count, interval, number, signed, targets_text, verdict_text

__all__ = ["export"]

_SCHEDULES_LISTED = 30
_SPECIAL = str.maketrans({char: "\\" + char for char in "\\`*_{}[]<>#|~$@!&"})


def export(report: AuditReport) -> str:
    """The report as Markdown.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    check_finite(report)
    return "\n".join(_lines(report)) + "\n"


def _lines(report: AuditReport) -> Iterator[str]:
    info, data, network = report.checkpoint, report.data, report.network
    yield f"## peelaudit: {verdict_text(network.held_out.verdict)}"
    yield ""
    yield (
        f"{_plain(info.path)} ({_plain(info.format)}, {_plain(info.family)}"
        f", {info.layers} layers × {info.width} wide), "
        f"{count(data.held_out.tokens)} held-out tokens of {_plain(data.source)}. "
        f"The paper's verdict, on fit tokens: {verdict_text(network.paper_verdict)}."
    )
    yield ""
    yield from (f"> {_plain(text)}" for text in [report.advice] if text)
    yield ""
    yield from _network(report)
    yield ""
    yield "### Layers"
    yield ""
    yield "Held-out tokens; blocks 1 to k alone, read out at once. Losses and gaps in nats/token."
    yield ""
    header = ("k", "trained", "YES-0", "bound", "gap", "95 %", "best schedule", "target", "redundancy", "verdict")
    yield from _table(header, map(_layer, report.layers), right=(0, 1, 2, 3, 4, 5, 7, 8))
    yield ""
    yield from _schedules(report)
    if report.warnings:
        yield ""
        yield from (f"- Warning: {_plain(warning)}" for warning in report.warnings)


def _network(report: AuditReport) -> Iterator[str]:
    network, base = report.network, report.baselines
    labels = {
        "trained_loss": "trained loss",
        "trained_readout_loss": f"trained layers, readout {network.readout}",
        "yes0": "YES-0",
        "bound": f"YES\\* ({_plain(network.best_schedule)})",
        "gap_total": "**gap_total** = trained loss - YES\\*",
        "gap_head": "gap_head, the readout's part",
        "gap_layers": "**gap_layers**, the layers' part",
    }
    rows = [_figure(network.held_out, network.fit, name, label) for name, label in labels.items()]
    rows.append(("unigram baseline", number(base.unigram.value), interval(base.unigram), ""))
    rows.append(("uniform baseline", number(base.uniform), "", ""))
    yield from _table(("nats/token", "held-out", "95 %", "fit"), rows, right=(1, 2, 3))


def _figure(held_out: SplitFigures, fit: SplitFigures, name: str, label: str) -> tuple[str, str, str, str]:
    ours, theirs = getattr(held_out, name), getattr(fit, name)
    gap = name.startswith("gap")
    form = signed if gap else number
    return label, form(ours.value), interval(ours, sign=gap), form(theirs.value)


def _layer(row: LayerRow) -> tuple[str, ...]:
    figures = row.held_out
    return (
        str(row.layer),
        number(figures.trained_readout_loss.value),
        number(figures.yes0.value),
        number(figures.bound.value),
        signed(row.gap.value),
        interval(row.gap, sign=True),
        _plain(row.best_schedule, 30),
        str(row.best_target),
        number(row.redundancy.value),
        verdict_text(figures.verdict),
    )


def _schedules(report: AuditReport) -> Iterator[str]:
    """The schedules that were run, folded away."""
    yield f"<details><summary>{count(len(report.schedules))} schedules</summary>"
    yield ""
    ranked = sorted(report.schedules, key=lambda schedule: schedule.select.bound.value)[:_SCHEDULES_LISTED]
    rows = (
        (
            _plain(schedule.name, 30),
            targets_text(schedule.targets, 40),
            number(schedule.select.bound.value),
            number(schedule.held_out.bound.value),
            number(schedule.fit.bound.value),
        )
        for schedule in ranked
    )
    yield from _table(("schedule", "fitted to", "select", "held-out", "fit"), rows, right=(2, 3, 4))
    if len(report.schedules) > len(ranked):
        yield ""
        yield f"The best {len(ranked)} on select; the JSON report has them all."
    yield ""
    yield "</details>"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, right: tuple[int, ...]) -> Iterator[str]:
    yield _row(header)
    yield _row(tuple("---:" if index in right else "---" for index in range(len(header))))
    yield from map(_row, rows)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str, width: int = 1_000) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would act on."""
    shown = printable(text)
    return (shown if len(shown) <= width else shown[: width - 1] + "…").translate(_SPECIAL)
