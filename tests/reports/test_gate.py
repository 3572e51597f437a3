"""A report against a policy: outcomes, verdicts, suppressions, and what is never a pass."""

from __future__ import annotations

import dataclasses
import math
from datetime import date
from typing import Any

import pytest

from peelaudit.errors import ConfigError, IncomparableReports, NonFiniteResult, ReportError
from peelaudit.records import AuditReport, Estimate, GateCheck, LayerRefinement, LayerSigns, Outcome, Symptom, Verdict
from peelaudit.reports.gate import GateResult, gate, suppression_notes
from peelaudit.settings.gate import GatePolicy, Suppression
from peelaudit.settings.rules import NAMED, parse_rule, parse_selector
from tests.factories import make_estimate, make_report, with_parent
from tests.variants import judged, moved, reweighted, unfitted, with_row, with_settings

TODAY = date(2026, 6, 1)
REPORT = make_report(4, seed=1)


def policy(*rules: str, regressions: tuple[str, ...] = (), **others: Any) -> GatePolicy:
    return GatePolicy(
        fail_over=tuple(map(parse_rule, rules)),
        fail_regression=tuple(parse_rule(rule, regression=True) for rule in regressions),
        baseline="base.json" if regressions else None,
        **others,
    )


def gated(report: AuditReport, demands: GatePolicy, baseline: AuditReport | None = None) -> GateResult:
    return gate(report, demands, today=TODAY, baseline=baseline)


def only(result: GateResult) -> GateCheck:
    (check,) = result.checks
    return check


def with_figure(report: AuditReport, layer: int, metric: str, figure: Estimate) -> AuditReport:
    return with_row(report, layer, held_out=dataclasses.replace(report.layers[layer - 1].held_out, **{metric: figure}))


@pytest.mark.parametrize(
    ("figure", "outcome", "fails"),
    [
        (Estimate(0.2, 0.11, 0.3), Outcome.FAILED, True),
        (Estimate(0.2, 0.1, 0.3), Outcome.INCONCLUSIVE, False),
        (Estimate(0.05, 0.0, 0.10000001), Outcome.INCONCLUSIVE, False),
        (Estimate(0.05, 0.0, 0.1), Outcome.PASSED, False),
        (Estimate(0.1, 0.1, 0.1), Outcome.PASSED, False),
        (Estimate(0.1 + 1e-12, 0.1 + 1e-12, 0.1 + 1e-12), Outcome.FAILED, True),  # unrounded
    ],
)
def test_the_whole_interval_decides(figure: Estimate, outcome: Outcome, fails: bool) -> None:
    check = only(gated(with_figure(REPORT, 4, "gap_layers", figure), policy("gap_layers=0.1")))
    assert (check.outcome, check.fails, check.figure, check.limit) == (outcome, fails, figure, 0.1)
    assert (check.rule, check.layer, check.metric) == ("gap_layers=0.1", None, "gap_layers")


@pytest.mark.parametrize(("setting", "fails"), [("warn", False), ("pass", False), ("fail", True)])
def test_what_is_inconclusive_has_its_own_setting(setting: Any, fails: bool) -> None:
    report = with_figure(REPORT, 4, "gap_layers", Estimate(0.1, 0.0, 0.2))
    result = gated(report, policy("gap_layers=0.1", on_inconclusive=setting))
    assert only(result).outcome is Outcome.INCONCLUSIVE
    assert result.failed is fails


@pytest.mark.parametrize("metric", ["trained_loss", "trained_readout_loss", "yes0", "bound", "gap_total", "gap_head"])
def test_every_figure_can_be_limited(metric: str) -> None:
    figure = getattr(REPORT.network.held_out, metric)
    assert only(gated(REPORT, policy(f"{metric}={figure.low - 0.01}"))).outcome is Outcome.FAILED
    assert only(gated(REPORT, policy(f"{metric}={figure.high + 0.01}"))).outcome is Outcome.PASSED


def test_rows_are_selected() -> None:
    result = gated(REPORT, policy("layer[1,3-9].redundancy=-1", "layer.gap=-9"))
    assert [check.layer for check in result.checks] == [1, 3, 4, 1, 2, 3, 4]
    assert result.checks[0].figure == REPORT.layers[0].redundancy
    assert result.checks[-1].figure == REPORT.layers[-1].gap


def test_layers_own_gaps_are_limited_where_there_are_any() -> None:
    quick = dataclasses.replace(REPORT, layers=tuple(dataclasses.replace(row, gap=None) for row in REPORT.layers))
    with pytest.raises(ConfigError, match=r"'layer.gap=0.1' needs an audit with --effort default or thorough"):
        gated(quick, policy("layer.gap=0.1"))
    assert only(gated(quick, policy("layer[4].depth_gap=9"))).figure == REPORT.layers[3].depth_gap
    layers = tuple(dataclasses.replace(row, gap=make_estimate(row.layer / 10, 0.01)) for row in REPORT.layers)
    result = gated(dataclasses.replace(REPORT, layers=layers), policy("layer.gap=0.25"))
    assert [(check.layer, check.outcome) for check in result.checks] == [
        (3, Outcome.FAILED),
        (4, Outcome.FAILED),
        (1, Outcome.PASSED),
        (2, Outcome.PASSED),
    ]


@pytest.mark.parametrize("rule", ["layer[5].gap=9", "layer[1,5-8].gap=9"])
def test_a_rule_that_matches_no_row_is_no_pass(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"matches no row for layer 5.* has layers 1 to 4"):
        gated(REPORT, policy(rule))


@pytest.mark.parametrize(
    "figure",
    [
        Estimate(math.nan, 0.0, 0.1),
        Estimate(0.0, math.nan, 0.1),
        Estimate(0.0, 0.0, math.nan),
        Estimate(-math.inf, -math.inf, -math.inf),
        Estimate(0.0, -math.inf, 0.1),
        Estimate(5.0, 0.0, 0.1),  # outside its own interval
    ],
)
@pytest.mark.parametrize(
    "demands", [policy("gap_layers=9"), policy("layer.gap_layers=9"), policy(fail_on=(Verdict.RED,))]
)
def test_what_is_not_finite_is_an_error(figure: Estimate, demands: GatePolicy) -> None:
    with pytest.raises(NonFiniteResult, match="gap_layers of"):
        gated(with_figure(REPORT, 4, "gap_layers", figure), demands)


def grey(over_yes0: float, gap_low: float, spread: float = 0.0) -> AuditReport:
    """A grey network that is `over_yes0` above YES-0 on average, and whose gap's interval begins at `gap_low`."""
    report = judged(REPORT, 4, Verdict.GREY)
    sums = report.layers[3].held_out_sums
    report = with_row(report, 4, held_out_sums=dataclasses.replace(sums, yes0=sums.trained))
    report = moved(report, 4, over_yes0, spread=spread, losses=("trained",))
    return with_figure(report, 4, "gap_layers", Estimate(0.05, gap_low, 0.1))


@pytest.mark.parametrize(
    ("report", "red", "yellow", "grey_outcome"),
    [
        (judged(REPORT, 4, Verdict.GREEN), "passed", "passed", "passed"),
        (judged(REPORT, 4, Verdict.YELLOW), "passed", "failed", "passed"),
        (judged(REPORT, 4, Verdict.RED), "failed", "failed", "passed"),
        (grey(-0.2, -0.1), "passed", "inconclusive", "failed"),  # below YES-0 for sure, YES* is open
        (grey(0.01, -0.1, spread=0.3), "inconclusive", "inconclusive", "failed"),  # both are open
        (unfitted(grey(0.01, -0.1, spread=0.3)), "passed", "inconclusive", "failed"),  # there is no YES-0
    ],
)
def test_verdicts(report: AuditReport, red: str, yellow: str, grey_outcome: str) -> None:
    for verdict, outcome in ((Verdict.RED, red), (Verdict.YELLOW, yellow), (Verdict.GREY, grey_outcome)):
        check = only(gated(report, policy(fail_on=(verdict,))))
        assert (check.rule, check.outcome) == (verdict, outcome)
        assert (check.figure, check.limit, check.metric) == (None, None, "verdict")


def test_a_verdict_that_fails_is_told_with_the_headline() -> None:
    report = dataclasses.replace(judged(REPORT, 4, Verdict.YELLOW), headline="can do better: the gap of layer 2")
    check = only(gated(report, policy(fail_on=(Verdict.YELLOW,))))
    words = "The network is yellow on held-out tokens, which yellow forbids: can do better: the gap of layer 2."
    assert check.reason == words


def test_a_network_is_grey_for_its_interval_or_for_the_reference_that_was_not_run() -> None:
    straddling = only(gated(grey(-0.2, -0.1), policy(fail_on=(Verdict.YELLOW,))))
    assert straddling.reason.endswith("its intervals don't tell whether it is yellow or worse.")
    report = grey(-0.2, -0.1)
    report = dataclasses.replace(report, network=dataclasses.replace(report.network, refinement=None))
    unrun = only(gated(report, policy(fail_on=(Verdict.YELLOW,))))
    assert unrun.outcome is Outcome.INCONCLUSIVE
    assert unrun.reason.endswith("the reference refined wasn't run, which would tell whether it is yellow or worse.")
    assert only(gated(report, policy(fail_on=(Verdict.RED,)))).outcome is Outcome.PASSED


def test_a_layer_that_is_named_fails() -> None:
    signs, gap = LayerSigns(1.0, 1.0, 99.0), make_estimate(0.3, 0.01)
    slopes = dict.fromkeys(("scale_slope", "bulk_slope"), gap)
    layers = [dataclasses.replace(row, signs=signs, gap=gap, **slopes) for row in REPORT.layers]
    healthy = dataclasses.replace(REPORT, layers=tuple(layers))
    demands = policy(fail_on=(NAMED,))
    check = only(gated(healthy, demands))
    assert (check.layer, check.outcome, check.reason) == (None, Outcome.PASSED, "No layer is named.")
    layers[1] = dataclasses.replace(layers[1], symptoms=(Symptom.NOISY, Symptom.MLP_SILENT))
    refinement = LayerRefinement((1,) * len(layers), (0,) * len(layers), 5.0, (4,))
    result = gated(dataclasses.replace(healthy, layers=tuple(layers), refinement=refinement), demands)
    assert result.failed
    assert [(check.layer, check.rule, check.metric, check.reason) for check in result.checks] == [
        (2, "named", "named", "Layer 2 is named: noisy and MLP silent."),
        (4, "named", "named", "Layer 4 is named: its gap stands out."),
    ]
    unsure = dataclasses.replace(refinement, named=(), judged=False)
    check = only(gated(dataclasses.replace(healthy, refinement=unsure), demands))
    assert check.reason == "No layer is named for its looks or its slopes; by their gaps none can be told here."
    check = only(gated(dataclasses.replace(healthy, refinement=None), demands))
    assert check.reason == "No layer is named for its looks or its slopes; none was refined alone."
    layers[:2] = [healthy.layers[0], dataclasses.replace(healthy.layers[1], bulk_slope=None)]
    check = only(gated(dataclasses.replace(healthy, layers=tuple(layers)), demands))
    assert (check.outcome, check.reason) == (
        Outcome.INCONCLUSIVE,
        "No layer is named, but layer 2 has no slopes.",
    )
    with pytest.raises(ReportError, match="name a layer that it doesn't have"):
        gated(dataclasses.replace(healthy, refinement=dataclasses.replace(refinement, named=(9,))), demands)
    with pytest.raises(ConfigError, match="'named' needs a report that looked at the layers"):
        gated(
            dataclasses.replace(REPORT, layers=tuple(dataclasses.replace(row, signs=None) for row in REPORT.layers)),
            demands,
        )


@pytest.mark.parametrize(
    ("rule", "by", "outcome"),
    [
        ("trained_loss=0.1", 0.11, Outcome.FAILED),
        ("trained_loss=0.1", 0.09, Outcome.PASSED),
        ("trained_loss=1%", 0.054, Outcome.FAILED),  # of 5.270
        ("trained_loss=1%", 0.052, Outcome.PASSED),
        ("trained_loss=-0.1", -0.05, Outcome.FAILED),  # it was to improve
        ("trained_loss=0", 0.0, Outcome.PASSED),
    ],
)
def test_regressions(rule: str, by: float, outcome: Outcome) -> None:
    check = only(gated(moved(REPORT, 4, by), policy(regressions=(rule,)), REPORT))
    assert (check.rule, check.outcome) == (f"regression {rule}", outcome)
    assert check.figure is not None
    assert check.figure.value == pytest.approx(by)


def test_a_share_of_nothing_allows_what_two_evaluations_differ_by() -> None:
    base = with_figure(REPORT, 4, "gap_layers", Estimate(0.0, 0.0, 0.0))
    demands = policy(regressions=("gap_layers=5%",))
    assert only(gated(moved(base, 4, 9e-5, losses=("trained",)), demands, base)).outcome is Outcome.PASSED
    assert only(gated(moved(base, 4, 2e-4, losses=("trained",)), demands, base)).outcome is Outcome.FAILED


def test_what_a_layer_loses_to_its_parents_may_not_regress() -> None:
    base, new = (with_parent(REPORT, *gaps) for gaps in ((0.1, 0.0, 0.2, 0.0), (0.1, 0.0, 0.5, 0.0)))
    demands = policy(regressions=("layer[3].parent_gap=0.05",))
    assert only(gated(new, demands, base)).outcome is Outcome.FAILED
    assert only(gated(base, demands, base)).outcome is Outcome.PASSED
    with pytest.raises(ConfigError, match="not in both reports, read out the same way and against the same parent"):
        gated(new, demands, REPORT)


def test_a_straddling_regression_is_inconclusive() -> None:
    check = only(gated(moved(REPORT, 4, 0.1, spread=0.5), policy(regressions=("trained_loss=0.1",)), REPORT))
    assert check.outcome is Outcome.INCONCLUSIVE


def test_a_failed_regression_names_the_layer_where_it_begins() -> None:
    new = moved(moved(reweighted(REPORT, 3), 3, 0.2), 4, 0.2)
    check = only(gated(new, policy(regressions=("trained_loss=0.1",)), REPORT))
    assert check.reason.endswith("The change begins at layer 3. Only layer 3 has other weights than in the base.")


def test_regressions_by_layer() -> None:
    result = gated(moved(REPORT, 2, 0.2), policy(regressions=("layer[1-2].trained_loss=0.1",)), REPORT)
    assert [(check.layer, check.outcome) for check in result.checks] == [(2, "failed"), (1, "passed")]


def trimmed(report: AuditReport) -> AuditReport:
    return dataclasses.replace(report, layers=report.layers[:3])


def enormous(report: AuditReport) -> AuditReport:
    return with_figure(report, 4, "trained_loss", Estimate(1e300, 1e300, 1e300))


def test_a_regression_is_never_passed_over() -> None:
    demands = policy(regressions=("trained_loss=0.1",))
    with pytest.raises(ConfigError, match="needs a baseline"):
        gated(REPORT, demands)
    with pytest.raises(IncomparableReports):
        gated(REPORT, demands, with_settings(REPORT, seed=5))
    with pytest.raises(ConfigError, match="can't be applied to layer 4"):
        gated(
            REPORT,
            policy(regressions=("layer[4].gap_layers=0.1",)),
            dataclasses.replace(REPORT, layers=REPORT.layers[:3]),
        )
    own = {"readout": "own"}
    base, short = (with_row(report, len(report.layers), **own) for report in (REPORT, trimmed(REPORT)))
    short = with_row(short, 3, **own)
    with pytest.raises(ConfigError, match="can't be applied to layer 4"):
        gated(short, policy(regressions=("layer.gap_layers=0.1",)), with_row(base, 3, **own))
    with pytest.raises(NonFiniteResult, match="the limit"):
        gated(REPORT, policy(regressions=("trained_loss=1e308%",)), enormous(REPORT))
    base = with_figure(REPORT, 4, "trained_loss", Estimate(math.nan, math.nan, math.nan))
    with pytest.raises(NonFiniteResult):
        gated(REPORT, policy(regressions=("trained_loss=1%",)), base)
    sums = REPORT.layers[3].held_out_sums
    broken = with_row(REPORT, 4, held_out_sums=dataclasses.replace(sums, own=(math.nan, *sums.own[1:])))
    with pytest.raises(NonFiniteResult):
        gated(broken, demands, REPORT)


def test_a_report_without_rows_is_refused() -> None:
    with pytest.raises(ReportError):
        gated(dataclasses.replace(REPORT, layers=()), policy("layer.gap=9"))


def excuse(**changes: Any) -> Suppression:
    values: dict[str, Any] = {
        "checkpoint": "ckpt.pt",
        "layers": None,
        "metric": None,
        "rule": None,
        "reason": "see #12",
    }
    return Suppression(**(values | {"expires": TODAY} | changes))


def test_a_suppressed_check_stays_visible_and_fails_nothing() -> None:
    result = gated(REPORT, policy("layer.gap=-9", suppressions=(excuse(layers=parse_selector("2")),)))
    suppressed = [check for check in result.checks if check.outcome is Outcome.SUPPRESSED]
    assert [(check.layer, check.suppressed, check.fails) for check in suppressed] == [(2, Outcome.FAILED, False)]
    assert suppressed[0].reason.endswith("Suppressed until 2026-06-01: see #12")
    assert [check.layer for check in result.checks if check.fails] == [1, 3, 4]


def test_suppressions_excuse_what_is_inconclusive_too_but_leave_passes_alone() -> None:
    report = with_figure(REPORT, 4, "gap_layers", Estimate(0.1, 0.0, 0.2))
    demands = policy("gap_layers=0.1", "gap_layers=9", on_inconclusive="fail", suppressions=(excuse(),))
    result = gated(report, demands)
    assert [(check.outcome, check.suppressed) for check in result.checks] == [
        (Outcome.SUPPRESSED, Outcome.INCONCLUSIVE),
        (Outcome.PASSED, None),
    ]
    assert not result.failed


def test_a_gap_that_is_excused_is_the_networks_or_a_layers_own() -> None:
    rules = ("gap_layers=-9", "layer[2-3].gap=-9", "layer[2].depth_gap=-9", "layer[2].gap_layers=-9")

    def excused(**changes: Any) -> list[tuple[int | None, str]]:
        result = gated(REPORT, policy(*rules, suppressions=(excuse(metric="gap", **changes),)))
        return [(check.layer, check.metric) for check in result.checks if check.outcome is Outcome.SUPPRESSED]

    assert excused() == [(None, "gap_layers"), (2, "gap"), (3, "gap")]
    assert excused(layers=parse_selector("2")) == [(2, "gap")]
    assert excused(rule="gap_layers=-9") == [(None, "gap_layers")]


def test_an_expired_suppression_does_not_count() -> None:
    expired = excuse(expires=date(2026, 5, 31))
    demands = policy("gap_layers=-9", suppressions=(expired,))
    result = gated(REPORT, demands)
    assert result.failed
    (note,) = suppression_notes(demands, [result], today=TODAY)
    assert "expired on 2026-05-31" in note


def test_an_unused_suppression_is_said_unless_it_is_about_other_checkpoints() -> None:
    unused, elsewhere = excuse(rule="gap_total=1"), excuse(checkpoint="other.pt", reason="other")
    demands = policy("gap_layers=-9", suppressions=(excuse(metric="gap_layers"), unused, elsewhere))
    result = gated(REPORT, demands)
    assert not result.failed
    (note,) = suppression_notes(demands, [result], today=TODAY)
    assert "excuses nothing" in note


def test_what_fails_comes_first() -> None:
    report = with_figure(REPORT, 4, "gap_layers", Estimate(0.1, 0.0, 0.2))
    demands = policy("trained_loss=99", "gap_layers=0.1", "bound=1", "yes0=1", suppressions=(excuse(rule="bound=1"),))
    result = gated(report, demands)
    assert [check.outcome for check in result.checks] == ["failed", "inconclusive", "suppressed", "passed"]
    assert result.summary() == "4 checks, 1 failed, 1 inconclusive, 1 suppressed"
