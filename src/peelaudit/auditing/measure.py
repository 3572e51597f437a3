"""Everything that needs the model, measured once: losses and squared errors per sequence, for `report` to make
figures of.

The trained states come first, then the peel map (from which schedules are searched), then the references, node by
node of the prefix tree. A node on the trained trajectory is the trained network itself: its losses are taken over, not
computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.calibration import Calibration
from peelaudit.method.diagnosis.downstream import BlockSlopes, Downstream
from peelaudit.method.diagnosis.examine import Examination, RepairLosses
from peelaudit.method.diagnosis.repair import Repair, Repairer
from peelaudit.method.diagnosis.slopes import block_slopes
from peelaudit.method.diagnosis.symptoms import signs
from peelaudit.method.readout import ReadoutFactory
from peelaudit.method.references.peel import Peeler, ProjectionRow, SolverSettings, deviation, projection_map
from peelaudit.method.references.schedules import Schedule, SchedulePlan, prefix_tree, search_staircase, staircase
from peelaudit.method.statistics.panel import Losses, Panel, Split
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import StateStore, TokenRows, trained_states
from peelaudit.progress import SILENT, Progress
from peelaudit.records import BlockFit, LayerSigns
from peelaudit.settings.audit import AuditConfig, ReadoutKind

__all__ = ["Measurements", "ScheduleLosses", "examine", "measure"]

LEAST_FIT = 8
"""Sequences of *fit* on which the depths below the last are read out at least; half as many as *select* has otherwise.

Every depth of every reference is read out, and with a large vocabulary that is most of an audit's time.
"""


@dataclass(frozen=True, slots=True)
class ScheduleLosses:
    """A schedule that was run: its losses on the whole panel under the own head and the network's readout."""

    schedule: Schedule
    own: Losses
    readout: Losses
    blocks: tuple[BlockFit, ...]


@dataclass(frozen=True, slots=True)
class Measurements:
    """What `measure` found. Depths are 1 … L.

    Attributes:
        panel: the sequences of the network's losses: all.
        depth_panel: those of the depths below L: all but most of *fit*.
        own: [L] the trained states' losses under the own head; the last is on `panel`.
        readout: [L] the same under the depths' readout, the last under the network's.
        nodes: losses of the reference states below depth L, under the depths' readout, by prefix.
        schedules: in the order they were asked for.
        peel_map: a row for each layer.
        examined: the blocks.
        deviations: [L] ‖h_k - mean(h_k)‖² of each held-out sequence.
        unigram: on `panel`, the losses of guessing by the fit tokens' frequencies.
        searched: how many staircases were compared by estimate.
        unknowns: of a block's regression, per output; 0 if the peel map has none.
        float_nodes: as `nodes`, of references without bits, by every prefix down to the whole schedules; None where
            they weren't asked for or the network is float.
    """

    panel: Panel
    depth_panel: Panel
    own: tuple[Losses, ...]
    readout: tuple[Losses, ...]
    nodes: Mapping[tuple[int, ...], Losses]
    schedules: tuple[ScheduleLosses, ...]
    peel_map: tuple[ProjectionRow, ...]
    examined: Examination
    deviations: tuple[Losses, ...]
    unigram: Losses
    searched: int
    unknowns: int
    float_nodes: Mapping[tuple[int, ...], Losses] | None


def measure(
    decoder: Decoder,
    calibration: Calibration,
    plan: SchedulePlan,
    config: AuditConfig,
    *,
    store: StateStore,
    keep_repair: Callable[[Downstream, Sequence[Tensor], Repair, float], None] | None = None,
    map_reach: int | None = None,
    progress: Progress = SILENT,
) -> Measurements:
    """Run the trained network and every reference over the calibration tokens.

    Args:
        decoder: the network.
        calibration: the tokens.
        plan: the schedules.
        config: the settings.
        store: where states go.
        keep_repair: is given the network, the states, each repair and the held-out nats/token that it gains.
        map_reach: how far beyond each block the peel map goes; all the way if None, which a search needs.
        progress: told of each stage.

    Raises:
        NonFiniteResult: a state or a loss became NaN or Inf; names the layer and the schedule.
    """
    return _Measurer(decoder, calibration, config, store, progress).run(plan, keep_repair, map_reach)


def examine(
    decoder: Decoder, calibration: Calibration, config: AuditConfig, *, store: StateStore, progress: Progress = SILENT
) -> Examination:
    """What `measure` finds without a reference; see there."""
    measurer = _Measurer(decoder, calibration, config, store, progress)
    return measurer.examine(measurer.own_losses(), None)


class _Measurer:
    """The state of one `measure`: what its steps share."""

    def __init__(
        self,
        decoder: Decoder,
        calibration: Calibration,
        config: AuditConfig,
        store: StateStore,
        progress: Progress,
    ) -> None:
        self.decoder, self.config, self.store, self.progress = decoder, config, store, progress
        self.data = TokenRows.of(calibration)
        clusters: dict[Split, NDArray[np.int64]] = {
            "fit": calibration.fit.clusters,
            "select": calibration.select.clusters,
            "held_out": calibration.held_out.clusters,
        }
        draw = partial(Panel.of, clusters, self.data.tokens.shape[1], resamples=config.resamples, seed=config.seed)
        self.panel = draw()
        self.depth_panel = draw(fit_sequences=max(LEAST_FIT, len(calibration.select.clusters) // 2))
        self.states = trained_states(decoder, self.data.tokens, store, progress=progress)
        self.readouts = ReadoutFactory(decoder, self.data, self.states[-1], seed=config.seed)

    def run(
        self,
        plan: SchedulePlan,
        keep_repair: Callable[[Downstream, Sequence[Tensor], Repair, float], None] | None,
        map_reach: int | None,
    ) -> Measurements:
        rows, n_layers = self.data.rows, self.decoder.n_layers
        own, readout = self._trained()
        peel_map = projection_map(self.decoder, self.states, rows, reach=map_reach, progress=self.progress)
        schedules, searched = self._schedules(plan, peel_map)
        nodes, leaves = self._references(schedules, own, readout, low_bit=True)
        float_nodes = None
        if self.config.float_reference and self.decoder.low_bit:
            float_nodes, whole = self._references(schedules, own, readout, low_bit=False)
            float_nodes |= {targets: result.readout for targets, result in whole.items()}
        return Measurements(
            panel=self.panel,
            depth_panel=self.depth_panel,
            own=own,
            readout=readout,
            nodes=nodes,
            schedules=tuple(leaves[schedule.targets] for schedule in schedules),
            peel_map=peel_map,
            examined=self.examine(own[-1], keep_repair),
            deviations=tuple(deviation(self.states[k], rows.held_out) for k in range(1, n_layers + 1)),
            unigram=_unigram(self.data.tokens, rows.fit, self.decoder.vocabulary),
            searched=searched,
            unknowns=peel_map[0].unknowns,
            float_nodes=float_nodes,
        )

    def examine(
        self, own: Losses, keep: Callable[[Downstream, Sequence[Tensor], Repair, float], None] | None
    ) -> Examination:
        """Look at every block."""
        repairs = self._repairs(own, keep)
        looked = [self._look(layer) for layer in range(1, self.decoder.n_layers + 1)]
        digests, found = zip(*looked, strict=True)
        return Examination(self.panel, own, digests, found, self._slopes(), repairs)

    def own_losses(self) -> Losses:
        """The network's, under its own head."""
        return self._losses("own", self.states[-1], self.panel, "the trained network")

    def _look(self, layer: int) -> tuple[str, LayerSigns]:
        """A block's digest and signs: it is read once for both."""
        block = self.decoder.block(layer)
        return block.digest(), signs(block, self.states[layer - 1], self.data.rows.held_out)

    def _slopes(self) -> tuple[BlockSlopes | None, ...]:
        rows, length = self.data.rows.held_out, len(self.data.tokens)

        def spread(losses: Losses) -> Losses:
            whole = np.zeros(length)
            whole[rows] = losses
            return whole

        found = block_slopes(self._downstream(), self.states, rows, progress=self.progress)
        return tuple(None if one is None else BlockSlopes(spread(one.scale), spread(one.bulk)) for one in found)

    def _downstream(self) -> Downstream:
        return Downstream(self.decoder, self.data, self.readouts.own, self.store)

    def _repairs(
        self, own: Losses, keep: Callable[[Downstream, Sequence[Tensor], Repair, float], None] | None
    ) -> RepairLosses | None:
        """What each block's repair gains, if that was asked for."""
        if self.config.repair == "off":
            return None
        downstream = self._downstream()
        repairer = Repairer(downstream, self.states, own)
        held_out, n_layers = self.data.rows.held_out, self.decoder.n_layers
        gains, steps = [np.zeros_like(own) for _ in range(n_layers)], [0] * n_layers
        for repair in repairer.run(self.config.repair, progress=self.progress):
            gain, steps[repair.layer - 1] = gains[repair.layer - 1], repair.steps
            gain[held_out] = own[held_out] - repair.losses
            if keep is not None:
                keep(downstream, self.states, repair, self.panel.mean(gain, "held_out"))
        return RepairLosses(tuple(gains), tuple(steps), repairer.passes, self.decoder.low_bit)

    def _trained(self) -> tuple[tuple[Losses, ...], tuple[Losses, ...]]:
        """The trained states' losses at every depth, under the own head and under the row's readout."""
        n_layers = self.decoder.n_layers
        self.progress.stage("trained readouts", n_layers)
        own, readout = [], []
        for depth in range(1, n_layers + 1):
            kind, panel = self._at(depth)
            what = f"the trained network cut after layer {depth}" if depth < n_layers else "the trained network"
            own.append(self._losses("own", self.states[depth], panel, what))
            readout.append(own[-1] if kind == "own" else self._losses(kind, self.states[depth], panel, what))
            self.progress.advance()
        return tuple(own), tuple(readout)

    def _at(self, depth: int) -> tuple[ReadoutKind, Panel]:
        if depth == self.decoder.n_layers:
            return self.config.readout, self.panel
        return self.config.depth_readout, self.depth_panel

    def _losses(self, kind: ReadoutKind, state: Tensor, panel: Panel, what: str) -> Losses:
        fitted = self.readouts.fit(kind, state, what)
        return fitted.losses(state, self.data.tokens, torch.from_numpy(panel.index), what)

    def _schedules(self, plan: SchedulePlan, peel_map: Sequence[ProjectionRow]) -> tuple[tuple[Schedule, ...], int]:
        """The schedules to run, and how many staircases the search has compared. `final` is always among them."""
        n_layers = self.decoder.n_layers
        final = staircase((), n_layers)
        if not plan.searches:
            return tuple(dict.fromkeys((*plan.schedules, final))), 0
        spread = [float(deviation(state, self.data.rows.select).sum()) for state in self.states[1:]]
        tiny = float(np.finfo(np.float64).tiny)
        errors = [
            [float(error) / max(spread[layer + step], tiny) for step, error in enumerate(row.select)]
            for layer, row in enumerate(peel_map)
        ]
        found = [search_staircase(errors, size) for size in plan.searches]
        searched = sum(math.comb(n_layers - 1, size) for size in plan.searches)
        return tuple(dict.fromkeys((*plan.schedules, *found, final))), searched

    def _references(
        self, schedules: Sequence[Schedule], own: Sequence[Losses], readout: Sequence[Losses], *, low_bit: bool
    ) -> tuple[dict[tuple[int, ...], Losses], dict[tuple[int, ...], ScheduleLosses]]:
        n_layers = self.decoder.n_layers
        config = self.config
        settings = SolverSettings(config.solver, config.init, config.steps, config.seed, low_bit)
        peeler = Peeler(self.decoder, self.states, self.data.rows, settings, self.store)
        nodes: dict[tuple[int, ...], Losses] = {}
        leaves: dict[tuple[int, ...], ScheduleLosses] = {}
        for peeled in peeler.peel(prefix_tree(schedules), progress=self.progress):
            depth = len(peeled.prefix)
            kind, panel = self._at(depth)
            what = f"the {'' if low_bit else 'float '}reference with targets {','.join(map(str, peeled.prefix))}"
            losses = readout[depth - 1] if peeled.trained else self._losses(kind, peeled.state, panel, what)
            if depth < n_layers:
                nodes[peeled.prefix] = losses
                continue
            owns = own[-1] if peeled.trained else self._losses("own", peeled.state, panel, what)
            leaves[peeled.prefix] = ScheduleLosses(Schedule(peeled.prefix), owns, losses, peeled.blocks)
        return nodes, leaves


def _unigram(tokens: Tensor, fit: slice, vocabulary: int) -> Losses:
    """[sequences] nats of each sequence under the fit tokens' add-one frequencies, first positions left out."""
    counts = torch.bincount(tokens[fit].flatten(), minlength=vocabulary).double() + 1
    surprise: Losses = -(counts / counts.sum()).log()[tokens[:, 1:]].sum(dim=1).numpy()
    return surprise
