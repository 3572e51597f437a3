"""The whole report, in the order of a reader's questions: what was audited, is it effective, which layers."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.records import AuditReport, SplitInfo, Verdict
from peelaudit.reports.terminal import layers, schedules
from peelaudit.reports.terminal.page import LEAST_WIDTH, STYLES, draw, heading, pairs, prose, table
from peelaudit.reports.wording.escape import printable
from peelaudit.reports.wording.tables import network_lines
from peelaudit.reports.wording.text import count, flow, size, verdict_text
from peelaudit.reports.wording.words import LEGEND, VERDICT_MEANING, baseline_warning, bits_words

__all__ = ["render"]


def render(report: AuditReport, *, width: int, colour: bool, encoding: str) -> str:
    """The report as text; see `peelaudit.reports.terminal.render_report`."""
    return draw(_parts(report, max(width, LEAST_WIDTH)), width=width, colour=colour, encoding=encoding)


def _parts(report: AuditReport, width: int) -> Iterator[RenderableType]:
    yield prose(
        ("peelaudit", "bold"), f" {dict(report.versions).get('peelaudit', '')}, all losses and gaps in nats/token"
    )
    yield Text("")
    yield pairs(_subject(report, width))
    if words := baseline_warning(report):
        yield Text("")
        yield prose(("Worse than guessing. ", STYLES[Verdict.RED]), words)
    yield Text("")
    yield pairs(_verdicts(report))
    yield heading("The network")
    yield _figures(report)
    yield prose((LEGEND, "dim"))
    yield from layers.parts(report, width)
    yield from schedules.parts(report, width)
    if report.warnings:
        yield heading("Warnings")
        yield from (prose("! ", warning) for warning in report.warnings)
    yield Text("")
    yield prose(("Advice: ", "bold"), report.advice)


def _subject(report: AuditReport, width: int) -> Iterator[tuple[str, Text]]:
    info, data, settings = report.checkpoint, report.data, dict(report.settings)
    yield "checkpoint", prose(info.path)
    step = "no step recorded" if info.training_step is None else f"step {count(info.training_step)}"
    facts = [
        info.format,
        info.family,
        f"{info.layers} layers × {info.width} wide",
        f"{size(info.parameters, '')} parameters",
    ]
    yield "", _flowing([*facts, step], width)
    if words := bits_words(report):
        yield "low-bit", prose(words)
    documents = "sequences" if data.documents is None else f"{count(data.documents)} documents"
    yield "data", prose(data.source)
    yield (
        "",
        _flowing([data.kind, documents, f"split by {data.unit}", f"{count(data.seq_len)} tokens a sequence"], width),
    )
    splits = (("fit", data.fit), ("select", data.select), ("held-out", data.held_out))
    yield "", _flowing([_split_words(name, split) for name, split in splits], width)
    method = [
        f"{name} {settings[name]}"
        for name in ("solver", "readout", "depth_readout", "dtype", "seed")
        if name in settings
    ]
    yield "method", _flowing([*method, f"{count(report.search.run)} schedules"], width)


def _split_words(name: str, split: SplitInfo) -> str:
    return f"{name} {count(split.tokens)} tokens"


def _flowing(items: list[str], width: int) -> Text:
    return Text("\n".join(flow(map(printable, items), width - 13)))


def _verdicts(report: AuditReport) -> Iterator[tuple[str, Text]]:
    network = report.network
    verdict, paper = network.held_out.verdict, network.paper_verdict
    yield "verdict", prose((verdict_text(verdict), STYLES[verdict]), f" on held-out tokens: {VERDICT_MEANING[verdict]}")
    note = "It tests its own head against refitted heads on the very tokens that the references were fitted to."
    if paper is not verdict:
        note += " Here the two differ: trust the held-out one."
    yield "paper's", prose((verdict_text(paper), STYLES[paper]), f" on fit tokens, as in arXiv 2605.02853. {note}")


def _figures(report: AuditReport) -> Table:
    """The network's losses and gaps: held-out with intervals, fit beside."""
    grid = table()
    grid.add_column("nats/token", min_width=36, no_wrap=True)
    for name in ("held-out", "95 %", "fit"):
        grid.add_column(name, justify="right", min_width=9, no_wrap=True)
    for line in network_lines(report, lambda name: schedules.short_name(report, name, 12)):
        grid.add_row(("  " if line.part else "") + line.label, line.held_out, line.interval, line.fit)
    return grid
