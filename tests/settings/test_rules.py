"""How a rule is written, and which layers a selector names."""

from __future__ import annotations

import pytest

from peelaudit.errors import ConfigError
from peelaudit.settings.rules import parse_rule, parse_selector


def covered(selector: str, layers: int = 12) -> list[int]:
    found = parse_selector(selector)
    return [layer for layer in range(1, layers + 1) if layer in found]


@pytest.mark.parametrize(
    ("text", "metric", "layers", "limit"),
    [
        ("gap_layers=0.05", "gap_layers", None, 0.05),
        ("gap=0.05", "gap_layers", None, 0.05),
        ("gap_total=1e-3", "gap_total", None, 1e-3),
        ("gap_head=-0.1", "gap_head", None, -0.1),
        ("trained_loss=3", "trained_loss", None, 3.0),
        ("layer.gap=0.02", "gap", [1, 2, 3, 4], 0.02),
        ("layer[*].redundancy=0.9", "redundancy", [1, 2, 3, 4], 0.9),
        ("layer.depth_gap=0.1", "depth_gap", [1, 2, 3, 4], 0.1),
        ("layer[2].gap=0.02", "gap", [2], 0.02),
        ("layer[2].gap_layers=0.02", "gap_layers", [2], 0.02),
        ("layer[1-2,4].trained_loss=2", "trained_loss", [1, 2, 4], 2.0),
    ],
)
def test_rules(text: str, metric: str, layers: list[int] | None, limit: float) -> None:
    rule = parse_rule(text)
    assert (rule.text, rule.metric, rule.limit, rule.relative) == (text, metric, limit, False)
    assert (rule.layers and [k for k in range(1, 5) if k in rule.layers]) == layers


def test_only_a_regression_may_be_relative() -> None:
    rule = parse_rule("trained_loss=5%", regression=True)
    assert (rule.limit, rule.relative) == (0.05, True)
    assert not parse_rule("trained_loss=0.05", regression=True).relative
    assert parse_rule("layer.parent_gap=5%", regression=True).metric == "parent_gap"
    for text in ("parent_gap=0.1", "layer.redundancy=0.1"):
        with pytest.raises(ConfigError, match="to look at here"):
            parse_rule(text, regression=True)
    with pytest.raises(ConfigError, match="per cent is for fail-regression"):
        parse_rule("trained_loss=5%")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no rule"),
        ("gap_layers", "is no rule"),
        ("gap_layers<0.1", "is no rule"),
        ("gap_layers=0.1=2", "is no rule"),
        ("layers.gap=0.1", "is no rule"),
        ("layer[1.gap=0.1", "is no rule"),
        ("gap_layer=0.1", "did you mean gap_layers"),
        ("redundancy=0.1", "no 'redundancy' to look at"),
        ("layer.reading=1", "no 'reading' to look at"),
        ("gap=nan", "not a finite number"),
        ("gap=inf", "not a finite number"),
        ("gap=-1e999", "not a finite number"),
        ("gap=five", "not a finite number"),
        ("layer[].gap=0.1", "names no layers"),
        ("layer[0].gap=0.1", "names no layers"),
        ("layer[3-2].gap=0.1", "names no layers"),
        ("layer[1,,2].gap=0.1", "names no layers"),
        ("layer[-1].gap=0.1", "names no layers"),
        ("layer[1-2-3].gap=0.1", "names no layers"),
    ],
)
def test_what_is_no_rule(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rule(text)
    (problem,) = caught.value.problems
    assert words in problem
    assert repr(text) in problem


@pytest.mark.parametrize("text", ["trained_loss=-5%", "trained_loss=nan%", "trained_loss=%", "layer.redundancy=0.1"])
def test_what_is_no_regression_rule(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_rule(text, regression=True)


def test_a_layers_own_gap_is_not_compared_with_a_baseline() -> None:
    with pytest.raises(ConfigError, match="can't be paired with the baseline's: limit gap_layers"):
        parse_rule("layer[2].gap=0.1", regression=True)
    assert parse_rule("layer[2].gap_layers=0.1", regression=True).metric == "gap_layers"
    assert parse_rule("gap=0.1", regression=True).metric == "gap_layers"


def test_selectors() -> None:
    assert covered("*") == list(range(1, 13))
    assert covered("3, 5-7 ,12") == [3, 5, 6, 7, 12]
    assert parse_selector("1-3,5,7-9").beyond(4) == ("5", "7-9")
    assert parse_selector("*").beyond(4) == ()
