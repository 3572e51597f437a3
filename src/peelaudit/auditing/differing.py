"""What is otherwise in one checkpoint than in another: parts swapped one at a time, both ways, and tensors compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from peelaudit.auditing.alike import check_vocabulary
from peelaudit.auditing.contrast import findings, headline
from peelaudit.auditing.exchange import Exchange, Figures, Plan, apart_weights
from peelaudit.auditing.feeding import fed
from peelaudit.auditing.prepare import Prepared, held_decoder, prepared, versions
from peelaudit.checkpoints import Checkpoint, open_checkpoint
from peelaudit.method.diagnosis.swaps import BASE, Swaps
from peelaudit.method.linalg.precision import exact_float32
from peelaudit.method.statistics.panel import spread
from peelaudit.network.counterparts import (
    Counterparts,
    changed_settings,
    check_alike,
    compare_tensors,
    otherwise,
    places,
)
from peelaudit.network.decoder import Decoder
from peelaudit.network.families import admit
from peelaudit.network.states import StateStore, TokenRows
from peelaudit.progress import SILENT, Clock, Progress
from peelaudit.records.difference import Difference
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.command import DIFFERENCE_SETTINGS

__all__ = ["PASSES", "difference"]

PASSES = 4.0
"""Forward passes over all tokens that each direction may cost unless told otherwise, the network's own included."""
LEAST_SEQUENCES = 4
"""That parts are swapped on, whatever that costs."""
NEARLY_ALL = 0.75
"""The share of the sequences from which on all are taken instead."""
_SPLIT = (0.01, 0.15, 0.84)
"""Nothing is fitted; by *select* it is told what sequences begin with."""


def difference(config: AuditConfig, new: Path, *, passes: float = PASSES, progress: Progress = SILENT) -> Difference:
    """Swap the parts of two checkpoints of one architecture, and compare their tensors.

    Args:
        config: the settings; its checkpoint is BASE. Its adapter, if it has one, is merged into NEW.
        new: NEW.
        passes: forward passes over all tokens that each direction may cost, infinite for every swap on every token.
        progress: told of each stage.

    Raises:
        PeelauditError: as `audit_config`.
        ConfigError: the two aren't of one architecture, or haven't the same vocabulary.
    """
    clock = Clock(progress)
    bits = "float" if config.bits == "auto" else config.bits  # no reference is fitted that is to be held to them
    settings = dataclasses.replace(config, adapter=None, parent=None, split=_SPLIT, bits=bits)
    with (
        exact_float32(),
        prepared(settings, progress=clock) as audit,
        open_checkpoint(new, config=config.config, adapter=config.adapter, admit=admit, progress=clock) as other,
    ):
        check_alike(audit.checkpoint, other)
        notes = check_vocabulary(audit.config, audit.calibration, audit.checkpoint, other)
        made_by = _made_by(dataclasses.replace(audit.config, adapter=config.adapter), new, passes)
        return _Comparison(dataclasses.replace(audit, clock=clock), other, passes).concluded(notes, made_by)


def _made_by(config: AuditConfig, new: Path, passes: float) -> tuple[tuple[str, object], ...]:
    """What says how to repeat it: `Difference.settings`."""
    paths = (("base", config.checkpoint), ("new", str(new)))
    settings = ((name, getattr(config, name)) for name in DIFFERENCE_SETTINGS)
    return (*paths, *settings, ("passes", f"{passes:g}" if math.isfinite(passes) else "all"))


class _Comparison:
    """BASE and NEW, open, from their tensors to a `Difference`."""

    def __init__(self, audit: Prepared, other: Checkpoint, passes: float) -> None:
        self._audit, self._other, self._clock, self._passes = audit, other, audit.clock, passes
        self._base = _decoder(audit)
        self._new = _decoder(dataclasses.replace(audit, checkpoint=other))
        self._store = StateStore(dtype=self._base.dtype, device=self._base.device)
        self._sequences = len(audit.calibration.held_out.tokens)
        self._clock.metered(self._worked)
        self._calibration = fed(audit.calibration, self._base, audit.config.bos, self._store, progress=self._clock)

    def _worked(self) -> float:
        return (self._base.passes + self._new.passes) / self._sequences

    def concluded(self, notes: Sequence[str], made_by: tuple[tuple[str, object], ...]) -> Difference:
        """All of it, with what the two said of each other and the settings that it is made by.

        Raises:
            PeelauditError: as `difference`.
        """
        base, new, held_out = self._audit.checkpoint, self._other, self._calibration.held_out
        tensors = compare_tensors(base, new, self._clock)
        data = TokenRows.alone(held_out)
        settings = changed_settings(base.config, new.config)
        computed = otherwise(self._base, self._new, data.tokens, self._clock) if settings else frozenset()
        pair = Counterparts(self._base, self._new, computed.union(tensors.squares))
        swaps = Swaps(pair, data, self._store, self._clock)
        plan = Plan(swaps, places(base, new))
        index = spread(held_out.clusters, self._affordable(swaps, plan))
        whole, some = swaps.run(plan.mixes, index)
        base.check_unchanged()
        new.check_unchanged()
        self._calibration.check_unchanged()
        self._clock.stage("intervals", 1)
        every = Figures(self._audit.config, held_out.clusters, data.predictions(slice(None)).numpy())
        difference = every.estimate(whole[swaps.new].losses - whole[BASE].losses)
        exchange = Exchange(every.of(index), plan, some)
        rows = exchange.rows(tensors, computed)
        swapped, named, changed = exchange.swapped(len(held_out.clusters)), exchange.named(rows), apart_weights(rows)
        differing = settings if computed else ()
        return Difference(
            versions=versions(),
            base=dataclasses.replace(base.info, tensors=()),
            new=dataclasses.replace(new.info, tensors=()),
            data=self._calibration.info,
            settings=made_by,
            base_loss=every.estimate(whole[BASE].losses),
            new_loss=every.estimate(whole[swaps.new].losses),
            whole=difference,
            kl=every.estimate(whole[swaps.new].kl),
            swapped=swapped,
            rows=rows,
            tensors=tensors.changes,
            same_tensors=tensors.same,
            configuration=differing,
            named=named,
            changed=changed,
            headline=headline(difference, swapped, rows, named, changed),
            findings=findings(tensors.changes, differing, rows),
            warnings=(*self._calibration.warnings, *base.notes, *new.notes, *notes),
            passes=self._clock.work(),
            timings=self._clock.seconds(),
        )

    def _affordable(self, swaps: Swaps, plan: Plan) -> int:
        """How many sequences parts can be swapped on."""
        others = set(plan.mixes) - {BASE, swaps.new}
        if not others or math.isinf(self._passes):
            return self._sequences
        share = 2 * (self._passes - 1) / (swaps.cost(others) + self._base.head_share)
        some = max(LEAST_SEQUENCES, int(self._sequences * share))
        return some if some < NEARLY_ALL * self._sequences else self._sequences


def _decoder(audit: Prepared) -> Decoder:
    decoder, _ = held_decoder(audit, audit.checked())
    return decoder
