"""The whole report, in the order of a reader's questions: what was audited, is it effective, which layers."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.records import AuditReport, Estimate, SplitFigures, SplitInfo, Verdict
from peelaudit.reports.terminal import layers, schedules
from peelaudit.reports.terminal.page import LEAST_WIDTH, STYLES, draw, heading, pairs, prose, table
from peelaudit.reports.wording.escape import printable
from peelaudit.reports.wording.text import abbreviate, count, flow, interval, number, signed, size, verdict_text
from peelaudit.reports.wording.words import BITS_ROWS, HEAD_WORDS, LEGEND, VERDICT_MEANING, baseline_warning, bits_words

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
    network, base = report.network, report.baselines
    held_out, fit = network.held_out, network.fit
    grid = table()
    grid.add_column("nats/token", min_width=36, no_wrap=True)
    for name in ("held-out", "95 %", "fit"):
        grid.add_column(name, justify="right", min_width=9, no_wrap=True)
    head = HEAD_WORDS.get(network.readout, network.readout)
    _loss(grid, "trained loss", held_out.trained_loss, fit.trained_loss)
    if network.readout != "own":
        _loss(
            grid, f"  trained layers, {abbreviate(head, 14)}", held_out.trained_readout_loss, fit.trained_readout_loss
        )
    _loss(grid, "YES-0", held_out.yes0, fit.yes0)
    best = network.best_schedule
    _loss(grid, f"YES* ({schedules.short_name(report, best, 14)})", held_out.bound, fit.bound)
    _gaps(grid, held_out, fit)
    if held_out.float_bound is not None:
        _loss(grid, BITS_ROWS["float_bound"], held_out.float_bound, fit.float_bound)
    if held_out.distortion is not None and fit.distortion is not None:
        cells = (signed(held_out.distortion.value), interval(held_out.distortion, sign=True))
        grid.add_row(BITS_ROWS["distortion"], *cells, signed(fit.distortion.value))
    if network.rival is not None and network.margin is not None:
        name = schedules.short_name(report, network.rival, 12)
        margin = network.margin
        grid.add_row(f"nearest rival - trained ({name})", signed(margin.value), interval(margin, sign=True), "")
    _loss(grid, "unigram baseline", base.unigram, None)
    grid.add_row("uniform baseline", number(base.uniform), "", "")
    return grid


def _gaps(grid: Table, held_out: SplitFigures, fit: SplitFigures) -> None:
    for label, name in (
        ("gap_total = trained loss - YES*", "gap_total"),
        ("  gap_head    the readout's part", "gap_head"),
        ("  gap_layers  the layers' part", "gap_layers"),
    ):
        figure: Estimate = getattr(held_out, name)
        own: Estimate = getattr(fit, name)
        grid.add_row(label, signed(figure.value), interval(figure, sign=True), signed(own.value))


def _loss(grid: Table, label: str, held_out: Estimate, fit: Estimate | None) -> None:
    grid.add_row(label, number(held_out.value), interval(held_out), "" if fit is None else number(fit.value))
