"""The selftest's page: what the verdict tells of the faults, where there is one."""

from __future__ import annotations

import dataclasses

import pytest

from peelaudit.records import FaultKind, FaultResult, Said, Selftest, Verdict
from peelaudit.reports.terminal import render_selftest


def result(*verdicts: Verdict | None) -> Selftest:
    faults = tuple(
        FaultResult(kind, layer, 0.1, (("audit", 1),), Said((), (), verdict))
        for kind in (FaultKind.NOISED, FaultKind.ONE_BIT)
        for layer, verdict in enumerate(verdicts, 1)
    )
    return Selftest("x.pt", "text.txt", 9000, len(verdicts), 1.5, faults, (Said(()),))


def test_verdicts_other_than_green_are_counted_by_kind() -> None:
    found = result(Verdict.RED, Verdict.GREEN, Verdict.GREY, Verdict.YELLOW)
    text = render_selftest(found)
    (row,) = [line.split() for line in text.splitlines() if line.startswith("not green ")]
    assert row == ["not", "green", "3", "3", "6"]
    first = dataclasses.replace(found.faults[0], said=Said((), (), Verdict.GREEN))
    text = render_selftest(dataclasses.replace(found, faults=(first, *found.faults[1:])))
    assert [line.split()[2:] for line in text.splitlines() if line.startswith("not green ")] == [["2", "3", "5"]]


@pytest.mark.parametrize("layers", [1, 3])
def test_without_references_there_is_no_verdict_to_count(layers: int) -> None:
    lines = render_selftest(result(*[None] * layers)).splitlines()
    assert not any(line.startswith("not green") for line in lines)
