"""The checkpoints of one training run, in step order: the YES cloud, and from when the network is green.

    order      reports of one run, by step; anything else is refused, with what differs
    trace      what the run shows: two clouds (held-out, and the paper's on fit tokens), gaps per layer over steps

The cloud is the paper's (arXiv 2605.02853, and 2410.10984 before it): the least YES-0 and the least YES* so far are
carried forward, so both are staircases that never rise. The regions compare point values: losses of two checkpoints
are not paired, so there is no interval to give. A checkpoint's own verdict, from intervals, stays beside them. On
held-out tokens a loss meets a bound that it is above by at most the audits' tolerance, as for the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from peelaudit.errors import ConfigError
from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.records import AuditReport, Estimate, Verdict
from peelaudit.reports.integrity.finding import Finding, number_in
from peelaudit.reports.integrity.series import find_defects
from peelaudit.reports.pairing import INDIFFERENT, placement_hint

__all__ = ["Cloud", "CloudPoint", "CloudSplit", "LayerHistory", "Trajectory", "order", "steady_from", "trace"]

CloudSplit = Literal["held_out", "fit"]

_SAME_NETWORK = ("family", "architecture", "layers", "width", "heads", "kv_heads", "mlp_width", "vocabulary")


@dataclass(frozen=True, slots=True)
class CloudPoint:
    """One checkpoint in the cloud, nats/token.

    `yes0` and `yes_star` are the checkpoint's own bounds, `least_yes0` and `least_yes_star` the least so far, this
    step's included; None where there is no YES-0. `region` is where `trained` lies between those two; grey where that
    would be green on *held-out*, and `refined` wasn't among the checkpoint's references: without it, they are the
    network itself and weaker ones.
    """

    step: int
    trained: float
    yes0: float | None
    yes_star: float
    least_yes0: float | None
    least_yes_star: float
    region: Verdict


@dataclass(frozen=True, slots=True)
class Cloud:
    """The YES cloud on one split. On *held-out*, `trained` is like for like with the bounds: the trained states under
    the network row's readout. On *fit* it is the paper's: the model's own head against refitted ones.
    """

    split: CloudSplit
    points: tuple[CloudPoint, ...]


@dataclass(frozen=True, slots=True)
class LayerHistory:
    """One layer over the steps: its own gaps, None where no block was refined, and at which steps it is named."""

    layer: int
    gaps: tuple[Estimate | None, ...]
    named: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What one training run shows. `reports` and `steps` belong together, the first step first.

    `green_from` is the first step from which the network's held-out verdict is green *and stays so*. A green is against
    the references of its own step, and early in a training run these may find little: `unbeaten_from` is the first step
    from which no later checkpoint's held-out loss is below a checkpoint's YES* by more than the tolerance.

    `met_so_far` and `met` are the steps of the first checkpoints whose own verdict, from intervals, is green, and whose
    held-out loss meets the least YES*: of the steps up to its own, which can be known while the training goes on, and
    of the whole series. The second is the checkpoint that already met the tightest bound.

    `defects` is what is wrong with the series: nothing with a healthy one (`peelaudit.reports.integrity`).
    """

    reports: tuple[AuditReport, ...]
    steps: tuple[int, ...]
    held_out: Cloud
    fit: Cloud
    layers: tuple[LayerHistory, ...]
    green_from: int | None
    unbeaten_from: int
    met_so_far: int | None
    met: int | None
    defects: tuple[Finding, ...] = ()


def order(reports: Iterable[AuditReport]) -> tuple[tuple[int, AuditReport], ...]:
    """The reports of one run with their steps, ascending: the steps that the checkpoints record, or else the last
    numbers in their names. A checkpoint that is there twice, by its digest, is taken once.

    Raises:
        ConfigError: there is no report, a step is unknown or taken twice, or the reports are not of one run under one
            audit; says what differs.
    """
    given = tuple(reports)
    if not given:
        raise ConfigError("a series needs a report")
    if problems := list(_differences(given)):
        raise ConfigError(*problems)
    found = tuple({report.checkpoint.sha256: report for report in reversed(given)}.values())[::-1]
    ordered = sorted(zip(_steps(found), found, strict=True), key=lambda item: item[0])
    for (step, report), (following, other) in pairwise(ordered):
        if step == following:
            raise ConfigError(f"{_name(report)} and {_name(other)} are both of step {step}, and differ")
    return tuple(ordered)


def trace(reports: Iterable[AuditReport]) -> Trajectory:
    """The trajectory of one training run; a single report is a run of one step.

    Raises:
        ConfigError: as `order` does.
    """
    given = tuple(reports)
    ordered = order(given)
    steps, found = tuple(step for step, _ in ordered), tuple(report for _, report in ordered)
    verdicts = [report.network.held_out.verdict for report in found]
    tolerance = _tolerance(found[0])
    cloud = _cloud(steps, found, "held_out", tolerance)
    return Trajectory(
        reports=found,
        steps=steps,
        held_out=cloud,
        fit=_cloud(steps, found, "fit", RESOLUTION),
        layers=tuple(_layer(found, index) for index in range(len(found[0].layers))),
        green_from=steady_from(steps, verdicts),
        unbeaten_from=_unbeaten_from(cloud, tolerance),
        met_so_far=_first_met(cloud, verdicts, [point.least_yes_star for point in cloud.points], tolerance),
        met=_first_met(cloud, verdicts, [cloud.points[-1].least_yes_star] * len(steps), tolerance),
        defects=find_defects(ordered, given, tolerance=tolerance),
    )


def steady_from(steps: Sequence[int], verdicts: Sequence[Verdict]) -> int | None:
    """The first step from which every verdict is green; None if the last one isn't."""
    first = None
    for step, verdict in zip(reversed(steps), reversed(verdicts), strict=True):
        if verdict is not Verdict.GREEN:
            break
        first = step
    return first


def _tolerance(report: AuditReport) -> float:
    """nats/token by which a loss may be above a bound and yet meet it."""
    setting = dict(report.settings).get("tolerance")
    return max(float(setting), RESOLUTION) if isinstance(setting, int | float) else RESOLUTION


def _cloud(steps: Sequence[int], reports: Sequence[AuditReport], split: CloudSplit, tolerance: float) -> Cloud:
    figures = [report.network.held_out if split == "held_out" else report.network.fit for report in reports]
    trained = [(f.trained_readout_loss if split == "held_out" else f.trained_loss).value for f in figures]
    yes0 = [None if f.yes0 is None else f.yes0.value for f in figures]
    yes_star = [f.bound.value for f in figures]
    least0, least_star = accumulate(yes0, _least), accumulate(yes_star, min)
    strong = [split == "fit" or report.network.refinement is not None for report in reports]
    return Cloud(
        split,
        tuple(
            CloudPoint(step, loss, own0, own_star, low0, low_star, _region(loss, low0, low_star, tolerance, best))
            for step, loss, own0, own_star, low0, low_star, best in zip(
                steps, trained, yes0, yes_star, least0, least_star, strong, strict=True
            )
        ),
    )


def _least(so_far: float | None, loss: float | None) -> float | None:
    return min((one for one in (so_far, loss) if one is not None), default=None)


def _region(trained: float, yes0: float | None, yes_star: float, tolerance: float, strong: bool) -> Verdict:
    if yes0 is not None and trained - yes0 > RESOLUTION:
        return Verdict.RED
    if trained - yes_star > tolerance:
        return Verdict.YELLOW
    return Verdict.GREEN if strong else Verdict.GREY


def _layer(reports: Sequence[AuditReport], index: int) -> LayerHistory:
    rows = [report.layers[index] for report in reports]
    layer = rows[0].layer
    return LayerHistory(layer, tuple(row.gap for row in rows), tuple(layer in report.named for report in reports))


def _unbeaten_from(cloud: Cloud, tolerance: float) -> int:
    """See `Trajectory`; at the latest the last step, which no later one can beat."""
    first, least_later = cloud.points[-1].step, math.inf
    for point in reversed(cloud.points):
        if point.yes_star - least_later > tolerance:
            break
        first, least_later = point.step, min(least_later, point.trained)
    return first


def _first_met(cloud: Cloud, verdicts: Sequence[Verdict], bounds: Sequence[float], tolerance: float) -> int | None:
    """The first step with a green verdict of its own and a loss that meets its bound."""
    for point, verdict, bound in zip(cloud.points, verdicts, bounds, strict=True):
        if verdict is Verdict.GREEN and point.trained - bound <= tolerance:
            return point.step
    return None


def _steps(reports: Sequence[AuditReport]) -> tuple[int, ...]:
    """Recorded steps where all have one, or else numbers from all names: the two may count different things."""
    recorded = [report.checkpoint.training_step for report in reports]
    named = [number_in(report.checkpoint.path) for report in reports]
    for steps in (recorded, named):
        known = [step for step in steps if step is not None]
        if len(known) == len(reports):
            return tuple(known)
    lost = next(r for r, step, name in zip(reports, recorded, named, strict=True) if step is None or name is None)
    raise ConfigError(f"{_name(lost)} records no training step, and not every checkpoint has a number in its name")


def _differences(reports: Sequence[AuditReport]) -> Iterator[str]:
    """A sentence for each thing that keeps the reports from being of one run under one audit."""
    first = reports[0]
    for name in _SAME_NETWORK:
        yield from _differing(reports, name, [getattr(report.checkpoint, name) for report in reports])
    digest = f"the token digest{placement_hint(reports)}"
    yield from _differing(reports, digest, [report.data.tokens_sha256 for report in reports])
    settings = [dict(report.settings) for report in reports]
    for name in sorted({name for each in settings for name in each} - INDIFFERENT):
        yield from _differing(reports, name.replace("_", "-"), [each.get(name) for each in settings])
    if any(len(report.layers) != len(first.layers) for report in reports):
        yield from _differing(reports, "the number of layer rows", [len(report.layers) for report in reports])


def _differing(reports: Sequence[AuditReport], what: str, values: Sequence[object]) -> Iterator[str]:
    for report, value in zip(reports, values, strict=True):
        if value != values[0]:
            yield f"{what} is {_short(values[0])} in {_name(reports[0])} and {_short(value)} in {_name(report)}"
            return


def _short(value: object) -> str:
    text = "not set" if value is None else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 24 else text[:12] + "…"


def _name(report: AuditReport) -> str:
    return report.checkpoint.path
