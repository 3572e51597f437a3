"""What `peelaudit selftest` says: by score and by fault, how often the damaged layer comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.records import FaultKind, FaultResult, Score, Selftest, Verdict
from peelaudit.reports.terminal.page import draw, heading, pairs, prose, table
from peelaudit.reports.wording.text import count, number, signed

__all__ = ["render"]

_TITLES = {
    FaultKind.REINITIALISED: "rein.",
    FaultKind.NOISED: "noised",
    FaultKind.MLP_ZEROED: "MLP\nzero",
    FaultKind.ATTENTION_ZEROED: "attn.\nzero",
    FaultKind.HEAD_SCRAMBLED: "head\nscr.",
    FaultKind.ONE_BIT: "one\nbit",
    FaultKind.EXPERT_REINITIALISED: "exp.\nrein.",
    FaultKind.ROUTER_REINITIALISED: "rout.\nrein.",
    FaultKind.ROLLED_BACK: "roll\nback",
}


_ROUTING = "routing: what a router loses by its own choice of experts, on the ninth of the text where that is most. "


def render(result: Selftest, *, width: int, colour: bool, encoding: str) -> str:
    """The result as text; see `peelaudit.reports.terminal.render_selftest`."""
    return draw(_parts(result), width=width, colour=colour, encoding=encoding)


def _parts(result: Selftest) -> Iterator[RenderableType]:
    subject = f"{result.layers} layers, held-out loss {number(result.loss)} nats/token"
    text = f"{result.source}, {count(result.fit_tokens)} fit tokens"
    yield pairs((("checkpoint", prose(result.checkpoint)), ("", prose(subject)), ("data", prose(text))))
    if result.warnings:
        yield ""
        yield from (prose("! ", warning) for warning in result.warnings)
    if result.faults:
        yield from _places(result)
    yield heading("What the audit names")
    yield from _naming(result)


def _places(result: Selftest) -> Iterator[RenderableType]:
    """How the scores did, and what they are."""
    yield heading("The damaged layer's place, by score: first / in the first two, of all faults of the kind")
    yield _table(result)
    routed = any(name == Score.ROUTING for fault in result.faults for name, _ in fault.ranks)
    words = (
        "audit: layers that look untrained or silent first, then by the gap or a slope, whichever stands out "
        "furthest. scale slope: the loss's derivative by the scale of a block's matrices; bulk slope: by that of what "
        f"is beside their leading directions. {_ROUTING if routed else ''}"
        "projection error: of the best block at the next one's job. redundancy: "
        "the error of leaving the block out. block influence: 1 - cosine of a block's input and output. These two and "
        "the norm: farthest from the layers' median. named: the damaged layer; in headline: named, or the one that "
        "gains most; not green: the verdict on the network. loss rise: nats/token."
    )
    yield prose((words, "dim"))


def _table(result: Selftest) -> Table:
    """A column for each kind of fault."""
    kinds = tuple(dict.fromkeys(fault.kind for fault in result.faults))
    columns = [*([fault for fault in result.faults if fault.kind is kind] for kind in kinds), list(result.faults)]
    grid = table()
    grid.add_column("", no_wrap=True)
    for title in (*(_TITLES[kind] for kind in kinds), "all"):
        grid.add_column(title, justify="right", no_wrap=True)
    for score in Score:
        places = [_place(faults, score) for faults in columns]
        if any(places):
            grid.add_row(str(score), *places)
    grid.add_section()
    grid.add_row("faults", *(str(len(faults)) for faults in columns))
    grid.add_row("named", *(str(sum(fault.found for fault in faults)) for faults in columns))
    if any(fault.said.verdict is not None for fault in result.faults):
        other = [sum(fault.said.verdict not in (None, Verdict.GREEN) for fault in faults) for faults in columns]
        grid.add_row(
            "in headline", *(str(sum(fault.layer in fault.said.headline for fault in faults)) for faults in columns)
        )
        grid.add_row("not green", *map(str, other))
    for words, end in (("least loss rise", min), ("most", max)):
        grid.add_row(words, *(f"{end(fault.rise for fault in faults):.2f}" for faults in columns))
    return grid


def _place(faults: Sequence[FaultResult], score: Score) -> str:
    ranks = [rank for fault in faults for name, rank in fault.ranks if name == score]
    return f"{sum(rank == 1 for rank in ranks)}/{sum(rank <= 2 for rank in ranks)}" if ranks else ""


def _naming(result: Selftest) -> Iterator[Text]:
    found, missed = ([fault for fault in result.faults if fault.found is found] for found in (True, False))
    if found:
        yield prose(f"least damage that was named: {_words(min(found, key=lambda fault: fault.rise))}.")
    if missed:
        yield prose(f"most damage that was not named: {_words(max(missed, key=lambda fault: fault.rise))}.")
    if result.faults:
        wrong = sum(bool(set(fault.said.named) - {fault.layer}) for fault in result.faults)
        yield prose(f"faults with another layer named as well or instead: {wrong} of {len(result.faults)}.")
    alarms = sum(bool(one.named) for one in result.undamaged)
    verdicts = Counter(one.verdict for one in result.undamaged if one.verdict is not None)
    told = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in Verdict if verdicts[verdict])
    yield prose(
        f"false alarms without a fault: {alarms} of {len(result.undamaged)} draws of the text."
        f"{f' Their verdicts: {told}.' if told else ''}"
    )


def _words(fault: FaultResult) -> str:
    return f"layer {fault.layer} {fault.kind}, {signed(fault.rise)} nats/token"
