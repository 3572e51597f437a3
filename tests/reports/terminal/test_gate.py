"""The gate's section and the comparison: they fit, what failed comes first, and nothing in them is code."""

from __future__ import annotations

import dataclasses
from datetime import date

import pytest
from rich.cells import cell_len

from peelaudit.records import Verdict
from peelaudit.reports.compare import compare
from peelaudit.reports.gate import gate
from peelaudit.reports.terminal import render_comparison, render_gate
from peelaudit.settings.gate import GatePolicy, Suppression
from peelaudit.settings.rules import parse_rule
from tests.factories import make_report
from tests.variants import moved, reweighted, with_settings

HOSTILE = "a\x1b]0;owned\x07[bold red]b[/]\n\udcff.pt"
TODAY = date(2026, 6, 1)


def widest(text: str) -> int:
    return max(cell_len(line) for line in text.splitlines())


def checks(n_layers: int = 4, path: str = "ckpt.pt"):
    base = make_report(n_layers, path=path)
    rules = ("layer.gap=0.02", "layer[1-3].trained_readout_loss=2.5", "gap_layers=0.03", "bound=99")
    policy = GatePolicy(
        fail_over=tuple(map(parse_rule, rules)),
        fail_on=(Verdict.YELLOW,),
        fail_regression=(parse_rule("layer[*].trained_readout_loss=0.001%", regression=True),),
        baseline="-",
        suppressions=(Suppression("*", None, "trained_readout_loss", None, f"why {HOSTILE}", TODAY),),
    )
    return gate(moved(base, 2, 0.5, losses=("trained",)), policy, today=TODAY, baseline=base).checks


@pytest.mark.parametrize("n_layers", [4, 12, 80])
@pytest.mark.parametrize("width", [1, 80, 120])
def test_the_gate_fits_its_columns(n_layers: int, width: int) -> None:
    text = render_gate(checks(n_layers, HOSTILE), title=HOSTILE, width=width)
    assert widest(text) <= max(width, 80)
    assert "\x1b" not in text
    assert text.endswith("\n")


def test_what_failed_comes_first_and_what_passed_in_a_line() -> None:
    text = render_gate(checks())
    signs = [line[0] for line in text.splitlines() if line[:3] in ("✗ f", "? i", "~ s", "✓ p")]
    assert signs == sorted(signs, key="✗?~✓".index)
    assert "✓ passed bound=99" in text
    assert "Suppressed until 2026-06-01: why a" in text


def test_a_gate_that_passed_is_short() -> None:
    passed = [check for check in checks() if check.outcome == "passed"]
    text = render_gate(passed)
    assert f"passed: 0 of {len(passed)} checks fail" in text
    assert "outcome" not in text


def test_colours_are_asked_for() -> None:
    assert "\x1b[1;31m" in render_gate(checks(), colour=True)
    assert render_gate(checks(), encoding="ascii").isascii()


@pytest.mark.parametrize("n_layers", [4, 80])
@pytest.mark.parametrize("width", [1, 80, 120])
def test_a_comparison_fits_its_columns(n_layers: int, width: int) -> None:
    base = make_report(n_layers, path=HOSTILE)
    text = render_comparison(compare(base, moved(reweighted(base, 3), 3, -123.4)), width=width)
    assert widest(text) <= max(width, 80)
    assert "\x1b" not in text


def test_a_comparison_begins_with_both_headlines() -> None:
    base = make_report(verdict=Verdict.GREEN, headline="effective: it is")
    new = dataclasses.replace(make_report(verdict=Verdict.YELLOW), headline=HOSTILE)
    lines = render_comparison(compare(base, new), colour=True).splitlines()
    assert "\x1b[32m✓ green\x1b[0m, effective: it is" in lines[1]
    assert "\x1b[33m! yellow\x1b[0m, a\\x1b]0;owned" in lines[3]


def test_a_comparison_has_a_row_for_the_network_and_each_layer() -> None:
    base = make_report(4)
    new = with_settings(moved(moved(reweighted(base, 3), 3, 0.25), 4, 0.25), device="cuda")
    lines = render_comparison(compare(base, new)).splitlines()
    rows = {line.split()[0]: line.split()[-1] for line in lines if "+" in line and "," not in line}
    assert rows == {"network": "worse", "1*": "unchanged", "2*": "unchanged", "3": "worse", "4*": "worse"}
    assert any("+0.250" in line for line in lines)
    assert "The change begins at layer 3." in " ".join(lines)
