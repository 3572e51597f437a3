"""Checks of a gate, reports of a training run and hostile ones, without any of them; a page as a browser reads it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

from hypothesis import strategies as st

from peelaudit.records import AuditReport, Estimate, GateCheck, Outcome, Verdict
from tests.factories import make_estimate, make_report, make_sums

HOSTILE = "=cmd|'/c calc'!A1\x1b]0;x\x07\r\n|<b>[red]`*\udcff"
BREAKOUT = "</script><script>alert(1)</script><!-- \"'><img src=x onerror=alert(2)>&lt;"
TEXTS = st.text(st.characters(), max_size=30) | st.sampled_from(["</p><b>", "&lt;", "'\"", "<!--", "]]>", "\x1b[0m"])
VOID = {"meta", "link", "br", "path", "line", "rect", "circle"}


def make_check(checkpoint: str = "runs/tiny/ckpt.pt", outcome: Outcome = Outcome.FAILED, **changes: Any) -> GateCheck:
    check = GateCheck(
        checkpoint=checkpoint,
        rule="layer.gap=0.02",
        layer=3,
        metric="gap",
        limit=0.02,
        figure=Estimate(0.3, 0.28, 0.32),
        outcome=outcome,
        suppressed=Outcome.FAILED if outcome is Outcome.SUPPRESSED else None,
        fails=outcome is Outcome.FAILED,
        reason="The gap of layer 3, 0.300 nats/token, is above 0.02.",
    )
    return dataclasses.replace(check, **changes)


def make_step(
    step: int | None,
    trained: float = 3.0,
    yes0: float = 3.5,
    star: float = 3.0,
    *,
    verdict: Verdict = Verdict.GREEN,
    n_layers: int = 4,
    path: str | None = None,
) -> AuditReport:
    """The report of one step: its held-out losses, its verdict, and weights that no other step has."""
    report = make_report(n_layers, verdict=verdict, path=path or f"run/ckpt-{step}.pt")
    held_out = dataclasses.replace(
        report.network.held_out,
        trained_loss=make_estimate(trained),
        trained_readout_loss=make_estimate(trained),
        yes0=make_estimate(yes0),
        bound=make_estimate(star),
    )
    return dataclasses.replace(
        report,
        checkpoint=dataclasses.replace(report.checkpoint, training_step=step, sha256=f"{path} {step}"),
        network=dataclasses.replace(report.network, held_out=held_out),
        layers=(
            *(dataclasses.replace(row, weights_sha256=_digest(path, step, row.layer)) for row in report.layers[:-1]),
            dataclasses.replace(
                report.layers[-1],
                held_out=held_out,
                held_out_sums=make_sums(held_out),
                weights_sha256=_digest(path, step, n_layers),
            ),
        ),
    )


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def make_series(steps: Sequence[int] = (0, 100, 200, 400), n_layers: int = 4) -> list[AuditReport]:
    """A run that becomes better: red, yellow, then green."""
    losses = [(4.0, 3.9, 3.8, Verdict.RED), (3.5, 3.7, 3.4, Verdict.YELLOW)]
    found = []
    for index, step in enumerate(steps):
        trained, yes0, star, verdict = losses[index] if index < 2 else (3.0 / index, 3.6, 3.0 / index, Verdict.GREEN)
        found.append(make_step(step, trained, yes0, star, verdict=verdict, n_layers=n_layers))
    return found


def hostile_report(text: str) -> AuditReport:
    """The report of a network in which every name and every sentence is `text`."""
    sound = make_report(warnings=("",), versions=(("", ""),))
    report: AuditReport = _with_texts(sound, text)
    return dataclasses.replace(
        report, settings=(("checkpoint", text), ("data", (text,))), timings=sound.timings, passes=sound.passes
    )


def _with_texts(value: Any, text: str) -> Any:
    if type(value) is str:
        return text
    if isinstance(value, tuple):
        return tuple(_with_texts(item, text) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    found = {field.name: _with_texts(getattr(value, field.name), text) for field in dataclasses.fields(value)}
    return dataclasses.replace(value, **found)


class Page(HTMLParser):
    """What a browser would make of it: elements with attributes, and texts by the innermost element."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]
