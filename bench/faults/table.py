"""Results as one table: how often each score has the damaged layer first, and what it took."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

COSTLY = 0.05
"""nats/token from which on a fault is one that should be found."""

Result = Mapping[str, Any]
"""Of one directory: `model`, `layers`, `fault`, `layer`, `loss`, and by score `scores`, `named`, `seconds`."""


def rank(scores: Sequence[float], layer: int) -> int:
    """The place of a layer, 1 the first; a tie counts against it."""
    return sum(score >= scores[layer - 1] for score in scores)


def table(results: Sequence[Result]) -> Iterator[str]:
    """Markdown lines."""
    healthy = {result["model"]: result for result in results if result["layer"] is None}
    costly = [one for one in results if one["layer"] and one["loss"] - healthy[one["model"]]["loss"] > COSTLY]
    models = list(dict.fromkeys(result["model"] for result in results))
    names = list(dict.fromkeys(name for result in results for name in result["by"]))
    yield f"| score | {' | '.join(models)} | all | first two | named | another named | healthy: named | CPU s |"
    yield f"|---|{'---:|' * (len(models) + 6)}"
    for name in names:
        found = [one for one in costly if name in one["by"]]
        cells = [_share([one for one in found if one["model"] == model], name, 1) for model in models]
        cells += [_share(found, name, 1), _share(found, name, 2), *_named(found, name)]
        cells += [_healthy(healthy.values(), name), _seconds(results, name)]
        yield f"| {name} | {' | '.join(cells)} |"
    chance = sum(1 / one["layers"] for one in costly)
    yield f"| chance | {' | ' * len(models)}{chance:.0f} of {len(costly)} | | | | | |"


def _share(found: Sequence[Result], name: str, places: int) -> str:
    hits = sum(rank(one["by"][name]["scores"], one["layer"]) <= places for one in found)
    return f"{hits} of {len(found)}" if found else ""


def _named(found: Sequence[Result], name: str) -> tuple[str, str]:
    said = [(one["by"][name]["named"], one["layer"]) for one in found]
    if not said or any(named is None for named, _ in said):
        return "", ""
    right = sum(layer in named for named, layer in said)
    wrong = sum(any(other != layer for other in named) for named, layer in said)
    return str(right), str(wrong)


def _healthy(healthy: Iterable[Result], name: str) -> str:
    said = [one["by"][name]["named"] for one in healthy if name in one["by"]]
    if not said or any(named is None for named in said):
        return ""
    return f"{sum(bool(named) for named in said)} of {len(said)}"


def _seconds(results: Sequence[Result], name: str) -> str:
    return f"{statistics.median(one['by'][name]['seconds'] for one in results if name in one['by']):.0f}"
