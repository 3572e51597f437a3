"""A budget of bits on one page, as texts. No rich here; the headline is the record's own sentence."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from peelaudit.records import Estimate
from peelaudit.records.budget import Budget, BudgetRow
from peelaudit.reports.wording.text import count

__all__ = ["Table", "footing", "labels", "runs", "subject", "sums", "table_of"]

EVERY_BLOCK = 8
"""Up to so many blocks each has its row."""
WIDTH = 80

Table = list[tuple[str, ...]]
"""Rows of cells, the header first."""


def subject(found: Budget) -> Iterator[tuple[str, str]]:
    """The checkpoint, and the text."""
    info, data = found.checkpoint, found.data
    step = "" if info.training_step is None else f", step {count(info.training_step)}"
    yield "network", f"{info.path}{step}: {info.format}, {info.dtype}"
    some = "" if found.sequences == found.of else f", on {found.sequences} of {found.of} sequences"
    chosen = f"{count(data.select.tokens)} tokens to choose by{some}"
    held_out = f"{count(data.held_out.tokens)} held out, {count(data.held_out.clusters)} {data.unit}s"
    yield "text", f"{data.source}: {chosen}; {held_out}"


def sums(found: Budget) -> Iterator[tuple[str, str, str, str]]:
    """The losses: label, figure, interval, note."""
    yield "  float network", f"{found.float_loss.value:.4f}", _interval(found.float_loss, ".4f"), "nats/token, 95 %"
    widths = sorted({row.spread for row in found.rows})
    evenly = f"{' or '.join(map(str, widths))} bits evenly"
    for label, one in ((evenly, found.spread), ("as below", found.chosen)):
        yield f"+ {label}", f"{one.cost.value:+.4f}", _interval(one.cost, "+.4f"), f"KL {one.kl.value:.4f}"
    kl = f"KL {found.kl_gain.value:+.4f}, {_interval(found.kl_gain, '+.4f')}"
    yield "  it saves", f"{found.gain.value:+.4f}", _interval(found.gain, "+.4f"), kl


def _interval(estimate: Estimate, form: str) -> str:
    return f"{estimate.low:{form}}..{estimate.high:{form}}"


def labels(found: Budget) -> dict[str, str]:
    """The matrices' names in as few parts as tell them apart, in the order of the blocks'."""
    names = list(dict.fromkeys(row.name for row in found.rows))
    last = [_last(name, 1) for name in names]
    return {name: own if last.count(own) == 1 else _last(name, 2) for name, own in zip(names, last, strict=True)}


def _last(name: str, parts: int) -> str:
    return ".".join(name.split(".")[-parts:])


def table_of(found: Budget) -> Table | None:
    """A row for each block, its matrices' bits and the sum of their KL with these and with the even ones; None where
    there are too many of either.
    """
    names, layers = labels(found), sorted({row.layer for row in found.rows})
    lines: Table = [("block", *names.values(), "KL", "evenly")]
    for layer in layers:
        own = {row.name: row for row in found.rows if row.layer == layer}
        bits = (str(own[name].bits) if name in own else "" for name in names)
        lines.append((str(layer), *bits, f"{_moved(own.values()):.4f}", f"{_moved(own.values(), evenly=True):.4f}"))
    fits = sum(max(map(len, column)) + 1 for column in zip(*lines, strict=True)) <= WIDTH + 1
    return lines if len(layers) <= EVERY_BLOCK and fits else None


def _moved(rows: Collection[BudgetRow], *, evenly: bool = False) -> float:
    return sum(row.at(row.spread if evenly else row.bits).kl.value for row in rows)


def runs(found: Budget) -> Iterator[tuple[str, str]]:
    """Of each matrix which blocks have how many bits: `k_proj`, `3 bits in 1–4, 7; 4 in 5–6`."""
    for name, label in labels(found).items():
        rows = [row for row in found.rows if row.name == name]
        widths = sorted({row.bits for row in rows})
        words = [f"{bits} in {_numbers([row.layer for row in rows if row.bits == bits])}" for bits in widths]
        yield label, "; ".join(words)


def _numbers(layers: Sequence[int]) -> str:
    """`1–3, 7`."""
    found: list[list[int]] = []
    for layer in layers:
        if found and layer == found[-1][-1] + 1:
            found[-1].append(layer)
        else:
            found.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in found)


def footing(found: Budget) -> str:
    """What the columns are, what scales take, and what isn't rounded."""
    groups = " or ".join(str(length) for length in sorted({length for row in found.rows for length in row.groups}))
    scales = found.chosen.with_scales - found.chosen.bits
    what = "Bits of a weight; KL: of each alone, summed, and evenly. " if table_of(found) else "Bits, by block. "
    return (
        f"{what}Scales, 16 bits for each {groups} inputs, take {scales:.2f} bits a weight more at every width. The "
        "embedding and the head stay as they are."
    )
