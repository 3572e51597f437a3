"""Everything that needs the model, measured once: losses and squared errors per sequence, for `conclude` to make
figures of.

The trained states come first, then the peel map (from which schedules are searched), then the references, node by
node of the prefix tree. A node on the trained trajectory is the trained network itself: its losses are taken over, not
computed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.auditing.machines import Common, Machines, Piece
from peelaudit.auditing.measurements import ReferenceLosses, RefinedLosses, TrainedLosses
from peelaudit.auditing.references import Depths, ReadOver, References
from peelaudit.auditing.resuming import Kept
from peelaudit.calibration import Calibration
from peelaudit.method.diagnosis.examine import Examination, Examiner, LayerGain, LayerGains
from peelaudit.method.readouts.factory import ReadoutFactory
from peelaudit.method.readouts.readout import Readout
from peelaudit.method.references.distances import deviation
from peelaudit.method.references.schedules import SchedulePlan
from peelaudit.method.refinement.downstream import Downstream
from peelaudit.method.refinement.reach import Reach
from peelaudit.method.refinement.refine import Refined, Refiner
from peelaudit.method.statistics.panel import Losses, Panel, SplitName
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import NO_TARGET, Rows, StateStore, TokenRows, trained_states
from peelaudit.settings.audit import AuditConfig

__all__ = ["Measurer"]

LEAST_FIT = 8
"""Sequences of *fit* on which the depths below the last are read out at least; half as many as *select* has otherwise.

Every depth of every reference is read out, and with a large vocabulary that would be most of an audit's time.
"""
LEAST_READ = 2
"""Tokens of a sequence whose losses are taken at least, on the mean."""


class Measurer:
    """Runs a network and its references over the calibration tokens; the trained states are made at once.

    Args:
        decoder: the network.
        calibration: the tokens.
        config: the settings.
        store: where states go.
        kept: told of each stage, and asked for what an earlier process has measured.
        depth_passes: see `Extent`.

    Raises:
        NonFiniteResult: here and in the methods: a state or a loss became NaN or Inf; names the layer and the schedule.
    """

    def __init__(
        self,
        decoder: Decoder,
        calibration: Calibration,
        config: AuditConfig,
        *,
        store: StateStore,
        kept: Kept | None = None,
        depth_passes: float = 1.0,
    ) -> None:
        self._decoder, self._config, self._store = decoder, config, store
        self._kept = kept or Kept(memory=decoder.memory)
        self._data = TokenRows.of(calibration)
        clusters: dict[SplitName, NDArray[np.int64]] = {
            "fit": calibration.fit.clusters,
            "select": calibration.select.clusters,
            "held_out": calibration.held_out.clusters,
        }
        draw = partial(
            Panel.of,
            clusters,
            self._data.tokens.shape[1],
            resamples=config.resamples,
            seed=config.seed,
        )
        self._panel = draw(predictions=self._data.predictions(slice(None)).numpy())
        some = max(LEAST_FIT, len(calibration.select.clusters) // 2)
        depth_data = self._data.thinned(self._thinning(some, depth_passes))
        counts = depth_data.predictions(slice(None)).numpy()
        depth_panel = draw(fit_sequences=some, predictions=counts)
        run = partial(trained_states, decoder, self._data.tokens, store, progress=self._kept)
        self._states = decoder.memory.retried(run)
        self._readouts = ReadoutFactory(decoder, self._data, self._states[-1], store)
        whole, cut = ReadOver(self._data, self._panel), ReadOver(depth_data, depth_panel)
        self._depths = Depths(self._readouts, config, decoder.n_layers, whole, cut)
        self._head, self._base = decoder.memory.retried(self._fitted)
        self._down = Downstream(decoder, self._data, self._head, store)
        self.refiner = Refiner(self._down, self._states, self._base)

    def _fitted(self) -> tuple[Readout, Losses]:
        """The readout of the network, and its losses under it."""
        what = "the trained network"
        head = self._readouts.fit(self._config.readout, self._states[-1], what)
        return head, self._read(head, self._states[-1], what)

    def _thinning(self, fit_sequences: int, passes: float) -> int:
        """One of how many tokens is read out at depths below the last: all, or as many as so many passes allow."""
        rows = self._data.rows
        read: int = min(fit_sequences, rows.fit.stop) + rows.held_out.stop - rows.select.start
        depths: int = 3 * (self._decoder.n_layers - 1)  # under the own head, under the depths', and a reference's
        cost: float = depths * read / rows.held_out.stop * self._decoder.head_share
        most = int(self._data.predictions(slice(None)).float().mean()) // LEAST_READ
        return max(1, min(math.ceil(cost / passes), most))

    @property
    def own(self) -> Losses:
        """[sequences] the network's losses in nats, under its own head."""
        return self._readouts.final_losses("the trained network").own

    @property
    def panel(self) -> Panel:
        """The sequences of the network's losses: all."""
        return self._panel

    @property
    def rows(self) -> Rows:
        """Which sequences belong to which split."""
        return self._data.rows

    def losses_of(self, decoder: Decoder, head: Readout) -> Losses:
        """[sequences] nats of *held-out* of another network of the same shape.

        Raises:
            NonFiniteResult: a state or a loss became NaN or Inf.
        """
        rows = self._data.rows.held_out
        final = trained_states(decoder, self._data.tokens[rows], self._store)[-1]
        return head.losses(final, self._data.targets(rows), torch.arange(len(final)), "the reference refined, as saved")

    @property
    def head(self) -> Readout:
        """The readout of the network and of its references, as fitted to the trained states."""
        return self._head

    def trained(self) -> TrainedLosses:
        """The trained states' losses at every depth, under the own head and under the row's readout."""
        panels = {"panel": self._panel, "depth_panel": self._depths.cut.panel}
        return self._kept.one("trained", TrainedLosses, self._trained, given=panels)

    def _trained(self) -> TrainedLosses:
        n_layers, rows = self._decoder.n_layers, self._data.rows
        self._kept.stage("trained readouts", n_layers)
        own, readout = [], []
        for depth in range(1, n_layers):
            kind, over = self._depths.at(depth)
            what = f"the trained network cut after layer {depth}"
            own.append(self._depths.losses("own", self._states[depth], over, what))
            readout.append(own[-1] if kind == "own" else self._depths.losses(kind, self._states[depth], over, what))
            self._kept.advance()
        found = self._readouts.final_losses("the trained network")
        self._kept.advance()
        tempered = np.zeros_like(self._base)
        tempered[rows.held_out] = found.tempered
        return TrainedLosses(
            panel=self._panel,
            depth_panel=self._depths.cut.panel,
            own=(*own, found.own),
            readout=(*readout, self._base),
            deviations=tuple(deviation(state, rows.held_out) for state in self._states[1:]),
            unigram=_unigram(self._data.targets(slice(None)), rows.fit, self._decoder.vocabulary),
            temperature=found.temperature,
            tempered=tempered,
        )

    def refined(
        self, reach: Reach, *, half: bool, told: Callable[[Refined, Losses], None] | None = None
    ) -> RefinedLosses:
        """The reference that knows the labels.

        Args:
            reach: how far its blocks are moved.
            half: whether to make another one with the first half of the fit tokens.
            told: of its blocks, and its losses under the network's readout, on the whole panel.
        """
        found = self._kept.one(
            "refined",
            RefinedLosses,
            partial(self._refined, reach, told),
            anew=told is not None,
            taken=self.refiner.recall,
            given={"half": None},
        )
        if not half or self._data.rows.fit.stop <= 1:
            return found
        if reach.thinned > 1:  # where a step costs more than all looks, none is tried that gained nothing with all
            reach = dataclasses.replace(reach, steps=min(reach.steps, max(1, found.steps)))
        return dataclasses.replace(found, half=self._kept.one("half", Losses, partial(self._refined_by_half, reach)))

    def _refined(self, reach: Reach, told: Callable[[Refined, Losses], None] | None) -> RefinedLosses:
        before = self.refiner.work
        refined = self.refiner.all(reach, progress=self._kept)
        final = self.refiner.final(refined, slice(0, len(self._data.tokens))) if refined.moved else self._states[-1]
        passes = self.refiner.passes(before)
        found = RefinedLosses(
            own=self._read(self._readouts.own, final, "the reference refined"),
            readout=self._read(self._head, final, "the reference refined"),
            half=None,
            steps=refined.steps,
            products=refined.products,
            passes=passes,
            held=self._decoder.low_bit,
        )
        if told is not None:
            told(refined, found.readout)
        return found

    def gaps(
        self,
        examiner: Examiner,
        reach: Reach,
        *,
        told: Callable[[Refined, float], None] | None = None,
        machines: Machines | None = None,
    ) -> LayerGains:
        """What refining each block alone gains.

        Args:
            examiner: this network's.
            reach: how far they are moved.
            told: of each block, and the held-out nats/token that it gains.
            machines: that refine them; this one alone if None.
        """
        elsewhere = None if machines is None else partial(self._elsewhere, machines, told is not None)

        def after(found: Sequence[LayerGain]) -> Iterator[LayerGain]:
            for refined, gain in examiner.gaps(self.refiner, reach, found=found, elsewhere=elsewhere):
                if told is not None and refined is not None:
                    told(refined, self._panel.mean(gain.losses, "held_out"))
                yield gain

        found = self._kept.each("gap", LayerGain, after, anew=told is not None, taken=self.refiner.recall)
        return LayerGains.of(found, reach, low_bit=self._decoder.low_bit)

    def _elsewhere(
        self, machines: Machines, wanted: bool, layers: Sequence[int], reach: Reach, first: float | None
    ) -> Iterator[tuple[Refined | None, LayerGain]]:
        """What machines make of these blocks: all that is computed there counts as if it were here."""
        common = Common.of(self._config, self._decoder, self._data, self._head, self._base, reach, first, wanted=wanted)
        pieces = (Piece.of(layer, self.refiner.directed(layer)) for layer in layers)
        for done in machines(common, self._states, pieces):
            self._decoder.work.add(done.blocks)
            self._decoder.work.read(done.head)
            self._decoder.memory.notes += done.notes
            yield done.refined, done.gain

    def examination(self, examiner: Examiner, gains: LayerGains | None) -> Examination:
        """What every block shows, and what refining it gained, where that was done."""
        known = {"panel": self._panel, "losses": self._base, "gains": gains}
        return self._kept.one("examination", Examination, partial(examiner.examination, gains), given=known)

    def estimated(self) -> Losses | None:
        """On the panel, zero but for *held-out*: what a step of all blocks is estimated to gain, see `Refiner`."""
        return self._kept.one("estimate", Losses | None, self._estimated)

    def _estimated(self) -> Losses | None:
        found = self.refiner.estimated(progress=self._kept)
        if found is None:
            return None
        gains = np.zeros_like(self._base)
        gains[self._data.rows.held_out] = found
        return gains

    def _refined_by_half(self, reach: Reach) -> Losses:
        """On the panel, zero but for *held-out*: the losses of blocks refined with half of *fit*."""
        rows = self._data.rows
        fewer = dataclasses.replace(self._data, rows=Rows(slice(0, rows.fit.stop // 2), rows.select, rows.held_out))
        down = Downstream(self._decoder, fewer, self._head, self._store)
        refiner = Refiner(down, self._states, self._base)
        losses = np.zeros_like(self._base)
        losses[rows.held_out] = refiner.losses(refiner.all(reach), rows.held_out)
        return losses

    def references(
        self, trained: TrainedLosses, plan: SchedulePlan, *, map_reach: int | None = None
    ) -> ReferenceLosses:
        """Every reference's losses.

        Args:
            trained: the network's.
            plan: the schedules.
            map_reach: how far beyond each block the peel map goes, and a search; all the way if None.
        """
        made = References(self._decoder, self._states, self._depths, self._config, store=self._store, kept=self._kept)
        return made.measured(trained, plan, map_reach=map_reach)

    def examiner(self) -> Examiner:
        """What looks at every block, in the network under the readout."""
        plain = Downstream(self._decoder, self._data, self._readouts.own, self._store)
        return Examiner(self._down, self._states, self._panel, self._base, self._kept, plain=plain)

    def _read(self, readout: Readout, state: Tensor, what: str) -> Losses:
        return readout.losses(state, self._data.targets(slice(None)), torch.arange(len(state)), what)


def _unigram(targets: Tensor, fit: slice, vocabulary: int) -> Losses:
    """[sequences] nats of each sequence under the fit tokens' add-one frequencies, first positions left out."""
    seen = targets[fit].flatten()
    counts = torch.bincount(seen[seen != NO_TARGET], minlength=vocabulary).double() + 1
    surprises = -(counts / counts.sum()).log()[targets[:, 1:].clamp(min=0)]
    summed: Losses = surprises.masked_fill(targets[:, 1:] == NO_TARGET, 0.0).sum(dim=1).numpy()
    return summed
