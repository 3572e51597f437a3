"""A report against a policy: what became of each rule on each row. Torch-free, so that a saved report can be gated.

A rule fails where the whole interval is beyond its limit, passes where the whole is within, and is inconclusive
otherwise. `GatePolicy.on_inconclusive` says what becomes of those. Figures are compared unrounded, and one that is not
finite is an error, never a pass.

What `fail-on` may say, the verdicts all of the network on held-out tokens:

    red     fails where it is red: it loses to YES-0 or to guessing, or a layer is untrained or silent
    yellow  fails where it is yellow or red: a reference is better by more than the tolerance, or a layer is named
    grey    fails where the audit couldn't tell: grey alone
    named   fails, a check a layer, where the audit names one for its looks, its slopes or its gap

A grey network is inconclusive under `yellow`, for its interval or because the reference `refined` wasn't run, and under
`red` where its intervals leave that open, and only there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

from peelaudit.errors import ConfigError, NonFiniteResult
from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.records import AuditReport, Estimate, GateCheck, Outcome, Verdict
from peelaudit.reports.compare import find_origin
from peelaudit.reports.pairing import Change, Pairing, check_rows
from peelaudit.settings.gate import GatePolicy, Suppression
from peelaudit.settings.rules import NAMED, OWN_LAYER_FIGURES, VERDICT, Rule

__all__ = ["GateResult", "gate", "suppression_notes"]


@dataclass(frozen=True, slots=True)
class GateResult:
    """A report's checks: those that fail first, then those that don't pass, in the rules' order.

    `used` are the suppressions that excused a check.
    """

    checkpoint: str
    checks: tuple[GateCheck, ...]
    used: frozenset[Suppression]

    @property
    def failed(self) -> bool:
        """Whether any check makes the gate fail."""
        return any(check.fails for check in self.checks)

    def undecided(self) -> tuple[str, ...]:
        """The reasons of the checks that are inconclusive."""
        return tuple(check.reason for check in self.checks if check.outcome is Outcome.INCONCLUSIVE)

    def summary(self) -> str:
        """How many of the checks became what, in few words."""
        total = f"{len(self.checks)} check" + "s" * (len(self.checks) != 1)
        counts = {outcome: sum(check.outcome is outcome for check in self.checks) for outcome in _ORDER[:-1]}
        return ", ".join([total, *(f"{number} {outcome}" for outcome, number in counts.items() if number)])


def gate(report: AuditReport, policy: GatePolicy, *, today: date, baseline: AuditReport | None = None) -> GateResult:
    """Hold a report against a policy.

    Args:
        report: a finished or a saved audit.
        policy: what is demanded.
        today: which suppressions have expired.
        baseline: the report that `fail_regression` compares with.

    Raises:
        ConfigError: a rule matches no row, or the baseline can't be compared with the report.
        NonFiniteResult: a figure that a rule looks at is NaN or infinite.
        ReportError: a report contradicts itself.
    """
    check_rows(report)
    checks: list[GateCheck] = []
    problems = list(unmatched(policy, report.checkpoint.path, len(report.layers)))
    if policy.fail_regression and baseline is None:
        problems.append("fail-regression needs a baseline: the report to compare with")
    if problems:
        raise ConfigError(*problems)
    for rule in policy.fail_over:
        checks += _limits(report, rule)
    for forbidden in policy.fail_on:
        checks += _named(report) if forbidden == NAMED else (_verdict(report, forbidden),)
    if policy.fail_regression and baseline is not None:
        pairing = Pairing(baseline, report)
        for rule in policy.fail_regression:
            checks += _regressions(pairing, rule)
    return _settled(report.checkpoint.path, checks, policy, today)


def suppression_notes(policy: GatePolicy, results: Sequence[GateResult], *, today: date) -> tuple[str, ...]:
    """What to say of suppressions that have expired, and of those about these checkpoints that excused nothing."""
    notes = []
    used = {suppression for result in results for suppression in result.used}
    for suppression in policy.suppressions:
        if not any(suppression.covers(result.checkpoint) for result in results):
            continue
        name = f"the suppression of {suppression.checkpoint!r} ({suppression.reason})"
        if suppression.expires < today:
            notes.append(f"{name} expired on {suppression.expires}: it doesn't count any more")
        elif suppression not in used:
            notes.append(f"{name} excuses nothing: it can go")
    return tuple(notes)


def unmatched(policy: GatePolicy, checkpoint: str, layers: int) -> Iterator[str]:
    """What is wrong with the rules that are about other layers than the checkpoint's, 1 … `layers`."""
    where = f"{checkpoint} has layers 1 to {layers}"
    for rule in (*policy.fail_over, *policy.fail_regression):
        for span in rule.layers.beyond(layers) if rule.layers else ():
            yield f"the rule {rule.text!r} matches no row for layer {span}: {where}"


def _limits(report: AuditReport, rule: Rule) -> Iterator[GateCheck]:
    if rule.layers is None:
        figure: Estimate = getattr(report.network.held_out, rule.metric)
        yield _check(report, rule.text, None, rule.metric, rule.limit, figure, f"{rule.metric} is")
        return
    for row in report.layers:
        if row.layer in rule.layers:
            own = OWN_LAYER_FIGURES.get(rule.metric)
            figure = getattr(row.held_out, rule.metric) if own is None else own.of(row)
            if own is not None and figure is None:
                raise ConfigError(f"the rule {rule.text!r} needs {own.needs}")
            yield _check(report, rule.text, row.layer, rule.metric, rule.limit, figure, f"{rule.metric} is")


def _regressions(pairing: Pairing, rule: Rule) -> Iterator[GateCheck]:
    layers = (None,) if rule.layers is None else (layer for layer in pairing.layers() if layer in rule.layers)
    for layer in layers:
        change = pairing.change(layer, rule.metric)
        if change is None:
            words = "not in both reports, read out the same way and against the same parent"
            raise ConfigError(f"the rule {rule.text!r} can't be applied to layer {layer}: it is {words}")
        for report, figure in ((pairing.base, change.base), (pairing.new, change.new)):
            _demand_finite(report.checkpoint.path, rule.metric, figure)
        limit = _allowed(rule, change)
        since = f"since the baseline's {change.base.value:.4f}, {rule.metric} has moved by"
        check = _check(pairing.new, f"regression {rule.text}", layer, rule.metric, limit, change.difference, since)
        if check.outcome is Outcome.FAILED:
            check = replace(check, reason=f"{check.reason} {find_origin(pairing).words}")
        yield check


def _allowed(rule: Rule, change: Change) -> float:
    """nats/token. A share of nearly nothing would forbid what separates two evaluations of the same network."""
    limit = max(rule.limit * abs(change.base.value), RESOLUTION) if rule.relative else rule.limit
    if not math.isfinite(limit):
        raise NonFiniteResult(f"the limit of the rule {rule.text!r} is {limit}")
    return limit


def _check(
    report: AuditReport, rule: str, layer: int | None, metric: str, limit: float, figure: Estimate, words: str
) -> GateCheck:
    """A figure against its limit."""
    where = "the network" if layer is None else f"layer {layer}"
    _demand_finite(report.checkpoint.path, f"{metric} of {where}", figure)
    if figure.low > limit:
        outcome, judgement = Outcome.FAILED, "all of it over"
    elif figure.high <= limit:
        outcome, judgement = Outcome.PASSED, "all of it within"
    else:
        outcome, judgement = Outcome.INCONCLUSIVE, "which straddles"
    shown = f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]"
    reason = f"{where}: {words} {shown}, {judgement} the limit of {limit:.6g}."
    return _judged(report, rule, layer, metric, outcome, reason, limit=limit, figure=figure)


def _judged(
    report: AuditReport,
    rule: str,
    layer: int | None,
    metric: str,
    outcome: Outcome,
    reason: str,
    *,
    limit: float | None = None,
    figure: Estimate | None = None,
) -> GateCheck:
    """A check before suppressions and the policy say what becomes of it."""
    return GateCheck(
        report.checkpoint.path,
        rule,
        layer,
        metric,
        limit,
        figure,
        outcome=outcome,
        suppressed=None,
        fails=False,
        reason=_sentence(reason),
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _demand_finite(path: str, what: str, figure: Estimate) -> None:
    parts = (figure.low, figure.value, figure.high)
    if not all(map(math.isfinite, parts)) or not parts[0] <= parts[1] <= parts[2]:
        shown = f"{figure.value} [{figure.low}, {figure.high}]"
        raise NonFiniteResult(f"{path}: {what} is {shown}: nothing is passed on such a figure")


def _verdict(report: AuditReport, forbidden: Verdict) -> GateCheck:
    """The network's held-out verdict against one that is forbidden."""
    figures = report.network.held_out
    for name in ("trained_readout_loss", "yes0", "bound", "gap_layers"):
        if (figure := getattr(figures, name)) is not None:
            _demand_finite(report.checkpoint.path, f"{name} of the network", figure)
    outcome = _verdict_outcome(report, forbidden)
    found = f"the network is {figures.verdict} on held-out tokens"
    reason = {
        Outcome.FAILED: f"{found}, which {forbidden} forbids: {report.headline}.",
        Outcome.PASSED: f"{found}, which {forbidden} allows.",
    }.get(outcome, f"{found}: {_open(report, forbidden)}.")
    return _judged(report, str(forbidden), None, VERDICT, outcome, reason)


def _open(report: AuditReport, forbidden: Verdict) -> str:
    """Why a grey network may be what is forbidden."""
    if forbidden is Verdict.RED:
        return "its intervals don't tell whether it is red"
    if report.network.refinement is None:
        return "the reference refined wasn't run, which would tell whether it is yellow or worse"
    return "its intervals don't tell whether it is yellow or worse"


def _named(report: AuditReport) -> Iterator[GateCheck]:
    """Each layer that the audit names; one check that passes, where it names none."""
    if not all(row.signs for row in report.layers):
        raise ConfigError(f"the rule {NAMED!r} needs a report that looked at the layers: audit it again")
    unknown = [row.layer for row in report.layers if row.scale_slope is None or row.bulk_slope is None]
    for layer in report.named or (None,):
        if layer is None and unknown:
            reason, outcome = f"no layer is named, but layer {unknown[0]} has no slopes", Outcome.INCONCLUSIVE
        elif layer is None:
            reason, outcome = f"no layer is named{_unjudged(report)}", Outcome.PASSED
        else:
            words = " and ".join(report.layers[layer - 1].symptoms) or "its gap stands out"
            reason, outcome = f"layer {layer} is named: {words}", Outcome.FAILED
        yield _judged(report, NAMED, layer, NAMED, outcome, f"{reason}.")


def _unjudged(report: AuditReport) -> str:
    """What is to be said where layers aren't told apart by their gaps."""
    if report.refinement is None:
        return " for its looks or its slopes; none was refined alone"
    return "" if report.refinement.judged else " for its looks or its slopes; by their gaps none can be told here"


def _verdict_outcome(report: AuditReport, forbidden: Verdict) -> Outcome:
    figures = report.network.held_out
    if forbidden is Verdict.GREY:
        return Outcome.FAILED if figures.verdict is Verdict.GREY else Outcome.PASSED
    if figures.verdict is not Verdict.GREY:
        fails = figures.verdict in ((Verdict.RED,) if forbidden is Verdict.RED else (Verdict.RED, Verdict.YELLOW))
        return Outcome.FAILED if fails else Outcome.PASSED
    if forbidden is Verdict.RED:
        # Grey is for YES* alone where no interval reaches above YES-0: then it is known not to be red. Where no block
        # was fitted, all that makes a network red was looked at.
        over_yes0 = Pairing(report, report).over_yes0()
        return Outcome.PASSED if over_yes0 is None or over_yes0.high <= RESOLUTION else Outcome.INCONCLUSIVE
    return Outcome.INCONCLUSIVE


_ORDER = (Outcome.FAILED, Outcome.INCONCLUSIVE, Outcome.SUPPRESSED, Outcome.PASSED)


def _settled(path: str, checks: Iterable[GateCheck], policy: GatePolicy, today: date) -> GateResult:
    """Suppressions applied, what fails decided, what failed first."""
    valid = [suppression for suppression in policy.suppressions if suppression.expires >= today]
    used: set[Suppression] = set()
    settled = []
    for check in checks:
        excuse = next((suppression for suppression in valid if suppression.excuses(check)), None)
        if check.outcome is Outcome.PASSED:
            settled.append(check)
        elif excuse is not None:
            used.add(excuse)
            reason = f"{check.reason} Suppressed until {excuse.expires}: {excuse.reason}"
            settled.append(replace(check, outcome=Outcome.SUPPRESSED, suppressed=check.outcome, reason=reason))
        else:
            fails = check.outcome is Outcome.FAILED or policy.on_inconclusive == "fail"
            settled.append(replace(check, fails=fails))
    settled.sort(key=lambda check: (not check.fails, _ORDER.index(check.outcome)))
    return GateResult(path, tuple(settled), frozenset(used))
