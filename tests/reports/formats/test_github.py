"""GitHub's annotations, read back as the runner reads them."""

from __future__ import annotations

import re

import pytest

from peelaudit.records import GateCheck, Outcome, Unaudited, Verdict
from peelaudit.reports.formats import Format, export
from tests.factories import make_report
from tests.reports.formats.support import make_check

HOSTILE = "a,b::c%0A::error title=x::50%\r\nd.pt"


def read(text: str) -> list[tuple[str, str, str]]:
    """Level, title and message of each line, unescaped in the runner's own order."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"::(error|warning|notice) title=([^:,]*)::(.*)", line)
        assert match, line
        level, title, message = match.groups()
        for escape, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            title = title.replace(escape, char)
        for escape, char in (("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
            message = message.replace(escape, char)
        found.append((level, title, message))
    return found


def annotations(*reports, checks: tuple[GateCheck, ...] = (), failures: tuple[Unaudited, ...] = ()):
    return read(export(reports, Format.GITHUB, checks=checks, failures=failures))


def test_one_annotation_for_a_checkpoint_that_fails() -> None:
    checks = tuple(make_check(layer=layer, reason=f"Layer {layer} is beyond.") for layer in range(1, 9))
    found = annotations(make_report(), make_report(path="good.pt", verdict=Verdict.RED), checks=checks)
    assert [level for level, _, _ in found] == ["error", "error"]
    assert found[0][1] == "peelaudit: runs/tiny/ckpt.pt"
    assert found[0][2].startswith("Layer 1 is beyond. [layer.gap=0.02, failed] Layer 2")
    assert found[0][2].endswith("And 3 more.")


@pytest.mark.parametrize(
    ("outcomes", "level"),
    [
        ([Outcome.PASSED, Outcome.FAILED, Outcome.SUPPRESSED], "error"),
        ([Outcome.SUPPRESSED, Outcome.INCONCLUSIVE], "warning"),
        ([Outcome.PASSED, Outcome.SUPPRESSED], "notice"),
    ],
)
def test_the_gravest_check_is_the_level(outcomes: list[Outcome], level: str) -> None:
    (found,) = annotations(make_report(), checks=tuple(make_check(outcome=outcome) for outcome in outcomes))
    assert found[0] == level


def test_a_passed_gate_is_one_notice() -> None:
    (found,) = annotations(
        make_report(),
        make_report(path="b"),
        checks=(make_check(outcome=Outcome.PASSED), make_check("b", Outcome.PASSED)),
    )
    assert found == ("notice", "peelaudit", "2 checkpoints, 0 fail the gate, 2 red")


@pytest.mark.parametrize(
    ("verdict", "level"), [(Verdict.RED, "error"), (Verdict.YELLOW, "warning"), (Verdict.GREY, "notice")]
)
def test_without_a_gate_the_verdict_decides(verdict: Verdict, level: str) -> None:
    ((found, title, message),) = annotations(make_report(verdict=verdict))
    assert (found, title) == (level, "peelaudit: runs/tiny/ckpt.pt")
    assert re.match(f"{verdict} . can do better: its layers by 0.042 nats/token", message)
    assert "gap_layers +0.042 nats/token" in message


def test_a_green_is_one_notice() -> None:
    assert annotations(make_report(verdict=Verdict.GREEN)) == [("notice", "peelaudit", "1 checkpoint, 1 green")]


def test_what_was_not_audited_is_an_error() -> None:
    found = annotations(
        make_report(verdict=Verdict.GREEN), failures=(Unaudited("bad.pt", "UnreadableCheckpoint", "x"),)
    )
    assert found == [("error", "peelaudit: bad.pt", "UnreadableCheckpoint: x")]


def test_hostile_names_stay_inside_their_annotation() -> None:
    found = annotations(make_report(path=HOSTILE), checks=(make_check(HOSTILE, reason=HOSTILE),))
    shown = HOSTILE.replace("\r", "\\r").replace("\n", "\\n")
    assert found == [("error", f"peelaudit: {shown}", f"{shown} [layer.gap=0.02, failed]")]


def test_a_long_message_is_cut() -> None:
    ((_, _, message),) = annotations(make_report(), checks=(make_check(reason="x" * 100_000),))
    assert len(message) == 4_000
