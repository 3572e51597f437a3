"""A rule of the gate, and how it is written.

    gap_layers=0.05             the network's held-out gap_layers must not be above 0.05 nats/token
    layer.gap=0.02              the gap of any layer: what refining it alone gains
    layer[2].gap=0.02           of layer 2, numbered from 1
    layer[1-3,7].gap=0.02       of layers 1 to 3 and 7
    layer[*].redundancy=0.9     of any layer: the same as `layer.redundancy`
    layer.depth_gap=0.1         the peel profile's: what references gain on the network cut after it
    trained_loss=5%             in a regression rule: 5 % above the baseline's figure; without `%`, nats/token above it

Of the network, `gap` is short for `gap_layers`; of a layer it is the layer's own, which a regression rule can't limit:
two reports' can't be paired. Of a layer's own figures `parent_gap` alone can be. A row that a selector names has to be
there.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Final, Literal

from peelaudit.errors import ConfigError, about
from peelaudit.records import LayerRow, SplitFigures, Verdict
from peelaudit.records.quantities import quantities_of

__all__ = [
    "FIGURES",
    "FORBIDDEN",
    "NAMED",
    "OWN_LAYER_FIGURES",
    "PAIRED",
    "VERDICT",
    "Forbidden",
    "Rule",
    "Selector",
    "metric_of",
    "parse_metric",
    "parse_rule",
    "parse_selector",
]

FIGURES = tuple(key for key, one in quantities_of(SplitFigures).items() if one.gated)
"""The held-out figures of a row, all in nats/token, that a rule may limit."""
OWN_LAYER_FIGURES = {key: one for key, one in quantities_of(LayerRow).items() if one.gated}
"""A layer's figures that aren't of what the blocks below and it predict."""
LAYER_FIGURES = (*FIGURES, *OWN_LAYER_FIGURES)
PAIRED: Final = "parent_gap"
"""That of them which pairs, where two reports are against the same parent, so that a regression rule may limit it."""
NAMED: Final = "named"
"""What `fail-on` forbids where no layer is to be named for its looks, its slopes or its gap, and the metric of
such a check."""
Forbidden = Verdict | Literal["named"]
FORBIDDEN: tuple[Forbidden, ...] = (Verdict.RED, Verdict.YELLOW, Verdict.GREY, NAMED)
"""What `fail-on` may name. `yellow` means yellow or worse, so red as well; `grey` means grey alone."""

VERDICT = "verdict"
"""What a check of `fail-on` has for a metric where it is about a verdict."""

_SHORT = {"gap": "gap_layers"}
_RULE = re.compile(r"(?P<layer>layer(?:\[(?P<selector>[^\]]*)\])?\.)?(?P<metric>\w+)=(?P<limit>[^=]+)")
_SPAN = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class Selector:
    """Layers by number: spans (first, last), both included; last is None for no end."""

    spans: tuple[tuple[int, int | None], ...]

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and any(_within(layer, span) for span in self.spans)

    def beyond(self, layers: int) -> tuple[str, ...]:
        """The spans that name no layer of a network with so many."""
        return tuple(str(first) if first == last else f"{first}-{last}" for first, last in self.spans if first > layers)


def _within(layer: int, span: tuple[int, int | None]) -> bool:
    return span[0] <= layer and (span[1] is None or layer <= span[1])


ALL_LAYERS = Selector(((1, None),))


@dataclass(frozen=True, slots=True)
class Rule:
    """A figure and what it must not pass.

    Attributes:
        text: the rule as it was written.
        metric: the field that is looked at.
        layers: of which rows; None for the network.
        limit: nats/token (for `redundancy` a ratio), or a share of the baseline's figure where `relative`.
        relative: whether the limit was given in per cent.
    """

    text: str
    metric: str
    layers: Selector | None
    limit: float
    relative: bool = False


def parse_rule(text: str, *, regression: bool = False) -> Rule:
    """The rule that `text` writes.

    Args:
        text: see the module's docstring.
        regression: whether it limits a difference from a baseline, which may be relative.

    Raises:
        ConfigError: it isn't one; the problem begins with the text.
    """
    found = _RULE.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no rule: expected METRIC=LIMIT or layer[1-3,7].METRIC=LIMIT")
    with about(repr(text)):
        layers = None
        if found["layer"]:
            layers = ALL_LAYERS if found["selector"] is None else parse_selector(found["selector"])
        if regression and layers and found["metric"] == "gap":
            raise ConfigError("a layer's own gap can't be paired with the baseline's: limit gap_layers, its depth's")
        known = (*FIGURES, PAIRED) if regression else LAYER_FIGURES
        metric = parse_metric(found["metric"], known if layers else FIGURES)
        limit, relative = _limit(found["limit"], regression=regression)
    return Rule(text, metric, layers, limit, relative)


def parse_selector(text: str) -> Selector:
    """Layers such as `2`, `1-3,7` or `*`. Raises ConfigError."""
    if text.strip() == "*":
        return ALL_LAYERS
    spans: list[tuple[int, int]] = []
    for part in text.split(","):
        found = _SPAN.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last:
            raise ConfigError(f"[{text}] names no layers: expected numbers from 1 and ranges such as 1-3,7, or *")
        spans.append((first, last))
    return Selector(tuple(spans))


def parse_metric(name: str, known: tuple[str, ...] = (*LAYER_FIGURES, VERDICT, NAMED)) -> str:
    """The field that `name` stands for, where `known` lacks it. Raises ConfigError where that is none of `known`."""
    metric = name if name in known else _SHORT.get(name, name)
    if metric in known:
        return metric
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"
    raise ConfigError(f"there is no {name!r} to look at here; {hint}")


def metric_of(metric: str, layer: int | None) -> str:
    """What a metric that may be of any row is on this one: `gap` is the network's `gap_layers`, a layer's own gap."""
    return _SHORT.get(metric, metric) if layer is None else metric


def _limit(written: str, *, regression: bool) -> tuple[float, bool]:
    relative = written.endswith("%")
    try:
        limit = float(written.removesuffix("%"))
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise ConfigError(f"the limit {written!r} is not a finite number")
    if relative and not regression:
        raise ConfigError("a limit in per cent is for fail-regression, relative to the baseline")
    if relative and limit < 0:
        raise ConfigError("a limit in per cent is 0 or more")
    return (limit / 100, True) if relative else (limit, False)
