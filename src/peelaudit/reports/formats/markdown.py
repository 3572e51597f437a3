"""GitHub-flavoured Markdown, for a step summary or a pull request's comment.

GitHub refuses a step summary of over 1 MiB. So several reports are one overview table, and a section each in the order
of gravity for as many as fit; what was cut is said.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from peelaudit.errors import ConfigError
from peelaudit.records import AuditReport, GateCheck, Outcome
from peelaudit.records.quantities import Form, Quantity
from peelaudit.reports.formats.content import Content, gravest_first
from peelaudit.reports.formats.markdown_parts import plain, table
from peelaudit.reports.trajectory import trace
from peelaudit.reports.wording.findings import (
    PROFILE_WORDS,
    headline_text,
    layer_note,
    own_columns,
    profile_columns,
    profile_figure,
    refinement_lines,
)
from peelaudit.reports.wording.series import defect_words, series_words
from peelaudit.reports.wording.tables import glossary, network_lines, with_interval
from peelaudit.reports.wording.text import count, interval, number, signed, targets_text, verdict_text
from peelaudit.reports.wording.words import bits_words, front_words, parent_words, share_words

__all__ = ["export"]

_SCHEDULES_LISTED = 30
_CHECKS_LISTED = 50
_MOST_BYTES = 1_000_000
_LIMIT_WORDS = "GitHub takes no summary of over 1 MiB. `peelaudit convert` writes one report by itself."


def export(content: Content) -> str:
    """The content as Markdown, under 1 MB of UTF-8.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    content.check_finite()
    if len(content.reports) == 1 and not content.failures:
        return _fitted([], content, content.reports)
    lines = [f"# peelaudit: {content.headline()}", ""]
    lines += [f"- **not audited**: {plain(f.checkpoint)}: {plain(f'{f.error}: {f.reason}')}" for f in content.failures]
    lines += [*([""] if content.failures else []), *_series(content), *_overview(content), ""]
    return _fitted(lines, content, content.ranked())


def _fitted(head: list[str], content: Content, reports: Sequence[AuditReport]) -> str:
    """As many lines of the head, and then as many reports' sections, as `_MOST_BYTES` has room for."""
    kept: list[str] = []
    used = 0
    for index, line in enumerate(head):
        used += _bytes(line) + 1
        if used > _MOST_BYTES:
            return "\n".join([*kept, "", f"**Cut here**: {len(head) - index} lines more, for {_LIMIT_WORDS}", ""])
        kept.append(line)
    for index, report in enumerate(reports):
        section = _section(report, content)
        used += _bytes(section) + 1
        if used > _MOST_BYTES:
            words = f"**Cut here**: the sections of {len(reports) - index} of {len(reports)} checkpoints"
            return "\n".join([*kept, f"{words}, for {_LIMIT_WORDS}", ""])
        kept.append(section)
    return "\n".join(kept)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "backslashreplace"))


def _overview(content: Content) -> Iterator[str]:
    """A line for each report, what fails first."""
    header = (
        "checkpoint",
        "step",
        "verdict",
        "trained loss",
        "YES\\*",
        "best",
        "gap_layers",
        "95 %",
        "rival",
        "named",
        "gate",
    )
    yield from table(header, (_overview_row(content, report) for report in content.ranked()), right=(1, 3, 4, 6, 7))


def _series(content: Content) -> Iterator[str]:
    """What the reports show together, where they are of one training run."""
    if len(content.reports) > 1:
        with contextlib.suppress(ConfigError):  # checkpoints that have nothing to do with one another
            trajectory = trace(content.reports)
            for words in (*series_words(trajectory), *map(defect_words, trajectory.defects)):
                yield plain(words)
                yield ""


def _overview_row(content: Content, report: AuditReport) -> tuple[str, ...]:
    figures, step, gap = report.network.held_out, report.checkpoint.training_step, report.network.gap_layers
    return (
        plain(report.checkpoint.path, 120),
        "" if step is None else count(step),
        verdict_text(figures.verdict),
        number(figures.trained_loss.value),
        number(figures.bound.value),
        plain(report.network.best_schedule, 30),
        "" if gap is None else signed(gap.value),
        "" if gap is None else interval(gap, sign=True),
        plain(report.network.rival or "", 30),
        ", ".join(map(str, sorted(set(report.named)))),
        _gate_words(content.checks_of(report)),
    )


def _gate_words(checks: Sequence[GateCheck]) -> str:
    """`2 fail, 1 suppressed`: what is worth a word."""
    if not checks:
        return ""
    failing = sum(check.fails for check in checks)
    counts = {"fail": failing} | {
        str(outcome): sum(check.outcome is outcome and not check.fails for check in checks)
        for outcome in (Outcome.INCONCLUSIVE, Outcome.SUPPRESSED)
    }
    return ", ".join(f"{many} {word}" for word, many in counts.items() if many) or "passed"


def _section(report: AuditReport, content: Content) -> str:
    return "\n".join(_lines(report, content.checks_of(report))) + "\n"


def _lines(report: AuditReport, checks: Sequence[GateCheck]) -> Iterator[str]:
    yield from _introduction(report)
    yield from _checks(checks)
    yield from _network(report)
    yield ""
    yield from _layers(report)
    yield ""
    yield from _profile(report)
    yield ""
    yield from _schedules(report)
    if report.warnings:
        yield ""
        yield from (f"- Warning: {plain(warning)}" for warning in report.warnings)


def _introduction(report: AuditReport) -> Iterator[str]:
    info, data, network = report.checkpoint, report.data, report.network
    yield f"## peelaudit: {plain(headline_text(report))}"
    yield ""
    yield (
        f"{plain(info.path)} ({plain(info.format)}, {plain(info.family)}"
        f", {info.layers} layers × {info.width} wide), "
        f"{count(data.held_out.tokens)} held-out tokens of {plain(data.source)}. "
        + (f"Mixture: {words}. " if (words := plain(share_words(data))) else "")
        + (f"Fed: {words}. " if (words := front_words(data)) else "")
        + (f"The paper's verdict, on fit tokens: {verdict_text(paper)}." if (paper := network.paper_verdict) else "")
        + (f" Low-bit: {words}." if (words := plain(bits_words(report))) else "")
        + (f" Parent: {words}." if (words := plain(parent_words(report))) else "")
    )
    yield ""
    yield from (f"> {plain(text)}" for text in [report.advice] if text)
    yield ""


def _checks(checks: Sequence[GateCheck]) -> Iterator[str]:
    """What the gate didn't pass, what fails first; nothing without a gate."""
    if not checks:
        return
    shown = [check for check in gravest_first(checks) if check.outcome is not Outcome.PASSED]
    yield "### Gate"
    yield ""
    yield f"{count(len(checks))} check{'s' * (len(checks) != 1)}: {_gate_words(checks)}."
    yield ""
    if shown:
        rows = (
            (
                "**fails**" if check.fails else str(check.outcome),
                plain(check.rule, 60),
                "network" if check.layer is None else f"layer {check.layer}",
                "" if check.figure is None else f"{signed(check.figure.value)} ({interval(check.figure, sign=True)})",
                plain(check.reason, 300),
            )
            for check in shown[:_CHECKS_LISTED]
        )
        yield from table(("outcome", "rule", "row", "figure (95 %)", "reason"), rows, right=(3,))
        yield ""
    if len(shown) > _CHECKS_LISTED:
        yield f"{count(len(shown) - _CHECKS_LISTED)} checks more that did not pass were cut here."
        yield ""


def _network(report: AuditReport) -> Iterator[str]:
    lines = (*network_lines(report, str), *refinement_lines(report))
    rows = ((plain(line.label), line.held_out, line.interval, line.fit) for line in lines)
    yield from table(("nats/token", "held-out", "95 %", "fit"), rows, right=(1, 2, 3))


def _layers(report: AuditReport) -> Iterator[str]:
    """What each block by itself shows, and what the columns are."""
    figures = own_columns(report.layers)
    rows = (
        (
            str(row.layer),
            *(with_interval(one.of(row), one.form) for one in figures),
            plain(layer_note(report, row)),
        )
        for row in report.layers
    )
    yield "### Layers"
    yield ""
    yield "Each layer by itself, held-out tokens; gaps and slopes in nats/token."
    yield ""
    yield from table(("k", *map(_header, figures), ""), rows, right=range(len(figures) + 1))
    yield ""
    yield plain(glossary(figures))


def _profile(report: AuditReport) -> Iterator[str]:
    """The network cut after each layer, folded away, and what the columns are."""
    figures = profile_columns(report.layers)
    rows = (
        (
            str(row.layer),
            *(with_interval(profile_figure(one, row), one.form) for one in figures),
            plain(row.best_schedule, 30),
            str(row.best_target),
        )
        for row in report.layers
    )
    header = ("k", *map(_header, figures), "best schedule", "target")
    yield "<details><summary>Peel profile</summary>"
    yield ""
    yield f"{plain(PROFILE_WORDS)} Losses and gaps in nats/token."
    yield ""
    yield from table(header, rows, right=(*range(len(figures) + 1), len(figures) + 2))
    yield ""
    yield plain(glossary(figures))
    yield ""
    yield "</details>"


def _header(one: Quantity) -> str:
    return f"{plain(one.header)}{' (95 %)' * (one.form is Form.GAP)}"


def _schedules(report: AuditReport) -> Iterator[str]:
    """The schedules that were run, folded away."""
    yield f"<details><summary>{count(len(report.schedules))} schedules</summary>"
    yield ""
    ranked = sorted(report.schedules, key=lambda schedule: schedule.select.bound.value)[:_SCHEDULES_LISTED]
    rows = (
        (
            plain(schedule.name, 30),
            targets_text(schedule.targets, 40),
            number(schedule.select.bound.value),
            number(schedule.held_out.bound.value),
            number(schedule.fit.bound.value),
        )
        for schedule in ranked
    )
    yield from table(("schedule", "fitted to", "select", "held-out", "fit"), rows, right=(2, 3, 4))
    if len(report.schedules) > len(ranked):
        yield ""
        yield f"The best {len(ranked)} on select; the JSON report has them all."
    yield ""
    yield "</details>"
