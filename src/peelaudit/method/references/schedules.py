"""Schedules: which trained state each reference block is fitted to. Pure functions (docs/method.md,
Schedules; arXiv 2605.02853).

A staircase has waypoints S ⊆ {1 … L-1} and targets π_k = min{s ∈ S ∪ {L} : s ≥ k}. What `parse_schedules` reads:

    direct          S = {1 … L-1}: every block to its own output
    final           S = {}: every block to the last state
    prefix:m        S = {1 … m}
    every:m         S = {m, 2m, …}
    via:a,b         S = {a, b}
    without:a,b     S = {1 … L-1} less {a, b}
    yes:k           every S with |S| = k
    all             every S: 2^(L-1) of them
    refined         no mapping: every block moved along the loss's own gradient (`peelaudit.method.refinement`)
    search:k        the S with |S| = k of least estimated error (`search_staircase`)
    default         `refined`, and `all` for up to 5 layers, else a few that suit any depth
    3,3,3,4         any explicit mapping, one target a layer, also one that goes down
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from peelaudit.errors import ConfigError

__all__ = [
    "MOST_SCHEDULES",
    "REFINED",
    "PrefixNode",
    "Schedule",
    "SchedulePlan",
    "parse_schedules",
    "prefix_tree",
    "search_staircase",
    "staircase",
]

MOST_SCHEDULES = 4096
"""A family that names more than this is refused: it would not end."""

REFINED = "refined"
"""The name of the reference whose blocks are moved by the labels."""

_ALL_BY_DEFAULT = 5


@dataclass(frozen=True, slots=True, order=True)
class Schedule:
    """`targets[k-1]` is the state, 1 … L, that reference block k is fitted to."""

    targets: tuple[int, ...]

    @property
    def waypoints(self) -> tuple[int, ...] | None:
        """The waypoint set of a staircase, ascending; None for any other mapping."""
        n_layers = len(self.targets)
        waypoints = tuple(sorted(set(self.targets) - {n_layers}))
        return waypoints if staircase(waypoints, n_layers) == self else None

    @property
    def name(self) -> str:
        """The shortest of the module's spellings that means this schedule."""
        n_layers, waypoints = len(self.targets), self.waypoints
        if waypoints is None:
            return ",".join(map(str, self.targets))
        if not waypoints:
            return "final"
        if waypoints == tuple(range(1, n_layers)):
            return "direct"
        if waypoints == tuple(range(1, len(waypoints) + 1)):
            return f"prefix:{len(waypoints)}"
        if len(waypoints) > 1 and waypoints == tuple(range(waypoints[0], n_layers, waypoints[0])):
            return f"every:{waypoints[0]}"
        missing = sorted({*range(1, n_layers)} - {*waypoints})
        spellings = ("via:" + ",".join(map(str, waypoints)), "without:" + ",".join(map(str, missing)))
        return min(spellings, key=len)


@dataclass(frozen=True, slots=True)
class SchedulePlan:
    """What was asked for: schedules that are known, waypoint counts whose best staircase is still to be searched, and
    whether the reference that knows the labels is among them.
    """

    schedules: tuple[Schedule, ...]
    searches: tuple[int, ...]
    refined: bool = False


@dataclass(frozen=True, slots=True)
class PrefixNode:
    """A node of the prefix tree: the targets of the first blocks, shared by all schedules that begin so."""

    prefix: tuple[int, ...]
    children: tuple[PrefixNode, ...]

    def walk(self) -> Iterator[PrefixNode]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


def staircase(waypoints: Iterable[int], n_layers: int) -> Schedule:
    """The schedule π_k = min{s ∈ S ∪ {L} : s ≥ k}.

    Raises:
        ConfigError: if a waypoint is not within 1 … L-1.
    """
    steps = sorted({*waypoints, n_layers})
    if steps[0] < 1 or steps[-1] > n_layers or n_layers < 1:
        raise ConfigError(f"waypoints {steps[:-1]}: with {n_layers} layers they lie within 1 and {n_layers - 1}")
    return Schedule(tuple(next(step for step in steps if step >= layer) for layer in range(1, n_layers + 1)))


def parse_schedules(specs: Sequence[str], n_layers: int) -> SchedulePlan:
    """Read the spellings of the module's docstring, without repeats, in the order given.

    Raises:
        ConfigError: naming every spelling that can't be read or doesn't fit `n_layers`.
    """
    schedules: list[Schedule] = []
    searches: list[int] = []
    problems: list[str] = []
    refined = False
    for spec in specs:
        try:
            plan = _parse_one(spec.strip(), n_layers)
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        schedules.extend(plan.schedules)
        searches.extend(plan.searches)
        refined = refined or plan.refined
    if problems:
        raise ConfigError(*problems)
    return SchedulePlan(tuple(dict.fromkeys(schedules)), tuple(dict.fromkeys(searches)), refined)


def _parse_one(spec: str, n_layers: int) -> SchedulePlan:
    family, colon, argument = spec.partition(":")
    if family == "default" and not colon:
        return _default(n_layers)
    if spec == REFINED:
        return SchedulePlan((), (), refined=True)
    if family == "search":
        return SchedulePlan((), (_argument(spec, argument, 1, n_layers - 1),))
    if family[:1].isdigit() and not colon:
        return SchedulePlan((_explicit(spec, n_layers),), ())
    return SchedulePlan(tuple(staircase(s, n_layers) for s in _waypoint_sets(spec, family, argument, n_layers)), ())


def _waypoint_sets(spec: str, family: str, argument: str, n_layers: int) -> Iterable[Iterable[int]]:
    inner = range(1, n_layers)
    match family:
        case "direct" if spec == family:
            return [inner]
        case "final" if spec == family:
            return [()]
        case "prefix":
            return [range(1, _argument(spec, argument, 0, n_layers - 1) + 1)]
        case "every":
            step = _argument(spec, argument, 1, n_layers)
            return [range(step, n_layers, step)]
        case "via":
            return [_numbers(spec, argument, n_layers - 1)]
        case "without":
            return [sorted({*inner} - {*_numbers(spec, argument, n_layers - 1)})]
        case "yes":
            size = _argument(spec, argument, 0, n_layers - 1)
            _refuse_many(spec, math.comb(n_layers - 1, size))
            return combinations(inner, size)
        case "all" if spec == family:
            _refuse_many(spec, 2 ** (n_layers - 1))
            return (s for size in range(n_layers) for s in combinations(inner, size))
        case _:
            raise ConfigError(
                f"schedule {spec!r}: expected default, refined, direct, final, prefix:m, every:m, via:a,b, "
                f"without:a,b, yes:k, all, search:k or {n_layers} targets like "
                f"{','.join([str(n_layers)] * min(n_layers, 4))}"
            )


def _default(n_layers: int) -> SchedulePlan:
    if n_layers <= _ALL_BY_DEFAULT:
        return dataclasses.replace(_parse_one("all", n_layers), refined=True)
    prefixes = (3 * n_layers // 4, n_layers - 2)
    named = ("final", "direct", *(f"prefix:{m}" for m in prefixes))
    plans = [_parse_one(spec, n_layers) for spec in named]
    # One waypoint fewer than `direct`: the two layers whose work one block does best, a close rival for little work.
    return SchedulePlan(
        tuple(dict.fromkeys(s for plan in plans for s in plan.schedules)), (n_layers - 2,), refined=True
    )


def _explicit(spec: str, n_layers: int) -> Schedule:
    targets = _numbers(spec, spec, n_layers)
    if len(targets) != n_layers:
        raise ConfigError(f"schedule {spec!r}: {len(targets)} targets for {n_layers} layers")
    return Schedule(targets)


def _numbers(spec: str, text: str, most: int) -> tuple[int, ...]:
    return tuple(_argument(spec, number, 1, most) for number in text.split(","))


def _argument(spec: str, text: str, least: int, most: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not least <= number <= most:
        raise ConfigError(f"schedule {spec!r}: {text!r} is not a number from {least} to {most}")
    return number


def _refuse_many(spec: str, count: int) -> None:
    if count > MOST_SCHEDULES:
        raise ConfigError(f"schedule {spec!r} means {count} schedules, above {MOST_SCHEDULES}: use search:k")


def prefix_tree(schedules: Iterable[Schedule]) -> PrefixNode:
    """The schedules as a tree in which every shared prefix stands once. The root's prefix is empty; leaves are
    whole.
    """
    return _subtree((), sorted({schedule.targets for schedule in schedules}))


def _subtree(prefix: tuple[int, ...], targets: list[tuple[int, ...]]) -> PrefixNode:
    depth = len(prefix)
    nexts = dict.fromkeys(mapping[depth] for mapping in targets if len(mapping) > depth)
    children = tuple(
        _subtree((*prefix, target), [mapping for mapping in targets if mapping[depth] == target]) for target in nexts
    )
    return PrefixNode(prefix, children)


def search_staircase(segment_error: Sequence[Sequence[float]], size: int) -> Schedule:
    """The staircase with exactly `size` waypoints of least summed segment error: a shortest path by dynamic
    programming.

    Errors of segments measured from the trained state add up to first order (docs/method.md, Searching schedules). A
    segment (s, e] is estimated by its first block, from h_s to h_e: the blocks after it can only come closer.

    Args:
        segment_error: L rows; `segment_error[s][e - s - 1]` is the error of the segment (s, e], 0 <= s < e <= L.
        size: the number of waypoints, 0 … L-1.
    """
    n_layers = len(segment_error)
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for segments_left in range(size, -1, -1):
        ends = (n_layers,) if segments_left == 0 else range(1, n_layers)
        best = {
            end: min(
                (cost + segment_error[start][end - start - 1], (*path, end))
                for start, (cost, path) in best.items()
                if start < end
            )
            for end in ends
            if any(start < end for start in best)
        }
    return staircase(best[n_layers][1][:-1], n_layers)
