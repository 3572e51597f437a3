"""Bits given out within a budget, from settings to record: each matrix rounded alone, a plan, and what that costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from peelaudit.auditing.exchange import Figures
from peelaudit.auditing.feeding import fed
from peelaudit.auditing.prepare import Prepared, held_decoder, prepared, versions
from peelaudit.auditing.thrift import headline
from peelaudit.calibration import Split
from peelaudit.checkpoints.gguf_names import names_in_gguf
from peelaudit.errors import ConfigError, UnsupportedCheckpoint
from peelaudit.method.bits.knapsack import cheapest
from peelaudit.method.bits.plans import average, evenly
from peelaudit.method.bits.trials import Part, Plan, Trials, parts_of
from peelaudit.method.diagnosis.swaps import Outcome
from peelaudit.method.statistics.panel import spread
from peelaudit.network.lowbit import Grids
from peelaudit.network.states import StateStore, TokenRows
from peelaudit.progress import SILENT, Progress
from peelaudit.records.budget import Alone, Budget, BudgetRow, Rounded
from peelaudit.settings.audit import AuditConfig

__all__ = ["Wish", "budget"]

SCALE_BITS = 16
"""Of a scale, as formats keep it."""
LEAST_SEQUENCES = 4
"""That matrices are rounded on, whatever that costs."""
_SPLIT = (0.01, 0.4, 0.59)
"""Nothing is fitted; by *select* bits are given out."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be given out.

    Attributes:
        average: bits of a weight's code, no less than the narrowest width.
        widths: that there are, the narrowest first.
        group: neighbouring inputs that share a scale.
        passes: forward passes over all tokens that rounding matrices alone may cost, infinite for all of *select*.
        named: whether the names in a GGUF file are needed.
    """

    average: float
    widths: tuple[int, ...]
    group: int
    passes: float
    named: bool = False


def budget(config: AuditConfig, wish: Wish, *, progress: Progress = SILENT) -> Budget:
    """Give out bits to a network's matrices.

    Args:
        config: the settings; its splits are others.
        wish: how many bits.
        progress: told of each stage.

    Raises:
        PeelauditError: as `audit_config`.
        UnsupportedCheckpoint: the network is low-bit already, or its names in a GGUF file are needed and not known.
    """
    settings = dataclasses.replace(config, parent=None, split=_SPLIT, bits="float")
    with prepared(settings, progress=progress) as audit:
        names = _gguf_names(audit, wish)
        return _Bench(audit, audit.checked(), wish).concluded(names)


def _gguf_names(audit: Prepared, wish: Wish) -> Mapping[str, tuple[str, ...]]:
    try:
        return names_in_gguf(audit.checkpoint.skeleton())
    except UnsupportedCheckpoint:
        if wish.named:
            raise
        return {}


class _Bench:
    """A float network, open, from its matrices to a `Budget`."""

    def __init__(self, audit: Prepared, grids: Grids, wish: Wish) -> None:
        self._audit, self._wish, self._clock = audit, wish, audit.clock
        self._decoder, low_bit = held_decoder(audit, grids)
        if low_bit is not None:
            sets = " and ".join(f"{one.matrices} {one.name}" for one in low_bit.sets)
            raise UnsupportedCheckpoint(
                f"{audit.checkpoint.info.path}: it is low-bit already ({sets}, of {low_bit.matrices} matrices), and "
                "bits are given out to floats; name what it was rounded from"
            )
        self._store = StateStore.of(self._decoder)
        drawn = audit.calibration
        self._sequences = sum(len(split.tokens) for split in (drawn.fit, drawn.select, drawn.held_out))
        self._clock.metered(lambda: self._decoder.passes / self._sequences)
        retried = self._decoder.memory.retried
        self._calibration = retried(
            partial(fed, drawn, self._decoder, audit.config.bos, self._store, progress=self._clock)
        )
        self._parts = parts_of(self._decoder, wish.group)

    def concluded(self, names: Mapping[str, tuple[str, ...]]) -> Budget:
        """All of it.

        Args:
            names: of tensors in a GGUF file, by the skeleton's.

        Raises:
            PeelauditError: as `budget`.
        """
        select, held_out, wish = self._calibration.select, self._calibration.held_out, self._wish
        some = self._affordable(select)
        alone = self._alone(some)
        plan, even = self._plan(alone), evenly(self._parts, wish.widths, wish.average)
        usual, chosen, spread_out = self._whole(held_out, plan, even)
        self._audit.checkpoint.check_unchanged()
        self._calibration.check_unchanged()
        self._clock.stage("intervals", 1)
        figures = self._figures(held_out)
        gain = figures.estimate(spread_out.losses - chosen.losses)
        best = self._rounded(figures, usual, chosen, plan)
        info, config = self._audit.checkpoint.info, self._audit.config
        return Budget(
            versions=versions(),
            checkpoint=dataclasses.replace(info, tensors=()),
            data=self._calibration.info,
            settings=tuple((one.name, getattr(config, one.name)) for one in dataclasses.fields(AuditConfig)),
            average=wish.average,
            widths=wish.widths,
            group=wish.group,
            sequences=len(some.tokens),
            of=len(select.tokens),
            rows=self._rows(alone, plan, even, names),
            float_loss=figures.estimate(usual.losses),
            chosen=best,
            spread=self._rounded(figures, usual, spread_out, even),
            gain=gain,
            kl_gain=figures.estimate(spread_out.kl - chosen.kl),
            headline=headline(best, gain, even, same=plan == even),
            warnings=(*self._calibration.warnings, *self._audit.checkpoint.notes, *self._decoder.memory.notes),
            passes=self._clock.work(),
            timings=self._clock.seconds(),
        )

    def _names(self) -> tuple[str, ...]:
        """Of matrices, whichever block they are in."""
        return tuple(dict.fromkeys(part.name for part in self._parts))

    def _affordable(self, select: Split) -> Split:
        """As many sequences of *select* as matrices can be rounded on, evenly spaced."""
        if math.isinf(self._wish.passes):
            return select
        trials = self._trials(select)
        cost = len(self._wish.widths) * sum(trials.cost(name) for name in self._names())
        count = max(LEAST_SEQUENCES, int(self._wish.passes * self._sequences / cost))
        index = spread(select.clusters, count)
        fed_only = None if select.fed_only is None else select.fed_only[index]
        return Split(select.tokens[index], select.clusters[index], fed_only)

    def _trials(self, split: Split) -> Trials:
        return Trials(self._decoder, self._parts, self._wish.group, TokenRows.alone(split), self._store)

    def _figures(self, split: Split) -> Figures:
        predictions = TokenRows.alone(split).predictions(slice(None)).numpy()
        return Figures(self._audit.config, split.clusters, predictions)

    def _alone(self, some: Split) -> Mapping[Part, tuple[Alone, ...]]:
        """What each matrix costs alone, with each of the widths."""
        trials, figures = self._trials(some), self._figures(some)
        runs = [(name, bits) for name in self._names() for bits in self._wish.widths]
        found: dict[Part, tuple[Alone, ...]] = dict.fromkeys(self._parts, ())
        self._clock.stage("round each matrix alone", len(runs))
        for name, bits in runs:
            usual, each = self._decoder.memory.retried(partial(trials.alone, name, bits))
            for part, one in each.items():
                loss = figures.estimate(one.losses - usual.losses)
                found[part] += (Alone(bits, loss, figures.estimate(one.kl)),)
            self._clock.advance()
        return found

    def _plan(self, alone: Mapping[Part, Sequence[Alone]]) -> Plan:
        """The plan that costs least, were what matrices cost alone to add up.

        Raises:
            ConfigError: the average is below the narrowest width.
        """
        widths, sizes = self._wish.widths, [part.weights for part in self._parts]
        costs = np.array([[one.cost for one in alone[part]] for part in self._parts])
        options = cheapest(sizes, widths, costs, int(self._wish.average * sum(sizes) + 1e-6))
        if options is None:
            raise ConfigError(f"an average of {self._wish.average:g} bits is below the narrowest width, {widths[0]}")
        return tuple(widths[option] for option in options)

    def _whole(self, held_out: Split, plan: Plan, even: Plan) -> tuple[Outcome, Outcome, Outcome]:
        """What the float network makes of the text, and those that are rounded by the two plans."""
        trials, found = self._trials(held_out), dict[Plan, tuple[Outcome, Outcome]]()
        plans = dict.fromkeys((plan, even))
        self._clock.stage("round all matrices", len(plans))
        for one in plans:
            found[one] = self._decoder.memory.retried(partial(trials.whole, one))
            self._clock.advance()
        return found[plan][0], found[plan][1], found[even][1]

    def _rounded(self, figures: Figures, usual: Outcome, found: Outcome, plan: Plan) -> Rounded:
        bits = average(self._parts, plan)
        scales = SCALE_BITS * sum(one.scales for one in self._parts) / sum(one.weights for one in self._parts)
        return Rounded(
            bits=bits,
            with_scales=bits + scales,
            loss=figures.estimate(found.losses),
            cost=figures.estimate(found.losses - usual.losses),
            kl=figures.estimate(found.kl),
        )

    def _rows(
        self, alone: Mapping[Part, tuple[Alone, ...]], plan: Plan, even: Plan, names: Mapping[str, tuple[str, ...]]
    ) -> tuple[BudgetRow, ...]:
        def known(part: Part) -> tuple[str, ...]:
            path = f"{self._decoder.family.blocks}.{part.layer - 1}.{part.name}"
            return names.get(f"{path}.weight") or names.get(path) or ()

        return tuple(
            BudgetRow(part.layer, part.name, part.weights, part.groups, known(part), bits, evenly_bits, alone[part])
            for part, bits, evenly_bits in zip(self._parts, plan, even, strict=True)
        )
