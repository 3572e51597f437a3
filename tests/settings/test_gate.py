"""The gate's settings and suppressions: what is excused, who wins, and every mistake told with where it came from."""

from __future__ import annotations

import dataclasses
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from peelaudit.errors import ConfigError
from peelaudit.records import GateCheck, Outcome, Verdict
from peelaudit.settings import GATE_SETTINGS, resolve, resolve_gate
from peelaudit.settings.gate import GatePolicy, Suppression
from peelaudit.settings.rules import NAMED, parse_rule, parse_selector

SUPPRESSION = '[[suppress]]\ncheckpoint = "ckpt.pt"\nreason = "known"\nexpires = 2030-01-31\n'


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


def policy(directory: Path, environ: dict[str, str] | None = None, **flags: Any) -> GatePolicy:
    return resolve_gate(flags, environ=environ or {}, directory=directory)


def problems(directory: Path, environ: dict[str, str] | None = None, **flags: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        policy(directory, environ, **flags)
    return caught.value.problems


def rules(found: GatePolicy) -> list[str]:
    return [rule.text for rule in found.fail_over]


def test_every_field_is_a_setting() -> None:
    assert {"suppressions", *GATE_SETTINGS} == {field.name for field in dataclasses.fields(GatePolicy)}


def test_nothing_is_demanded_by_default(tmp_path: Path) -> None:
    assert policy(tmp_path) == GatePolicy()


def test_flag_over_file_over_variable(tmp_path: Path) -> None:
    (tmp_path / "peelaudit.toml").write_text('[gate]\nfail-over = ["gap_layers=0.1", "layer.gap=0.2"]\n')
    environ = {"PEELAUDIT_FAIL_OVER": "gap_head=1", "PEELAUDIT_FAIL_ON": "red, grey, named"}
    assert rules(policy(tmp_path, environ)) == ["gap_layers=0.1", "layer.gap=0.2"]
    assert rules(policy(tmp_path, environ, fail_over=["bound=3"])) == ["bound=3"]
    assert policy(tmp_path, environ).fail_on == (Verdict.RED, Verdict.GREY, NAMED)
    (tmp_path / "peelaudit.toml").unlink()
    assert rules(policy(tmp_path, environ)) == ["gap_head=1"]


def test_every_kind_from_a_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.peelaudit]\ntokens = 99\n[tool.peelaudit.gate]\nfail-over = "gap = 0.1; layer[1, 2].gap=0.2"\n'
        'fail-on = ["red", "red"]\nfail-regression = ["trained_loss=5%"]\nbaseline = "reports/base.json"\n'
        'on-inconclusive = "fail"\n' + SUPPRESSION.replace("suppress", "tool.peelaudit.suppress")
    )
    found = policy(tmp_path)
    assert rules(found) == ["gap=0.1", "layer[1,2].gap=0.2"]
    assert (found.fail_on, found.on_inconclusive) == ((Verdict.RED,), "fail")
    assert [rule.relative for rule in found.fail_regression] == [True]
    assert found.baseline == str(tmp_path / "reports/base.json")
    (suppression,) = found.suppressions
    assert (suppression.checkpoint, suppression.reason, suppression.expires) == ("ckpt.pt", "known", date(2030, 1, 31))
    assert resolve("c", {}, environ={}, directory=tmp_path).tokens == 99


def test_all_mistakes_at_once_with_their_origins(tmp_path: Path) -> None:
    toml = tmp_path / "peelaudit.toml"
    toml.write_text(
        'fail-over = "gap=1"\n[gate]\nfail-onn = "red"\ntokens = 4\nfail-regression = ["gap=x", "nap=1"]\n'
        "baseline = 3\n"
        '[[suppress]]\ncheckpoint = ""\nlayer = 0\nmetric = "gpa"\nexpires = "2030-01-01"\nwhy = 1\n'
    )
    found = problems(tmp_path, {"PEELAUDIT_FAILON": "red"}, fail_over=["gap_layers"], on_inconclusive="maybe")
    expected = [
        "PEELAUDIT_FAILON: no such setting; did you mean PEELAUDIT_FAIL_ON?",
        f"gate.fail-onn in {toml}: no such setting; did you mean fail-on?",
        f"gate.tokens in {toml}: a setting of the audit",
        f"gate.fail-regression in {toml}: 'gap=x': the limit",
        f"gate.fail-regression in {toml}: 'nap=1': there is no 'nap'",
        f"gate.baseline in {toml} is 3: expected a path",
        "--fail-over: 'gap_layers' is no rule",
        f"suppress 1 in {toml}: why is not one of",
        f"suppress 1 in {toml}: checkpoint is '': expected a text",
        f"suppress 1 in {toml}: layer is 0: [0] names no layers",
        f"suppress 1 in {toml}: metric is 'gpa': there is no 'gpa'",
        f"suppress 1 in {toml}: reason is missing",
        f"suppress 1 in {toml}: expires is '2030-01-01': expected a date",
        "--on-inconclusive is 'maybe': expected warn | pass | fail",
    ]
    assert len(found) == len(expected)
    for problem, start in zip(found, expected, strict=True):
        assert problem.startswith(start)
    with pytest.raises(ConfigError, match=r"fail-over in .*: belongs in the table `gate`"):
        resolve("c", {}, environ={}, directory=tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("gate = 3", "gate in .* is 3: expected a table"),
        ("suppress = 3", "suppress in .* is 3: expected an array"),
        ("suppress = [3]", "suppress 1 in .*: 3 is no table"),
        (SUPPRESSION.replace("2030-01-31", "2030-01-31T10:00:00"), "expected a date"),
        (SUPPRESSION.replace('"ckpt.pt"', '"."'), "expected a glob"),
        ('[gate]\nfail-on = "green"', r"expected red \| yellow \| grey"),
        ("[gate]\nfail-over = []", "expected a rule or a list of rules"),
        ("[gate]\nfail-over = {gap = 1}", "expected a rule or a list of rules"),
        ('[gate]\nfail-regression = "gap=1"', "fail-regression in .* needs a baseline"),
        ("gate = ", "is not TOML"),
    ],
)
def test_unusable_files(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "peelaudit.toml").write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        policy(tmp_path)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("layer", ["2", '"2"', '"1-3,7"', '"*"'])
def test_layers_of_a_suppression(layer: str, tmp_path: Path) -> None:
    (tmp_path / "peelaudit.toml").write_text(f"{SUPPRESSION}layer = {layer}\nmetric = 'gap'\n")
    (suppression,) = policy(tmp_path).suppressions
    assert suppression.layers is not None
    assert 2 in suppression.layers
    assert suppression.metric == "gap"
