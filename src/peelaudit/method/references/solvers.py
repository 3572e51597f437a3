"""The solvers of reference blocks by name: each fits one block, on one input, to one or several targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from peelaudit.method.references.adam import adam
from peelaudit.method.references.closed_form import BlockRegression, FittedBlock
from peelaudit.method.references.distances import squared_error
from peelaudit.network.block import Block
from peelaudit.network.states import Rows, StateStore
from peelaudit.settings.audit import Initial, SolverKind

__all__ = ["SOLVERS", "Fit", "Solver", "SolverSettings", "redrawn"]


@dataclass(frozen=True, slots=True)
class SolverSettings:
    """How reference blocks are fitted: see `AuditConfig`."""

    solver: SolverKind = "ridge"
    init: Initial = "trained"
    steps: int = 150
    seed: int = 0
    low_bit: bool = True
    """Whether references of low-bit blocks are low-bit too."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a solver is given.

    Attributes:
        block: with its trained weights, and what holds them to few bits.
        inputs: z_{k-1}, [sequences, positions, d_model].
        targets: the states to fit to, each of that shape.
        rows: the splits: fitted on *fit*, chosen on *select*.
        settings: of the solvers.
        store: where states of fitted blocks go that a solver has without running these.
    """

    block: Block
    inputs: Tensor
    targets: Sequence[Tensor]
    rows: Rows
    settings: SolverSettings
    store: StateStore | None = None


class Solver(Protocol):
    """Fits a block."""

    def __call__(self, fit: Fit) -> list[FittedBlock]:
        """A block for each target, on *select* no worse than where the solver starts.

        Raises:
            NonFiniteResult: naming the layer.
        """
        ...


def _ridge(fit: Fit) -> list[FittedBlock]:
    regression = BlockRegression(fit.block, fit.inputs, fit.targets, fit.rows, fit.store)
    return [regression.fit(index) for index in range(len(fit.targets))]


def _adam(fit: Fit) -> list[FittedBlock]:
    return _descended(fit, [_start(fit, target) for target in fit.targets])


def _ridge_adam(fit: Fit) -> list[FittedBlock]:
    return _descended(fit, _ridge(replace(fit, store=None)))


SOLVERS: Mapping[SolverKind, Solver] = {"ridge": _ridge, "adam": _adam, "ridge+adam": _ridge_adam}


def _descended(fit: Fit, starts: Sequence[FittedBlock]) -> list[FittedBlock]:
    steps, seed = fit.settings.steps, fit.settings.seed
    return [
        adam(start, fit.inputs, target, fit.rows, steps=steps, seed=seed)
        for start, target in zip(starts, fit.targets, strict=True)
    ]


def _start(fit: Fit, target: Tensor) -> FittedBlock:
    """Where Adam starts: the trained block, or one with matrices redrawn."""
    trained_error = squared_error(fit.block, fit.inputs, target, fit.rows.select)
    if fit.settings.init == "trained":
        return FittedBlock(fit.block, "trained", None, trained_error, trained_error)
    block = redrawn(fit.block, fit.settings.seed)
    error = squared_error(block, fit.inputs, target, fit.rows.select)
    return FittedBlock(block, "random", None, error, trained_error)


def redrawn(block: Block, seed: int) -> Block:
    """A copy whose matrices are drawn anew, normal with each one's own spread; gains and biases stay as trained.

    Each layer has draws of its own.
    """
    (own,) = np.random.SeedSequence([seed, block.layer]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(own))
    drawn = {
        name: torch.randn(weight.shape, generator=generator) * float(weight.float().std())
        for name, weight in block.trainable().items()
        if weight.ndim > 1
    }
    return block.replaced(drawn).rounded()
