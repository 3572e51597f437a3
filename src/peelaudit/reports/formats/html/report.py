"""One report's sections, in the order of a reader's questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peelaudit.records import AuditReport, GateCheck, LayerRow, Outcome, Verdict
from peelaudit.reports.formats.content import gravest_first
from peelaudit.reports.formats.html import pictures
from peelaudit.reports.formats.html.parts import (
    Cell,
    Column,
    heading,
    listed,
    number_cell,
    path_text,
    signed_cell,
    table,
    verdict_cell,
)
from peelaudit.reports.formats.markup import Markup, element
from peelaudit.reports.wording.escape import printable
from peelaudit.reports.wording.text import abbreviate, count, interval, number, signed, size, targets_text, verdict_text
from peelaudit.reports.wording.words import BITS_ROWS, LEGEND, VERDICT_MEANING, baseline_warning, bits_words
from peelaudit.settings.command import repeat_command

__all__ = ["checks_table", "sections"]

_SCHEDULES_LISTED = 30
_NAME_WIDTH = 28


def sections(report: AuditReport, checks: Sequence[GateCheck], *, prefix: str, level: int) -> Iterator[Markup]:
    """The report's sections. `prefix` begins its identifiers, `level` is that of its headings."""
    yield from _verdict(report)
    if checks:
        yield heading(level, "Gate")
        yield checks_table(checks)
    yield from _network(report, level)
    yield from pictures.gaps(report, level)
    yield from _layers(report, level)
    yield from pictures.peel_map(report, level)
    yield from pictures.redundancy(report, level)
    yield from _references(report, level)
    yield heading(level, "Warnings")
    yield listed(report.warnings) if report.warnings else element("p", "None.")
    yield from _origin(report, level, prefix)


def _verdict(report: AuditReport) -> Iterator[Markup]:
    network = report.network
    verdict = network.held_out.verdict
    yield element(
        "p",
        _coloured(verdict),
        f" on held-out tokens: {VERDICT_MEANING[verdict]} gap_layers, the layers' part of the distance to the best "
        f"reference, is {signed(network.held_out.gap_layers.value)} nats/token "
        f"({interval(network.held_out.gap_layers, sign=True)}).",
        class_="lead",
    )
    if words := baseline_warning(report):
        yield element("div", element("p", element("strong", "Worse than guessing. "), words), class_="box alarm")
    yield element("div", element("p", element("strong", "Advice. "), report.advice), class_="box")
    yield element("p", element("strong", "What it says and what it doesn't."))
    yield listed(_limits(report))
    yield element("p", "Checkpoint: ", element("code", report.checkpoint.path), ", ", _subject(report), ".")


def _limits(report: AuditReport) -> Iterator[str]:
    data, paper = report.data, report.network.paper_verdict
    yield (
        f"It holds for {count(data.held_out.tokens)} held-out tokens of {data.source}, and for references run: "
        f"{count(report.search.run)}. Green is a certificate against these, not a proof of optimality."
    )
    differ = "." if paper is report.network.held_out.verdict else "; where the two differ, trust the held-out one."
    yield (
        f"The paper's own verdict, on fit tokens, is {verdict_text(paper)}. It tests the model's own head against "
        f"refitted heads on the very tokens that the references were fitted to{differ}"
    )
    yield f"Intervals are 95 %, from a bootstrap over {count(data.held_out.clusters)} clusters ({data.unit}s)."


def _subject(report: AuditReport) -> str:
    info = report.checkpoint
    step = "no step recorded" if info.training_step is None else f"step {count(info.training_step)}"
    shape = f"{info.layers} layers × {info.width} wide, {size(info.parameters, '')} parameters"
    return f"{info.format}, {info.family}, {shape}, {info.dtype}, {step}"


def _coloured(verdict: Verdict) -> Markup:
    return element("span", verdict_text(verdict), class_=f"v v-{verdict}")


def checks_table(checks: Sequence[GateCheck], *, named: bool = False) -> Markup:
    """A gate's checks, what fails first; those suppressed stay visible. `named` adds the checkpoint."""
    columns = [
        Column("outcome"),
        *([Column("checkpoint")] if named else []),
        Column("rule"),
        Column("row"),
        Column("figure", right=True),
        Column("limit", right=True),
        Column("reason", wide=True),
    ]
    rows = (
        [
            Cell(_outcome(check), str(index)),
            *([path_text(check.checkpoint)] if named else []),
            check.rule,
            "network" if check.layer is None else Cell(f"layer {check.layer}", str(check.layer)),
            "" if check.figure is None else signed_cell(check.figure),
            "" if check.limit is None else Cell(f"{check.limit:g}", repr(check.limit)),
            check.reason,
        ]
        for index, check in enumerate(gravest_first(checks))
    )
    suppressed = sum(check.outcome is Outcome.SUPPRESSED for check in checks)
    caption = f"{count(len(checks))} checks of the gate, {sum(check.fails for check in checks)} fail"
    return table(f"{caption}, {suppressed} suppressed. Figures and limits in nats/token.", columns, rows, sortable=True)


def _outcome(check: GateCheck) -> str:
    words = "fails" if check.fails else str(check.outcome)
    return words + ("" if check.suppressed is None else f" ({check.suppressed})")


def _network(report: AuditReport, level: int) -> Iterator[Markup]:
    network, base = report.network, report.baselines
    labels = {
        "trained_loss": "trained loss",
        "trained_readout_loss": f"trained layers, readout {network.readout}",
        "yes0": "YES-0",
        "bound": f"YES* ({_name(network.best_schedule)})",
        "gap_total": "gap_total = trained loss − YES*",
        "gap_head": "gap_head, the readout's part",
        "gap_layers": "gap_layers, the layers' part",
    }
    if network.held_out.distortion is not None:
        labels |= BITS_ROWS
    yield heading(level, "The network")
    yield element("p", LEGEND)
    if words := bits_words(report):
        yield element("p", f"Low-bit: {words}.")
    rows: list[list[Cell | str]] = []
    for name, label in labels.items():
        ours, theirs = getattr(network.held_out, name), getattr(network.fit, name)
        form = signed if name.startswith(("gap", "distortion")) else number
        rows.append([label, form(ours.value), interval(ours, sign=form is signed), form(theirs.value)])
    if network.rival is not None and network.margin is not None:
        label, margin = f"nearest rival − trained ({_name(network.rival)})", network.margin
        rows.append([label, signed(margin.value), interval(margin, sign=True), ""])
    rows.append(["unigram baseline", number(base.unigram.value), interval(base.unigram), ""])
    rows.append(["uniform baseline", number(base.uniform), "", ""])
    columns = [Column("figure"), *(Column(title, right=True) for title in ("held-out", "95 %", "fit"))]
    yield table("Losses and gaps of the whole network, nats/token", columns, rows)


def _layers(report: AuditReport, level: int) -> Iterator[Markup]:
    columns = [
        *(Column(title, right=True) for title in ("layer", "trained", "YES-0", "bound", "gap (95 %)")),
        Column("verdict"),
        Column("best reference"),
        *(Column(title, right=True) for title in ("target", "redundancy", "next block")),
        *((Column("repair gap (95 %)", right=True),) if report.repair else ()),
        *((Column(f"{name} slope (95 %)", right=True) for name in ("scale", "bulk")) if report.has_slopes else ()),
        Column("in words", wide=True),
    ]
    yield heading(level, "Layers")
    yield element(
        "p",
        "Blocks 1 to k alone, read out at once. Redundancy and next block are errors without unit: of leaving the "
        "block out, and of this block, refitted, at the next one's job."
        + (" Repair gap: what the network gains when this block alone is repaired." if report.repair else "")
        + (
            " Scale slope: the derivative of the whole network's loss by the log of a scale of this block's matrices; "
            "near 0 where training has settled it. Bulk slope: the same without their leading directions; noise "
            "raises it."
            if report.has_slopes
            else ""
        ),
        class_="soft",
    )
    yield table(
        "A row for each layer: held-out losses and gaps, nats/token",
        columns,
        (_layer_cells(row, slopes=report.has_slopes) for row in report.layers),
        sortable=True,
    )


def _layer_cells(row: LayerRow, *, slopes: bool) -> list[Cell | str]:
    figures, errors = row.held_out, row.projection_error
    return [
        Cell(str(row.layer), str(row.layer)),
        number_cell(figures.trained_readout_loss.value),
        number_cell(figures.yes0.value),
        number_cell(figures.bound.value),
        signed_cell(row.gap),
        verdict_cell(figures.verdict),
        _name(row.best_schedule),
        Cell(str(row.best_target), str(row.best_target)),
        number_cell(row.redundancy.value),
        number_cell(errors[1].value) if len(errors) > 1 else "",
        *(() if row.repair_gap is None else (signed_cell(row.repair_gap),)),
        *(("" if one is None else signed_cell(one) for one in (row.scale_slope, row.bulk_slope)) if slopes else ()),
        row.reading,
    ]


def _references(report: AuditReport, level: int) -> Iterator[Markup]:
    ranked = sorted(report.schedules, key=lambda schedule: schedule.select.bound.value)
    columns = [
        Column("schedule"),
        Column("fitted to"),
        *(Column(title, right=True) for title in ("select", "held-out", "95 %", "fit")),
    ]
    rows: Iterator[list[Cell | str]] = (
        [
            _name(schedule.name),
            targets_text(schedule.targets, 40),
            number_cell(schedule.select.bound.value),
            number_cell(schedule.held_out.bound.value),
            interval(schedule.held_out.bound),
            number_cell(schedule.fit.bound.value),
        ]
        for schedule in ranked[:_SCHEDULES_LISTED]
    )
    cut = len(ranked) - _SCHEDULES_LISTED
    words = f"References run: {count(len(ranked))}, the best on select first"
    if cut > 0:
        words += f"; {count(cut)} more are in the JSON report"
    yield heading(level, "References")
    yield table(f"{words}. Losses in nats/token.", columns, rows, sortable=True)
    if report.yes:
        bounds = (
            [f"YES-{y.waypoints}", number(y.held_out.value), interval(y.held_out), _name(y.schedule)]
            for y in report.yes
        )
        columns = [Column("bound"), Column("held-out", right=True), Column("95 %", right=True), Column("schedule")]
        yield table("YES-k, the best reference with at most k waypoints, nats/token", columns, bounds)


def _origin(report: AuditReport, level: int, prefix: str) -> Iterator[Markup]:
    info, data = report.checkpoint, report.data
    yield heading(level, "How to repeat it")
    yield element("pre", element("code", repeat_command(report.settings)))
    digests = [
        ("weights and configuration", info.sha256),
        ("calibration source", data.sha256),
        ("tokens of the three splits", data.tokens_sha256),
    ]
    yield table("Digests, SHA-256", [Column("of"), Column("digest")], digests)
    yield table("Environment", [Column("part"), Column("version")], report.versions)
    settings = [(name.replace("_", "-"), _setting(value)) for name, value in report.settings]
    yield table("Settings", [Column("setting"), Column("value")], settings)
    yield element(
        "p",
        "The whole report is inside this page as JSON, in the element ",
        element("code", f"script#report-{prefix.removeprefix('r')}"),
        ".",
        class_="soft",
    )


def _name(schedule: str) -> str:
    """A schedule's name as far as it fits into a column: an explicit mapping has a number for each layer."""
    return abbreviate(printable(schedule), _NAME_WIDTH)


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    return ", ".join(map(_setting, value)) if isinstance(value, tuple) else str(value)
