"""Two checkpoints' difference on one page, as texts. No rich here.

Headline and findings are the record's own sentences; what else the page says stands here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peelaudit.records import Estimate
from peelaudit.records.difference import ChangeKind, Difference, PartKind, PartRow
from peelaudit.reports.wording.text import count, flow

__all__ = [
    "EVERY_PART",
    "PartLine",
    "Parts",
    "TensorLine",
    "changed_words",
    "cost_text",
    "part_label",
    "part_lines",
    "part_note",
    "part_weights",
    "so_far",
    "subject",
    "sums",
    "tensor_lines",
]

EVERY_PART = 19
"""Up to so many parts each has its row: 16 blocks and what is around them."""
_FEW, _MOST = 8, 15
_WHOLE = 1e-3
"""nats/token that have a whole bar at least."""
_DEPTHS = 8
"""Of a cumulative figure that is shown."""
_MOST_TENSORS = 200
_LABELS = {PartKind.TIED: "embedding, head"}


@dataclass(frozen=True, slots=True)
class PartLine:
    """A part's row, as texts. `share` is that of the largest cost, 0 … 1, and 0 where the interval isn't clear of 0."""

    label: str
    in_base: str
    interval: str
    in_new: str
    kl: str
    weights: str
    share: float
    apart: bool


@dataclass(frozen=True, slots=True)
class Parts:
    """The rows of the parts, from the bottom up, and in `rest` a sentence on those that have none; it may be empty."""

    lines: tuple[PartLine, ...]
    rest: str


@dataclass(frozen=True, slots=True)
class TensorLine:
    """A tensor that differs, as texts."""

    name: str
    kind: str
    size: str
    constant: str


def subject(found: Difference) -> Iterator[tuple[str, str]]:
    """The two checkpoints, and the text."""
    for label, info in (("base", found.base), ("new", found.new)):
        step = "" if info.training_step is None else f", step {count(info.training_step)}"
        yield label, f"{info.path}{step}: {info.format}, {info.dtype}"
    sizes = found.data.held_out
    yield "text", f"{found.data.source}: {count(sizes.tokens)} tokens, {count(sizes.clusters)} {found.data.unit}s"


def changed_words(found: Difference) -> str:
    """How many tensors differ by a little everywhere, and how many are the same."""
    sizes = [change.size for change in found.tensors if change.kind is ChangeKind.CHANGED]
    same = f"{found.same_tensors} tensors are the same"
    if not sizes:
        return f"{same}."
    by = f"{min(sizes):.1%}" if len(sizes) == 1 else f"{min(sizes):.1%} to {max(sizes):.1%}"
    return f"{same}; {len(sizes)} differ all over, as by rounding or training, by {by}."


def sums(found: Difference) -> Iterator[tuple[str, str, str, str]]:
    """The losses as an equation: label, figure, interval, note."""
    swapped = found.swapped
    yield "  BASE's loss", f"{found.base_loss.value:.4f}", _interval(found.base_loss, ".4f"), "nats/token, 95 %"
    if swapped.sequences < swapped.of:
        yield "+ difference", *_signed(found.whole), ""
        yield "= NEW's loss", f"{found.new_loss.value:.4f}", _interval(found.new_loss, ".4f"), ""
        note = f"on {swapped.sequences} of {swapped.of} sequences"
        yield "  difference there", *_signed(swapped.whole), note
        yield "= single swaps", *_signed(swapped.singles), ""
        yield "+ left over", *_signed(swapped.left_over), "what no part does alone"
        return
    yield "+ single swaps", *_signed(swapped.singles), "one part at a time"
    yield "+ left over", *_signed(swapped.left_over), "what no part does alone"
    yield "= NEW's loss", f"{found.new_loss.value:.4f}", _interval(found.new_loss, ".4f"), ""


def cost_text(estimate: Estimate) -> str:
    """A cost with its interval."""
    value, ends = _signed(estimate)
    return f"{value} ({ends})"


def _signed(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:+.4f}", _interval(estimate, "+.4f")


def _interval(estimate: Estimate, form: str) -> str:
    return f"{estimate.low:{form}}..{estimate.high:{form}}"


def part_lines(found: Difference) -> Parts:
    """The parts' rows: all of them, or of many those that stand out and those that do most."""
    rows, apart = found.rows, {*found.named, *found.changed}
    places = range(len(rows))
    if len(rows) > EVERY_PART:
        ranked = sorted(places, key=lambda place: (place not in apart, -rows[place].kl.value, place))
        differing = [place for place in ranked if not rows[place].same]
        places = sorted(differing[: min(_MOST, max(_FEW, len(apart)))])  # type: ignore[assignment]
    largest = max([_WHOLE, *(abs(row.in_base.value) for row in rows)])
    lines = tuple(_line(rows[place], largest, apart=place in apart) for place in places)
    return Parts(lines, _rest([row for place, row in enumerate(rows) if place not in places]))


def _line(row: PartRow, largest: float, *, apart: bool) -> PartLine:
    label = part_label(row)
    if row.same:
        return PartLine(label, "", "", "", "", "same", 0.0, apart)
    clear = row.in_base.low > 0 or row.in_base.high < 0
    return PartLine(
        label,
        *_signed(row.in_base),
        f"{row.in_new.value:+.4f}",
        f"{row.kl.value:.4f}",
        part_weights(row),
        abs(row.in_base.value) / largest if clear else 0.0,
        apart,
    )


def part_label(row: PartRow) -> str:
    """A part's name in a table."""
    return _LABELS.get(row.part, row.name)


def part_weights(row: PartRow) -> str:
    """By how much a part's weights differ."""
    return f"{100 * row.weights:.3g} %" if row.weights else "same"


def part_note(found: Difference, place: int) -> str:
    """What is to be said of the part in that place of the rows; empty for most."""
    row, words = found.rows[place], []
    if row.same:
        words.append("The same in both.")
    if row.otherwise:
        words.append("It computes something else with the same weights.")
    if place in found.named:
        words.append("Stands out by how far it moves BASE's predictions.")
    if place in found.changed:
        words.append("Its weights are changed more than the other blocks'.")
    return " ".join(words)


def tensor_lines(found: Difference) -> tuple[tuple[TensorLine, ...], str]:
    """The tensors that differ, those that conversions break first and then those that differ most; and in a sentence
    how many more there are, which may be empty.
    """
    ranked = sorted(found.tensors, key=lambda one: (one.kind is ChangeKind.CHANGED, -one.size))
    more = len(ranked) - _MOST_TENSORS
    lines = tuple(
        TensorLine(
            one.name,
            str(one.kind),
            f"{100 * one.size:.3g} %",
            "" if one.constant is None else f"{one.constant:.4g}",
        )
        for one in ranked[:_MOST_TENSORS]
    )
    return lines, f"{count(more)} more differ less; the JSON has them all." if more > 0 else ""


def _rest(rows: Sequence[PartRow]) -> str:
    """The parts without a row."""
    same, others = (sum(row.same for row in rows), [row for row in rows if not row.same])
    words = []
    if others:
        costs = [row.in_base.value for row in others]
        words.append(f"{len(others)} more parts cost {min(costs):+.4f} to {max(costs):+.4f} each")
    if same:
        words.append(f"{same} {'others ' if others else 'parts '}are the same")
    return f"{'; '.join(words)}." if words else ""


def so_far(found: Difference, width: int) -> Sequence[str]:
    """What NEW's parts cost in BASE from the bottom up, in lines of that width; none where a part alone differs."""
    rows = [row for row in found.rows if row.so_far is not None and not row.same]
    if len(rows) < 2:
        return ()
    step = max(1, -(-len(rows) // _DEPTHS))
    shown = rows[::-1][::step][::-1]
    items = [f"{row.layer or _LABELS.get(row.part, row.part)} {row.so_far.value:+.4f}" for row in shown if row.so_far]
    return flow(["NEW's from the bottom up to", *items], width, "  ")
