"""GitHub's workflow commands: one annotation for each checkpoint that fails, to be written on a job's stdout.

With a gate's checks, `::error` is a checkpoint that fails, `::warning` one that passes with something inconclusive,
`::notice` one that passes thanks to a suppression. Without, the verdict decides, and the headline is said: red is an
error, yellow a warning, grey a notice. What could not be audited is an error. Where there is nothing to say, one notice
says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from peelaudit.escape import printable
from peelaudit.records import AuditReport, GateCheck, Outcome, Verdict
from peelaudit.reports.formats.content import Content, gravest_first
from peelaudit.reports.wording.findings import headline_text
from peelaudit.reports.wording.text import interval, signed

__all__ = ["export"]

_LEVELS = {Verdict.RED: "error", Verdict.YELLOW: "warning", Verdict.GREY: "notice"}
_REASONS = 5
_LONGEST = 4_000  # characters of a message; the log shows the rest of a longer one as plain text


def export(content: Content) -> str:
    """The annotations, a line each.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    content.check_finite()
    lines = [_command("error", f"peelaudit: {f.checkpoint}", f"{f.error}: {f.reason}") for f in content.failures]
    lines += [line for report in content.ranked() for line in _of_report(content, report)]
    return "\n".join(lines or [_command("notice", "peelaudit", content.headline())]) + "\n"


def _of_report(content: Content, report: AuditReport) -> Iterator[str]:
    checks, path = content.checks_of(report), report.checkpoint.path
    if checks:
        if open_checks := [check for check in gravest_first(checks) if check.outcome is not Outcome.PASSED]:
            yield _command(_level(open_checks), f"peelaudit: {path}", _reasons(open_checks))
        return
    figures = report.network.held_out
    if (level := _LEVELS.get(figures.verdict)) is not None:
        found = report.network.gap_layers
        gap = "" if found is None else f" gap_layers {signed(found.value)} nats/token ({interval(found, sign=True)})"
        yield _command(level, f"peelaudit: {path}", f"{headline_text(report)}.{gap}")


def _level(checks: list[GateCheck]) -> str:
    if any(check.fails for check in checks):
        return "error"
    return "notice" if all(check.outcome is Outcome.SUPPRESSED for check in checks) else "warning"


def _reasons(checks: list[GateCheck]) -> str:
    more = len(checks) - _REASONS
    words = " ".join(f"{check.reason} [{check.rule}, {check.outcome}]" for check in checks[:_REASONS])
    return words + (f" And {more} more." if more > 0 else "")


def _command(level: str, title: str, message: str) -> str:
    shown = printable(message)
    shown = shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
    return f"::{level} title={_property(title)}::{_data(shown)}"


def _data(text: str) -> str:
    """As the runner unescapes a message. Newlines were spelt out already; another's text may still hold `%0A`."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """As the runner unescapes a property, which ends at a comma or at `::`."""
    return _data(printable(text)).replace(":", "%3A").replace(",", "%2C")
