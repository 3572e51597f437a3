"""A report: a page by default, and in full all that it holds."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.escape import printable
from peelaudit.records import AuditReport, SplitInfo, Verdict
from peelaudit.reports.terminal import layers, schedules, summary
from peelaudit.reports.terminal.page import LEAST_WIDTH, STYLES, draw, heading, pairs, prose, table
from peelaudit.reports.wording.findings import refinement_lines
from peelaudit.reports.wording.summary import EVERY_LAYER
from peelaudit.reports.wording.tables import network_lines
from peelaudit.reports.wording.text import count, flow, size, verdict_text
from peelaudit.reports.wording.words import LEGEND, baseline_warning, bits_words, front_words, share_words

__all__ = ["render"]

_LINES, _LAYERS = 24, 4
"""What a page takes at most with so many layers, or fewer; each more takes a line."""


def render(report: AuditReport, *, full: bool, width: int, colour: bool, encoding: str) -> str:
    """The report as text; see `peelaudit.reports.terminal.render_report`."""
    columns = max(width, LEAST_WIDTH)
    if full:
        return draw(_full(report, columns), width=width, colour=colour, encoding=encoding)
    text = draw(_page(report, columns), width=width, colour=colour, encoding=encoding)
    return _squeezed(text, _LINES + max(0, min(len(report.layers), EVERY_LAYER) - _LAYERS))


def _squeezed(text: str, most: int) -> str:
    """The page in `most` lines, if it is only blank ones that are too many: the last of them go first."""
    lines = text.splitlines()
    while len(lines) > most and "" in lines:
        del lines[len(lines) - 1 - lines[::-1].index("")]
    return "\n".join(lines) + "\n"


def _page(report: AuditReport, width: int) -> Iterator[RenderableType]:
    yield from summary.parts(report, width, every_layer=False)
    if many := len(report.warnings):
        yield prose((f"! {count(many)} warning{'s' * (many != 1)} (--full)", "dim"))


def _full(report: AuditReport, width: int) -> Iterator[RenderableType]:
    yield from summary.parts(report, width, every_layer=True)
    if report.warnings:
        yield heading("Warnings")
        yield from (prose("! ", warning) for warning in report.warnings)
    yield heading("What was audited")
    yield pairs(_subject(report, width))
    yield heading("The network")
    if words := baseline_warning(report):
        yield prose(("Worse than guessing. ", STYLES[Verdict.RED]), words)
    yield _figures(report)
    yield prose((LEGEND, "dim"))
    yield _paper(report)
    yield from layers.parts(report, width)
    yield from schedules.parts(report, width)


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
    for words in filter(None, (share_words(data), front_words(data))):
        yield "", prose(words)
    splits = (("fit", data.fit), ("select", data.select), ("held-out", data.held_out))
    yield "", _flowing([_split_words(name, split) for name, split in splits], width)
    method = [
        f"{name} {settings[name]}"
        for name in ("effort", "tolerance", "solver", "readout", "depth_readout", "dtype", "seed")
        if name in settings
    ]
    yield "method", _flowing([*method, f"{count(report.search.run)} schedules"], width)
    yield "peelaudit", prose(str(dict(report.versions).get("peelaudit", "")))


def _split_words(name: str, split: SplitInfo) -> str:
    return f"{name} {count(split.tokens)} tokens"


def _flowing(items: list[str], width: int) -> Text:
    return Text("\n".join(flow(map(printable, items), width - 13)))


def _paper(report: AuditReport) -> Text:
    paper = report.network.paper_verdict
    if paper is None:
        return prose("The paper's verdict: none, for no reference block was fitted.")
    words = (
        " on fit tokens, as in arXiv 2605.02853. It tests the network's own head against refitted heads on the very "
        "tokens that the references were fitted to."
    )
    if paper is not report.verdict:
        words += " Here it differs from the verdict on held-out tokens: trust that one."
    return prose("The paper's verdict: ", (verdict_text(paper), STYLES[paper]), words)


def _figures(report: AuditReport) -> Table:
    """The network's losses and gaps: held-out with intervals, fit beside."""
    grid = table()
    grid.add_column("nats/token", min_width=36, no_wrap=True)
    for name in ("held-out", "95 %", "fit"):
        grid.add_column(name, justify="right", min_width=9, no_wrap=True)
    lines = network_lines(report, lambda name: schedules.short_name(report, name, 12))
    for line in (*lines, *refinement_lines(report)):
        grid.add_row(("  " if line.part else "") + line.label, line.held_out, line.interval, line.fit)
    return grid
