"""What is said of two checkpoints: how NEW's loss differs and where that begins, and how their tensors differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.records import Estimate
from peelaudit.records.difference import ChangeKind, PartRow, SettingChange, Swapped, TensorChange

__all__ = ["findings", "headline"]

TOGETHER = 0.25
"""The share of the difference from which on what no part does alone is in the headline."""
_MOST_NAMED = 3
_MOST_FINDINGS = 10

_WORDS = {
    ChangeKind.PAIRED: "the rows are BASE's in another order: rotary channels in pairs, as GGUF and Meta's own files "
    "keep them, where BASE has them in halves",
    ChangeKind.HALVED: "the rows are BASE's in another order: rotary channels in halves, where BASE has them in pairs",
    ChangeKind.ROWS: "BASE's rows in another order",
    ChangeKind.COLUMNS: "BASE's columns in another order",
    ChangeKind.TRANSPOSED: "BASE's, transposed",
    ChangeKind.UNRELATED: "nothing in common with BASE's",
    ChangeKind.ADDED: "not there in BASE",
    ChangeKind.MISSING: "not there in NEW",
}
"""What is said of the tensors of a kind."""
_GRAVEST = tuple(kind for kind in ChangeKind if kind is not ChangeKind.CHANGED)


def headline(
    whole: Estimate, swapped: Swapped, rows: Sequence[PartRow], named: Sequence[int], changed: Sequence[int]
) -> str:
    """How NEW's loss differs, and which parts make it so.

    Args:
        whole: NEW's loss less BASE's.
        swapped: what the parts do together.
        rows: of the parts.
        named: the places of those that stand out by what they do.
        changed: of the blocks that stand out by how much their weights are changed.
    """
    if all(row.same for row in rows):
        return "the same network: all weights are the same, and what is computed of them"
    found = [_whole(whole), _parts(swapped, rows, named)]
    if changed:
        found.append(_weights(rows, changed))
    left = swapped.left_over
    largest = max(abs(swapped.whole.value), abs(swapped.singles.value))
    if _clear(left) and abs(left.value) > TOGETHER * largest:
        found.append(f"{_signed(left.value)} is what the parts do together, and none alone")
    return "; ".join(found)


def _whole(whole: Estimate) -> str:
    if not _clear(whole):
        return f"NEW's loss can't be told from BASE's, {_with_interval(whole)} nats/token"
    side = "above" if whole.value > 0 else "below"
    low, high = sorted((abs(whole.low), abs(whole.high)))
    return f"NEW's loss is {abs(whole.value):.4f} nats/token ({low:.4f} to {high:.4f}) {side} BASE's"


def _parts(swapped: Swapped, rows: Sequence[PartRow], named: Sequence[int]) -> str:
    if not named:
        most = max(rows, key=lambda row: row.kl.value)
        return (
            f"no part stands out; {_name(most)} moves BASE's predictions most, and costs {_with_interval(most.in_base)}"
        )
    first = rows[named[0]]
    if len(named) > 1:
        return f"{_names(rows, named)} stand out; {_alone(first)}"
    share, whole = first.in_base.value, swapped.whole
    part = ""
    if _clear(first.in_base) and _clear(whole) and share * whole.value > 0:
        percent = round(100 * share / whole.value)
        part = ", all of that" if percent == 100 else f", {percent} % of that"
    return f"{_alone(first)}{part}"


def _alone(row: PartRow) -> str:
    """What a part does by itself: to the loss, or where that can't be told, to the predictions."""
    cost = _with_interval(row.in_base)
    if _clear(row.in_base):
        return f"{_name(row)} alone costs {cost}"
    moves = f"{_name(row)} moves BASE's predictions most, KL {row.kl.value:.4f}"
    return f"{moves}, at a cost that can't be told from 0, {cost}"


def _weights(rows: Sequence[PartRow], changed: Sequence[int]) -> str:
    """By how much the weights of blocks are changed, and by how much the other blocks'."""
    others = [row.weights for place, row in enumerate(rows) if row.layer is not None and place not in changed]
    usual, least = median(size for size in others if size), min(rows[place].weights for place in changed)
    return f"the weights of {_names(rows, changed)} are changed most, by {least:.1%}, where {usual:.1%} is usual"


def _names(rows: Sequence[PartRow], chosen: Sequence[int]) -> str:
    """`block 3, block 7 and 2 more`."""
    names = [_name(rows[place]) for place in chosen]
    more = [f"{len(names) - _MOST_NAMED} more"] if len(names) > _MOST_NAMED else []
    return _listed([*names[:_MOST_NAMED], *more])


def _name(row: PartRow) -> str:
    return row.name if row.layer is not None else f"the {row.name}"


def _clear(estimate: Estimate) -> bool:
    return estimate.low > RESOLUTION or estimate.high < -RESOLUTION


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _with_interval(estimate: Estimate) -> str:
    return f"{_signed(estimate.value)} ({_signed(estimate.low)}..{_signed(estimate.high)})"


def findings(
    tensors: Sequence[TensorChange], settings: Sequence[SettingChange], rows: Sequence[PartRow]
) -> tuple[str, ...]:
    """Sentences on the configuration, and on the tensors that differ otherwise than by a little everywhere.

    Args:
        tensors: those that differ.
        settings: the keys that differ, where something is computed otherwise for them.
        rows: of the parts.
    """
    found = [*_computed(settings, rows), *_broken(tensors)]
    if len(found) > _MOST_FINDINGS:
        found = [*found[: _MOST_FINDINGS - 1], f"{len(found) - _MOST_FINDINGS + 1} more findings on tensors"]
    return tuple(found)


def _computed(settings: Sequence[SettingChange], rows: Sequence[PartRow]) -> Iterator[str]:
    if not settings:
        return
    parts = [row for row in rows if row.otherwise]
    blocks = _runs([row.layer for row in parts if row.layer is not None])
    names = [*([blocks] if blocks else []), *(_name(row) for row in parts if row.layer is None)]
    keys = "; ".join(f"{one.key} is {one.new} in NEW and {one.base} in BASE" for one in settings)
    yield f"configuration: {keys}; with the same weights {_listed(names)} would compute something else"


def _broken(tensors: Sequence[TensorChange]) -> Iterator[str]:
    """Tensors of the same kind of change together, then those of the same blocks."""
    for kind in _GRAVEST:
        for constant in dict.fromkeys(_rounded(change) for change in tensors if change.kind is kind):
            alike = [change for change in tensors if change.kind is kind and _rounded(change) == constant]
            layers = {within: tuple(_layers(alike, within)) for within in dict.fromkeys(one.within for one in alike)}
            for blocks in dict.fromkeys(layers.values()):
                names = [within for within, found in layers.items() if found == blocks]
                yield f"{_listed(names)}{f' of {_runs(blocks)}' if blocks else ''}: {_said(kind, alike[0])}"


def _layers(changes: Sequence[TensorChange], within: str) -> Iterator[int]:
    return (change.layer for change in changes if change.within == within and change.layer is not None)


def _rounded(change: TensorChange) -> str:
    return "" if change.constant is None else f"{change.constant:.3g}"


def _said(kind: ChangeKind, change: TensorChange) -> str:
    if kind is ChangeKind.SHIFTED:
        hint = " (some formats keep norms plus one)" if abs(abs(change.constant or 0) - 1) < 1e-2 else ""
        return f"BASE's {'plus' if (change.constant or 0) > 0 else 'less'} {_rounded(change).lstrip('-')}{hint}"
    if kind is ChangeKind.SCALED:
        return f"BASE's times {_rounded(change)}"
    if kind in (ChangeKind.UNTIED, ChangeKind.TIED):
        ours, theirs = ("BASE", "NEW") if kind is ChangeKind.UNTIED else ("NEW", "BASE")
        values = "other values" if change.size else "the same values"
        return f"tied to the embedding in {ours}, a matrix of its own with {values} in {theirs}"
    return _WORDS[kind]


def _listed(items: Iterable[str]) -> str:
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def _runs(layers: Sequence[int]) -> str:
    """`block 3`, `blocks 1–5, 7`; empty for none."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    words = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    return f"block{'s' if len(layers) > 1 else ''} {words}" if runs else ""
