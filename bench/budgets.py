"""Ways to give out bits, each held to as many everywhere on text that nothing was chosen by.

    python -m bench.budgets MODEL --data TEXT [--average 3] [--widths 2,3,4,5] [--tokens N]

matrices    each matrix by itself, by KL or as much loss as is certain: what `peelaudit budget` does
by loss     the same by the loss
by KL       the same by KL alone
a quarter   as the first, on a quarter of the text
kinds       the same matrix of all blocks together
halves      a block's attention and its MLP
blocks      whole blocks
again       each matrix measured once more, one width up and down from the plan of `matrices`, all others as it has them
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peelaudit.auditing.exchange import Figures
from peelaudit.auditing.feeding import fed
from peelaudit.auditing.prepare import Prepared, held_decoder, prepared
from peelaudit.calibration import Split
from peelaudit.method.bits.knapsack import cheapest
from peelaudit.method.bits.plans import average, evenly
from peelaudit.method.bits.trials import Part, Plan, Trials, parts_of
from peelaudit.method.statistics.panel import spread
from peelaudit.network.states import StateStore, TokenRows
from peelaudit.network.weights import check_weights
from peelaudit.records.budget import Alone
from peelaudit.settings.audit import AuditConfig

GROUP = 32
Costs = Mapping[tuple[Part, int], float]
GROUPINGS: Mapping[str, Callable[[Part], object]] = {
    "matrices": lambda part: part,
    "kinds": lambda part: part.name,
    "halves": lambda part: (part.layer, part.name.split(".")[0]),
    "blocks": lambda part: part.layer,
}


class Bench:
    """A network, the text, and what each matrix does alone."""

    def __init__(self, audit: Prepared, widths: tuple[int, ...], wanted: float) -> None:
        self._decoder, _ = held_decoder(audit, check_weights(audit.checkpoint))
        self._store = StateStore.of(self._decoder)
        drawn = fed(audit.calibration, self._decoder, audit.config.bos, self._store)
        self._parts, self._widths, self._wanted = parts_of(self._decoder, GROUP), widths, wanted
        self._select, self._held_out = drawn.select, self._trials(drawn.held_out)
        self._config = audit.config
        self._figures = Figures(audit.config, drawn.held_out.clusters, _predictions(drawn.held_out))
        self._even = self._held_out.whole(evenly(self._parts, widths, wanted))[1]

    def _trials(self, split: Split) -> Trials:
        return Trials(self._decoder, self._parts, GROUP, TokenRows.alone(split), self._store)

    def _alone(self, select: Split) -> Mapping[str, Costs]:
        """By KL, by loss, and by both."""
        trials = self._trials(select)
        figures = Figures(self._config, select.clusters, _predictions(select))
        costs: dict[str, dict[tuple[Part, int], float]] = {"kl": {}, "loss": {}, "both": {}}
        for name in dict.fromkeys(part.name for part in self._parts):
            for bits in self._widths:
                usual, each = trials.alone(name, bits)
                for part, found in each.items():
                    moved, lost = figures.estimate(found.kl), figures.estimate(found.losses - usual.losses)
                    costs["kl"][part, bits], costs["loss"][part, bits] = moved.value, lost.value
                    costs["both"][part, bits] = Alone(bits, lost, moved).cost
        return costs

    def _plan(self, costs: Costs, grouping: Callable[[Part], object]) -> Plan:
        groups: dict[object, list[Part]] = {}
        for part in self._parts:
            groups.setdefault(grouping(part), []).append(part)
        sizes = [sum(part.weights for part in own) for own in groups.values()]
        table = np.array([[sum(costs[part, bits] for part in own) for bits in self._widths] for own in groups.values()])
        options = cheapest(sizes, self._widths, table, int(self._wanted * sum(sizes) + 1e-6))
        assert options is not None
        bits = dict(zip(groups, options, strict=True))
        return tuple(self._widths[bits[grouping(part)]] for part in self._parts)

    def _again(self, plan: Plan) -> Costs:
        """Of each matrix, all others as the plan has them; widths that aren't next to its own are left out."""
        trials, costs = self._trials(self._select), {}
        for place, part in enumerate(self._parts):
            own = self._widths.index(plan[place])
            for number, bits in enumerate(self._widths):
                other = (*plan[:place], bits, *plan[place + 1 :])
                near = abs(number - own) <= 1
                costs[part, bits] = float(trials.whole(other)[1].kl.sum()) if near else np.inf
        least = min(costs.values())
        return {key: cost - least for key, cost in costs.items()}

    def ways(self) -> Iterator[tuple[str, Plan]]:
        """Each way's plan."""
        alone = self._alone(self._select)
        matrices = self._plan(alone["both"], GROUPINGS["matrices"])
        yield "matrices", matrices
        yield "by KL", self._plan(alone["kl"], GROUPINGS["matrices"])
        yield "by loss", self._plan(alone["loss"], GROUPINGS["matrices"])
        index = spread(self._select.clusters, max(4, len(self._select.tokens) // 4))
        fed_only = None if self._select.fed_only is None else self._select.fed_only[index]
        few = Split(self._select.tokens[index], self._select.clusters[index], fed_only)
        yield "a quarter", self._plan(self._alone(few)["both"], GROUPINGS["matrices"])
        for name in ("kinds", "halves", "blocks"):
            yield name, self._plan(alone["both"], GROUPINGS[name])
        yield "again", self._plan(self._again(matrices), GROUPINGS["matrices"])

    def row(self, name: str, plan: Plan) -> str:
        """A line of the table."""
        usual, found = self._held_out.whole(plan)
        cost, kl = (self._figures.estimate(one) for one in (found.losses - usual.losses, found.kl))
        gain = self._figures.estimate(self._even.losses - found.losses)
        cells = (
            name,
            f"{average(self._parts, plan):.2f}",
            f"{cost.value:+.4f}",
            f"{kl.value:.4f}",
            f"{gain.value:+.4f} ({gain.low:+.4f}..{gain.high:+.4f})",
        )
        return f"| {' | '.join(cells)} |"

    def rows(self) -> Iterator[str]:
        """All lines, bits given out evenly first."""
        yield "| way | bits | cost | KL | gain |"
        yield "|---|---:|---:|---:|---|"
        yield self.row("evenly", evenly(self._parts, self._widths, self._wanted))
        for name, plan in self.ways():
            yield self.row(name, plan)


def _predictions(split: Split) -> NDArray[np.int64]:
    found: NDArray[np.int64] = TokenRows.alone(split).predictions(slice(None)).numpy()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--average", type=float, default=3.0)
    parser.add_argument("--widths", default="2,3,4,5")
    parser.add_argument("--tokens", type=int, default=16_384)
    options = parser.parse_args()
    config = AuditConfig(checkpoint=options.model, data=tuple(options.data), tokens=options.tokens, bits="float")
    widths = tuple(int(width) for width in options.widths.split(","))
    with prepared(dataclasses.replace(config, split=(0.01, 0.4, 0.59))) as audit:
        for line in Bench(audit, widths, options.average).rows():
            print(line, flush=True)


if __name__ == "__main__":
    main()
