"""What `peelaudit selftest` says: by score and by fault, how often the damaged layer comes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.records import FaultResult, Score, Selftest
from peelaudit.render.page import draw, heading, pairs, prose, table
from peelaudit.render.text import count, number, signed

__all__ = ["render"]


def render(result: Selftest, *, width: int, colour: bool, encoding: str) -> str:
    """The result as text; see `peelaudit.render.render_selftest`."""
    return draw(_parts(result), width=width, colour=colour, encoding=encoding)


def _parts(result: Selftest) -> Iterator[RenderableType]:
    subject = f"{result.layers} layers, held-out loss {number(result.loss)} nats/token"
    text = f"{result.source}, {count(result.fit_tokens)} fit tokens"
    yield pairs((("checkpoint", prose(result.checkpoint)), ("", prose(subject)), ("data", prose(text))))
    yield heading("The damaged layer's place, by score: first / in the first two, of all faults of the kind")
    yield _places(result)
    words = (
        "audit: layers that look untrained or silent first, then by the repair gap or the scale slope, whichever "
        "stands out further. slope: the loss's derivative by the scale of a block's matrices. proj.: error of the best "
        "block at the next one's job; red.: of leaving the block out; infl.: 1 - cosine of a block's input and output; "
        "norm: of its weights; these three: farthest from the layers' median. loss rise: least and most, nats/token."
    )
    yield prose((words, "dim"))
    yield heading("What the audit names")
    yield from _naming(result)


def _places(result: Selftest) -> Table:
    kinds = tuple(dict.fromkeys(fault.kind for fault in result.faults))
    grid = table()
    grid.add_column("fault", no_wrap=True)
    grid.add_column("n", justify="right", no_wrap=True)
    for title in ("audit", "repair", "slope", "depth", "proj.", "red.", "infl.", "norm", "named", "loss rise"):
        grid.add_column(title, justify="right", no_wrap=True, min_width=5)
    for kind in kinds:
        grid.add_row(str(kind), *_cells([fault for fault in result.faults if fault.kind is kind]))
    grid.add_section()
    grid.add_row("all", *_cells(result.faults))
    return grid


def _cells(faults: Sequence[FaultResult]) -> Iterator[str]:
    yield str(len(faults))
    for score in Score:
        ranks = [rank for fault in faults for name, rank in fault.ranks if name == score]
        yield f"{sum(rank == 1 for rank in ranks)}/{sum(rank <= 2 for rank in ranks)}" if ranks else ""
    yield str(sum(fault.found for fault in faults))
    rises = [fault.rise for fault in faults]
    yield f"{min(rises):.2f}..{max(rises):.2f}" if rises else ""


def _naming(result: Selftest) -> Iterator[Text]:
    found, missed = ([fault for fault in result.faults if fault.found is found] for found in (True, False))
    if found:
        yield prose(f"least damage that was named: {_words(min(found, key=lambda fault: fault.rise))}.")
    if missed:
        yield prose(f"most damage that was not named: {_words(max(missed, key=lambda fault: fault.rise))}.")
    wrong = sum(bool(set(fault.named) - {fault.layer}) for fault in result.faults)
    yield prose(f"faults with another layer named as well or instead: {wrong} of {len(result.faults)}.")
    alarms = sum(map(bool, result.undamaged))
    yield prose(f"false alarms without a fault: {alarms} of {len(result.undamaged)} draws of the text.")


def _words(fault: FaultResult) -> str:
    return f"layer {fault.layer} {fault.kind}, {signed(fault.rise)} nats/token"
