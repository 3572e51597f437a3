"""Two reports row by row, and where a change begins. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.records import AuditReport, GateCheck, SplitFigures, Verdict
from peelaudit.reports.pairing import Change, Pairing
from peelaudit.settings.rules import PAIRED

__all__ = ["TOLERANCE", "Comparison", "ComparisonRow", "Origin", "Status", "compare", "find_origin"]

TOLERANCE = 1e-3
"""nats/token, a tenth of a per cent of the perplexity: by how much a loss has to move for a row to have changed."""
SHARE = 0.25
"""Of the whole network's change: with less, a depth is not where the change begins."""

_LOSING = (Verdict.RED, Verdict.YELLOW)


class Status(StrEnum):
    """What became of a row since the base: the first of these that is true.

    `d` is the paired difference new - base of the row's trained loss, under the model's own head; a row that is red or
    yellow on held-out tokens loses to a reference.
    """

    MISSING = "missing"
    """The base has the row, the new report has none that is read out the same way."""
    NEW = "new"
    """The row loses to a reference and the base's did not, and the whole interval of its gap's difference is above the
    tolerance; or the base has no such row."""
    FIXED = "fixed"
    """The base's row was losing, this one isn't, and the whole interval of its gap's difference is below minus the
    tolerance."""
    WORSE = "worse"
    """The whole interval of `d` is above the tolerance."""
    BETTER = "better"
    """The whole interval of `d` is below minus the tolerance."""
    UNCHANGED = "unchanged"
    """No change is shown: the interval of `d` reaches into the tolerance, on either side."""


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """A row of both reports. `layer` is None for the network. `trained_loss` is under the model's own head; it and
    `gap_layers` are None where one report is without the row. `same_weights` says whether block `layer` is the same in
    both, and is None for the network and where there is nothing to compare. `parent_gap` is None but for layers that
    both reports hold against the same parent.
    """

    layer: int | None
    status: Status
    trained_loss: Change | None
    gap_layers: Change | None
    same_weights: bool | None
    parent_gap: Change | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the change begins: the first layer that could have caused it. None where no layer can be named. `words`
    says it in a sentence or two.
    """

    layer: int | None
    words: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two reports, row by row: the network, then the layers. `tolerance` is in nats/token. `warnings` name what differs
    and may matter. `checks` are those of a gate, if there was one.
    """

    base: str
    new: str
    base_verdict: Verdict
    base_headline: str
    new_verdict: Verdict
    new_headline: str
    tolerance: float
    rows: tuple[ComparisonRow, ...]
    origin: Origin
    warnings: tuple[str, ...]
    checks: tuple[GateCheck, ...] = ()


def compare(base: AuditReport, new: AuditReport, *, tolerance: float = TOLERANCE) -> Comparison:
    """Compare a report with an earlier one.

    Raises:
        IncomparableReports: not the same tokens, or other settings that matter; every difference is told.
        ReportError: a report's sums don't fit its clusters.
        NonFiniteResult: a figure is NaN or infinite.
    """
    pairing = Pairing(base, new)
    return Comparison(
        base=base.checkpoint.path,
        new=new.checkpoint.path,
        base_verdict=base.verdict,
        base_headline=base.headline,
        new_verdict=new.verdict,
        new_headline=new.headline,
        tolerance=tolerance,
        rows=tuple(_row(pairing, layer, tolerance) for layer in pairing.layers()),
        origin=find_origin(pairing),
        warnings=tuple(_warnings(base, new)),
    )


def find_origin(pairing: Pairing) -> Origin:
    """Where the change begins, by the blocks' weights and by how far the loss moves at each depth.

    Cut after layer k and read out by the model's own head, the network depends on blocks 1 to k alone: if block k
    was changed and none before it, depths 1 to k - 1 have the very losses of the base.
    """
    depth = len(pairing.base.layers)
    if depth != len(pairing.new.layers):
        return Origin(None, "The networks differ in depth: no layer is named.")
    rows = zip(pairing.base.layers, pairing.new.layers, strict=True)
    changed = [base.layer for base, new in rows if base.weights_sha256 != new.weights_sha256]
    moves = [pairing.movement(layer) for layer in range(1, depth + 1)]
    first = next(layer for layer, move in enumerate(moves, 1) if move > SHARE * moves[-1] or layer == depth)
    return _origin(changed, depth, first, moved=moves[-1] > RESOLUTION)


def _origin(changed: list[int], depth: int, first: int, *, moved: bool) -> Origin:
    """`first` is the first depth whose loss moves by more than `SHARE` of the network's."""
    if not changed and not moved:
        return Origin(None, "Nothing has changed: the layers' weights and the predictions are the same.")
    if not changed:
        return Origin(None, "No layer's weights differ: the embedding, the final norm or the head do.")
    if len(changed) < depth:
        names = ", ".join(map(str, changed))
        only = f"Only layer {names} has" if len(changed) == 1 else f"Only layers {names} have"
        return Origin(changed[0], f"The change begins at layer {changed[0]}. {only} other weights than in the base.")
    if not moved:
        return Origin(None, "Every layer has other weights than in the base, but the predictions are the same.")
    words = (
        f"The change begins at layer {first}. Every layer has other weights than in the base; cut after layer k, layer "
    )
    words += (
        f"{first} is the first at which the loss moves by more than a quarter of what it moves in the whole network."
    )
    if first == 1:
        words += " A network that was trained anew looks like that as well."
    return Origin(first, words)


def _row(pairing: Pairing, layer: int | None, tolerance: float) -> ComparisonRow:
    loss, gap = (pairing.change(layer, metric) for metric in ("trained_loss", "gap_layers"))
    rows = pairing.rows(layer)
    if loss is None or gap is None or rows is None:
        missing = layer is not None and layer <= len(pairing.base.layers)
        return ComparisonRow(layer, Status.MISSING if missing else Status.NEW, None, None, None)
    same = None if layer is None else rows[0].weights_sha256 == rows[1].weights_sha256
    status = _status(rows[0].held_out, rows[1].held_out, loss, gap, tolerance)
    against = None if layer is None else pairing.change(layer, PAIRED)
    return ComparisonRow(layer, status, loss, gap, same, against)


def _status(base: SplitFigures, new: SplitFigures, loss: Change, gap: Change, tolerance: float) -> Status:
    was_losing, losing = base.verdict in _LOSING, new.verdict in _LOSING
    if losing and not was_losing and gap.difference.low > tolerance:
        return Status.NEW
    if was_losing and not losing and gap.difference.high < -tolerance:
        return Status.FIXED
    if loss.difference.low > tolerance:
        return Status.WORSE
    return Status.BETTER if loss.difference.high < -tolerance else Status.UNCHANGED


def _warnings(base: AuditReport, new: AuditReport) -> Iterator[str]:
    if base.checkpoint.sha256 == new.checkpoint.sha256:
        yield "both reports are of the same checkpoint"
    ours, theirs = dict(base.versions), dict(new.versions)
    for name in dict.fromkeys((*ours, *theirs)):
        if ours.get(name) != theirs.get(name):
            yield f"{name} is {ours.get(name)} in the base, {theirs.get(name)} in the new"
    parents = [report.parent and report.parent.checkpoint.path for report in (base, new)]
    if any(parents) and not Pairing(base, new).same_parent:
        yield f"the parent is {parents[0] or 'none'} in the base, {parents[1] or 'none'} in the new, another one"
    devices = [dict(report.settings).get("device") for report in (base, new)]
    if devices[0] != devices[1]:
        yield f"device is {devices[0]} in the base, {devices[1]} in the new"
