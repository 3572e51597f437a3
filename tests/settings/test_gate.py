"""What a suppression is about, and a policy that makes no sense."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from peelaudit.errors import ConfigError
from peelaudit.records import GateCheck, Outcome
from peelaudit.settings.gate import GatePolicy, Suppression
from peelaudit.settings.rules import parse_rule, parse_selector


def check(**changes: Any) -> GateCheck:
    values: dict[str, Any] = {
        "checkpoint": "runs/a/ckpt.pt",
        "rule": "layer.gap=0.1",
        "layer": 2,
        "metric": "gap_layers",
    }
    values |= {"limit": 0.1, "figure": None, "outcome": Outcome.FAILED, "suppressed": None, "fails": True, "reason": ""}
    return GateCheck(**(values | changes))


def suppression(**changes: Any) -> Suppression:
    values: dict[str, Any] = {"checkpoint": "*", "layers": None, "metric": None, "rule": None, "reason": "known"}
    return Suppression(**(values | {"expires": date(2030, 1, 1)} | changes))


@pytest.mark.parametrize(
    ("about", "excused"),
    [
        ({}, True),
        ({"checkpoint": "ckpt.pt"}, True),
        ({"checkpoint": "runs/*/ckpt.pt"}, True),
        ({"checkpoint": "b/ckpt.pt"}, False),
        ({"checkpoint": "ckpt"}, False),
        ({"layers": parse_selector("2-3")}, True),
        ({"layers": parse_selector("1")}, False),
        ({"metric": "gap_layers"}, True),
        ({"metric": "gap_total"}, False),
        ({"rule": "layer.gap=0.1"}, True),
        ({"rule": "layer.gap=0.10"}, False),
    ],
)
def test_what_a_suppression_excuses(about: dict[str, Any], excused: bool) -> None:
    assert suppression(**about).excuses(check()) is excused


def test_a_suppression_of_layers_is_not_of_the_network() -> None:
    assert not suppression(layers=parse_selector("*")).excuses(check(layer=None))


def test_a_policy_names_all_that_makes_no_sense() -> None:
    with pytest.raises(ConfigError) as caught:
        GatePolicy(
            fail_regression=(parse_rule("gap=1%", regression=True),),
            on_inconclusive="maybe",  # type: ignore[arg-type]
        )
    assert [problem.split()[0] for problem in caught.value.problems] == ["on-inconclusive", "fail-regression"]
    assert not GatePolicy().demands
