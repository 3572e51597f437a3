"""The references of a network, from the peel map and a search to their losses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from peelaudit.auditing.measurements import NodeLosses, ReferenceLosses, ScheduleLosses, TrainedLosses
from peelaudit.auditing.resuming import Kept
from peelaudit.method.readouts.factory import ReadoutFactory
from peelaudit.method.references.distances import deviation
from peelaudit.method.references.peel import Peeled, Peeler, ProjectionRow, projection_map
from peelaudit.method.references.schedules import Schedule, SchedulePlan, prefix_tree, search_staircase, staircase
from peelaudit.method.references.solvers import SolverSettings
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import StateStore, TokenRows
from peelaudit.settings.audit import AuditConfig, ReadoutKind

__all__ = ["Depths", "ReadOver", "References"]


@dataclass(frozen=True, slots=True)
class ReadOver:
    """Tokens whose losses are taken, and their panel."""

    data: TokenRows
    panel: Panel


@dataclass(frozen=True, slots=True)
class Depths:
    """How states are read out: those after the last layer over all tokens, those below it over some.

    Attributes:
        readouts: fits what reads them.
        config: says of which kind that is.
        n_layers: L.
        whole: of the last layer.
        cut: of the layers below it.
    """

    readouts: ReadoutFactory
    config: AuditConfig
    n_layers: int
    whole: ReadOver
    cut: ReadOver

    def at(self, depth: int) -> tuple[ReadoutKind, ReadOver]:
        """What reads the states after a layer, and over which tokens."""
        if depth == self.n_layers:
            return self.config.readout, self.whole
        return self.config.depth_readout, self.cut

    def losses(self, kind: ReadoutKind, state: Tensor, over: ReadOver, what: str) -> Losses:
        """On the panel, the losses of a state under a readout that is fitted to it. Raises NonFiniteResult."""
        fitted = self.readouts.fit(kind, state, what)
        return fitted.losses(state, over.data.targets(slice(None)), torch.from_numpy(over.panel.index), what)


class References:
    """Fits them, node by node of the prefix tree, and reads them out.

    Args:
        decoder: the network.
        states: h_0 … h_L, each [sequences, positions, d_model].
        depths: how states are read out.
        config: the settings.
        store: where states go.
        kept: told of each stage, and asked for what an earlier process has measured.
    """

    def __init__(
        self,
        decoder: Decoder,
        states: Sequence[Tensor],
        depths: Depths,
        config: AuditConfig,
        *,
        store: StateStore,
        kept: Kept,
    ) -> None:
        self._decoder, self._states, self._depths, self._config = decoder, states, depths, config
        self._rows, self._store, self._kept = depths.whole.data.rows, store, kept

    def measured(self, trained: TrainedLosses, plan: SchedulePlan, *, map_reach: int | None = None) -> ReferenceLosses:
        """Every reference's losses.

        Args:
            trained: the network's.
            plan: the schedules.
            map_reach: how far beyond each block the peel map goes, and a search; all the way if None.
        """
        mapped = partial(projection_map, self._decoder, self._states, self._rows, reach=map_reach)
        peel_map = tuple(
            self._kept.each("peel-map", ProjectionRow, lambda found: mapped(done=len(found), progress=self._kept))
        )
        schedules, searched = self._schedules(plan, peel_map)
        nodes, leaves = self._peeled(schedules, trained, low_bit=True)
        float_nodes = None
        if self._config.float_reference and self._decoder.low_bit:
            float_nodes, whole = self._peeled(schedules, trained, low_bit=False)
            float_nodes |= {targets: result.readout for targets, result in whole.items()}
        return ReferenceLosses(
            peel_map=peel_map,
            schedules=tuple(leaves[schedule.targets] for schedule in schedules),
            searched=searched,
            nodes=nodes,
            float_nodes=float_nodes,
        )

    def _schedules(self, plan: SchedulePlan, peel_map: Sequence[ProjectionRow]) -> tuple[tuple[Schedule, ...], int]:
        """The schedules to run, and how many staircases the search has compared. `final` is among them wherever a block
        is fitted at all.
        """
        n_layers = self._decoder.n_layers
        final, direct = staircase((), n_layers), staircase(range(1, n_layers), n_layers)
        if not plan.searches:
            fitted = () if set(plan.schedules) == {direct} else (final,)
            return tuple(dict.fromkeys((*plan.schedules, *fitted))), 0
        spread = [float(deviation(state, self._rows.select).sum()) for state in self._states[1:]]
        tiny = float(np.finfo(np.float64).tiny)
        errors = [
            [
                *(float(error) / max(spread[layer + step], tiny) for step, error in enumerate(row.select)),
                *(n_layers - layer - len(row.select)) * (math.inf,),
            ]
            for layer, row in enumerate(peel_map)
        ]
        found = [search_staircase(errors, size) for size in plan.searches]
        searched = sum(math.comb(n_layers - 1, size) for size in plan.searches)
        return tuple(dict.fromkeys((*plan.schedules, *found, final))), searched

    def _peeled(
        self, schedules: Sequence[Schedule], trained: TrainedLosses, *, low_bit: bool
    ) -> tuple[dict[tuple[int, ...], Losses], dict[tuple[int, ...], ScheduleLosses]]:
        config = self._config
        settings = SolverSettings(config.solver, config.init, config.steps, config.seed, low_bit)
        peeler = Peeler(self._decoder, self._states, self._rows, settings, self._store)
        name = "reference" if low_bit else "float-reference"

        def after(found: Sequence[NodeLosses]) -> Iterator[NodeLosses]:
            for peeled in peeler.peel(prefix_tree(schedules), done=len(found), progress=self._kept):
                yield self._node(peeled, trained, name.replace("-", " "))

        nodes: dict[tuple[int, ...], Losses] = {}
        leaves: dict[tuple[int, ...], ScheduleLosses] = {}
        for node in self._kept.each(name, NodeLosses, after):
            if node.own is None:
                nodes[node.prefix] = node.readout
            else:
                leaves[node.prefix] = ScheduleLosses(Schedule(node.prefix), node.own, node.readout, node.blocks)
        return nodes, leaves

    def _node(self, peeled: Peeled, trained: TrainedLosses, name: str) -> NodeLosses:
        depth = len(peeled.prefix)
        kind, over = self._depths.at(depth)
        what = f"the {name} with targets {','.join(map(str, peeled.prefix))}"
        losses = trained.readout[depth - 1] if peeled.trained else self._depths.losses(kind, peeled.state, over, what)
        own: Losses | None = None
        if depth == self._decoder.n_layers:
            own = trained.own[-1] if peeled.trained else self._depths.losses("own", peeled.state, over, what)
        return NodeLosses(peeled.prefix, losses, own, peeled.blocks)
