"""What an export shows: one report or many, what a gate said of them, and what could not be audited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peelaudit.records import AuditReport, GateCheck, Outcome, Unaudited, Verdict
from peelaudit.records.shapes import check_finite

__all__ = ["Content", "gravest_first"]

_GRAVEST_FIRST = (Verdict.RED, Verdict.YELLOW, Verdict.GREY, Verdict.GREEN)


@dataclass(frozen=True, slots=True)
class Content:
    """Reports in the order given. A check belongs to every report of its checkpoint's path."""

    reports: tuple[AuditReport, ...]
    checks: tuple[GateCheck, ...] = ()
    failures: tuple[Unaudited, ...] = ()

    def check_finite(self) -> None:
        """Raise NonFiniteResult, with the field's path, if any figure is NaN or infinite."""
        alone = len(self.reports) == 1
        for index, report in enumerate(self.reports):
            check_finite(report, "" if alone else f"reports[{index}]")
        for index, check in enumerate(self.checks):
            check_finite(check, f"checks[{index}]")

    def checks_of(self, report: AuditReport) -> tuple[GateCheck, ...]:
        """The gate's checks of a report."""
        return tuple(check for check in self.checks if check.checkpoint == report.checkpoint.path)

    def fails(self, report: AuditReport) -> bool:
        """Whether a check makes the gate fail at this report."""
        return any(check.fails for check in self.checks_of(report))

    def ranked(self) -> tuple[AuditReport, ...]:
        """The reports, what fails first, then by verdict, the gravest first; otherwise as given."""
        return tuple(sorted(self.reports, key=self._rank))

    def headline(self) -> str:
        """One line on all of them: how many there are, and how many fail."""
        total = len(self.reports) + len(self.failures)
        parts = [f"{total} checkpoint{'s' * (total != 1)}"]
        if self.checks:
            failing = sum(map(self.fails, self.reports))
            parts.append(f"{failing} {'fails' if failing == 1 else 'fail'} the gate")
        counts = dict.fromkeys(_GRAVEST_FIRST, 0)
        for report in self.reports:
            counts[report.network.held_out.verdict] += 1
        parts += [f"{number} {verdict}" for verdict, number in counts.items() if number]
        if self.failures:
            parts.append(f"{len(self.failures)} not audited")
        return ", ".join(parts)

    def _rank(self, report: AuditReport) -> tuple[bool, int]:
        return not self.fails(report), _GRAVEST_FIRST.index(report.network.held_out.verdict)


def gravest_first(checks: Sequence[GateCheck]) -> tuple[GateCheck, ...]:
    """Checks that fail, then the other ones that didn't pass, then the rest; otherwise as given."""
    return tuple(sorted(checks, key=lambda check: (not check.fails, check.outcome is Outcome.PASSED)))
