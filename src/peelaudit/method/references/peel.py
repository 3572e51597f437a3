"""The recursion over the prefix tree (docs/method.md, Peeling), and the peel map (docs/method.md, Figures by layer).

For k = 1 … L, block k is fitted so that g_k(z_{k-1}) ≈ h_{π_k} over the fit tokens, then frozen. Schedules that
begin alike share those blocks; sibling targets share one regression.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.method.references.closed_form import BlockRegression, FittedBlock
from peelaudit.method.references.distances import sequence_errors, squared_deviation
from peelaudit.method.references.schedules import PrefixNode
from peelaudit.method.references.solvers import SOLVERS, Fit, SolverSettings
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import Rows, StateStore, apply_block, check_state
from peelaudit.progress import SILENT, Progress
from peelaudit.records import BlockFit

__all__ = [
    "Peeled",
    "Peeler",
    "ProjectionRow",
    "projection_map",
]


@dataclass(frozen=True, slots=True)
class Peeled:
    """A node of the prefix tree: the reference state z_k under `prefix`, and how its blocks were fitted.

    `trained` says that every block so far is the trained one, so that `state` is h_k itself.
    """

    prefix: tuple[int, ...]
    state: Tensor
    blocks: tuple[BlockFit, ...]
    trained: bool


@dataclass(frozen=True, slots=True)
class ProjectionRow:
    """Block k's row of the peel map: squared errors of the best block k from h_{k-1} to each h_j, j = k … L.

    Attributes:
        held_out: [targets, sequences] on *held-out*.
        select: [targets] summed over *select*.
        skipped: [sequences] ‖h_{k-1} - h_k‖² on *held-out*.
        unknowns: of the regression, per output; 0 where there is none, at the last layer.
    """

    held_out: NDArray[np.float64]
    select: NDArray[np.float64]
    skipped: NDArray[np.float64]
    unknowns: int


class Peeler:
    """Builds reference networks from a decoder's trained states.

    Args:
        decoder: where the blocks come from.
        states: h_0 … h_L, each [sequences, positions, d_model].
        rows: the splits.
        settings: the solver.
        store: where reference states go.
    """

    def __init__(
        self, decoder: Decoder, states: Sequence[Tensor], rows: Rows, settings: SolverSettings, store: StateStore
    ) -> None:
        self._decoder, self._states, self._rows, self._settings, self._store = decoder, states, rows, settings, store
        self._spread = [squared_deviation(state, rows.fit) for state in states]
        self._spread_select = [squared_deviation(state, rows.select) for state in states]

    def peel(self, root: PrefixNode, *, done: int = 0, progress: Progress = SILENT) -> Iterator[Peeled]:
        """Every node below the root, parents first; a state is dropped when its last child is computed. Where there is
        room, siblings' states are made together, of the pass that their blocks are fitted by.

        Args:
            root: of the schedules.
            done: the first so many nodes aren't wanted any more: those that others grow from are made all the same,
                and aren't counted as work.
            progress: told of each node.

        Raises:
            NonFiniteResult: naming the layer and the targets.
        """
        again = self._decoder.work.counted_before
        progress.stage("reference blocks", _nodes_below(root))
        start = Peeled((), self._states[0], (), trained=self._settings.init == "trained")
        if done >= _nodes_below(root):
            return
        count = 0
        with again(was=done > 0):
            pending = list(reversed(self._children(root, start)))
        while pending:
            node, parent, fitted = pending.pop()
            if count + 1 + _nodes_below(node) <= done:
                count += 1 + _nodes_below(node)
                progress.advance(1 + _nodes_below(node))
                continue
            with again(was=count < done):
                peeled = self._step(node, parent, fitted)
            del parent, fitted
            count += 1
            progress.advance()
            if count > done:
                yield peeled
            with again(was=count < done):
                pending.extend(reversed(self._children(node, peeled)))
            del peeled

    def _children(self, node: PrefixNode, at: Peeled) -> list[tuple[PrefixNode, Peeled, FittedBlock | None]]:
        """The node's children with their fitted blocks; None where the trained block, on its own input, is exact."""
        if not node.children:
            return []
        layer = len(node.prefix) + 1
        targets = [child.prefix[-1] for child in node.children if not (at.trained and child.prefix[-1] == layer)]
        fitted = self._fit(layer, at.state, targets) if targets else {}
        return [(child, at, fitted.get(child.prefix[-1])) for child in node.children]

    def _fit(self, layer: int, inputs: Tensor, targets: Sequence[int]) -> dict[int, FittedBlock]:
        block = self._decoder.block(layer)
        block = block if self._settings.low_bit else block.unconstrained()
        fit = Fit(block, inputs, [self._states[target] for target in targets], self._rows, self._settings, self._store)
        return dict(zip(targets, SOLVERS[self._settings.solver](fit), strict=True))

    def _step(self, node: PrefixNode, parent: Peeled, fitted: FittedBlock | None) -> Peeled:
        layer, target = len(node.prefix), node.prefix[-1]
        if fitted is None:
            fit = BlockFit(layer, target, 0.0, 0.0, 0.0, "trained", None)
            return Peeled(node.prefix, self._states[layer], (*parent.blocks, fit), trained=True)
        what = f"layer {layer} of the reference with targets {','.join(map(str, node.prefix))}"
        state = fitted.state
        if state is None:
            into, decoder = self._store.empty(*parent.state.shape), self._decoder
            state = apply_block(
                fitted.block, parent.state, into, device=decoder.device, dtype=decoder.dtype, what=what
            )  # fmt: skip
        else:
            check_state(state, fitted.block.memory.tokens, what)
        fit_error = float(sequence_errors(state, self._states[target], self._rows.fit).sum())
        spread = self._spread_select[target]
        fit = BlockFit(
            layer=layer,
            target=target,
            fit_error=fit_error / self._spread[target],
            select_error=fitted.error / spread,
            trained_error=fitted.trained_error / spread,
            method=fitted.method,
            penalty=fitted.penalty,
            **({} if fitted.conditioning is None else dataclasses.asdict(fitted.conditioning)),
        )
        return Peeled(node.prefix, state, (*parent.blocks, fit), trained=False)


def projection_map(
    decoder: Decoder,
    states: Sequence[Tensor],
    rows: Rows,
    *,
    reach: int | None = None,
    done: int = 0,
    progress: Progress = SILENT,
) -> Iterator[ProjectionRow]:
    """The peel map: for each block k, from the trained h_{k-1}, the closed-form block to every later state, or to the
    next `reach` of them. Of a low-bit network it is a float block. The first `done` blocks are left out.

    Each is fitted on *fit* and its penalty chosen on *select*.

    Raises:
        NonFiniteResult: naming the layer.
    """
    progress.stage("peel map", decoder.n_layers)
    progress.advance(done)
    for layer in range(done + 1, decoder.n_layers + 1):
        inputs, later = states[layer - 1], states[layer + 1 :][:reach]
        held_out = np.zeros((1 + len(later), rows.held_out.stop - rows.held_out.start))
        select, unknowns = np.zeros(1 + len(later)), 0
        if later:
            regression = BlockRegression(decoder.block(layer).unconstrained(), inputs, later, rows)
            unknowns = regression.features
            changes = [regression.change(index) for index in range(len(later))]
            held_out[1:] = regression.errors(changes, rows.held_out)
            select[1:] = [
                regression.trained_error(index) if change is None else change.error
                for index, change in enumerate(changes)
            ]
        yield ProjectionRow(held_out, select, sequence_errors(inputs, states[layer], rows.held_out), unknowns)
        progress.advance()


def _nodes_below(node: PrefixNode) -> int:
    return sum(1 for _ in node.walk()) - 1
