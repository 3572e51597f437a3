"""Audits where memory runs out: they go on with less at once, and the report says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import peelaudit
from peelaudit.errors import OutOfMemory
from peelaudit.network.block import Block
from peelaudit.records import AuditReport
from tests.fleet.support import write_model

SMALL: dict[str, Any] = {"tokens": 1280, "seq_len": 32, "resamples": 200}
Call = Callable[..., Tensor]
plain = Block.__call__


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "a.pt", seed=1, layers=2)


@pytest.fixture(scope="module")
def usual(model: Path) -> AuditReport:
    return peelaudit.audit(model, **SMALL)


def limited(tokens: int) -> Call:
    """A block that runs out of memory where more tokens go through it at once."""

    def call(block: Block, hidden: Tensor, *weights: Any) -> Tensor:
        if hidden.shape[0] * hidden.shape[1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return plain(block, hidden, *weights)

    return call


def late(call: Call, calls: int) -> Call:
    """As if another process had taken the memory after so many calls."""
    left = [calls]

    def counted(block: Block, hidden: Tensor, *weights: Any) -> Tensor:
        left[0] -= 1
        return (call if left[0] < 0 else plain)(block, hidden, *weights)

    return counted


def figures(report: AuditReport) -> list[float]:
    held_out = report.network.held_out
    return [
        held_out.trained_loss.value,
        held_out.gap_layers.value,
        held_out.gap_head.value,
        *(row.depth_gap.value for row in report.layers),
        *(row.gap.value for row in report.layers if row.gap),
    ]


def test_batches_that_are_too_large_are_halved_and_the_report_says_so(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SMALL, "effort": "quick", "solver": "adam", "steps": 4}
    usual = peelaudit.audit(model, **settings)
    monkeypatch.setattr(Block, "__call__", limited(300))
    halved = peelaudit.audit(model, **settings)
    assert figures(halved) == pytest.approx(figures(usual), abs=1e-5)
    notes = [
        f"hidden states: memory ran out, and it was begun anew with {tokens} tokens at once"
        for tokens in ("2,048", "1,024", "512", "256")
    ]
    assert halved.warnings == (*usual.warnings, *notes)
    assert (halved.network.held_out.verdict, halved.named) == (usual.network.held_out.verdict, usual.named)


@pytest.mark.parametrize("calls", [30, 150])
def test_memory_that_runs_out_later_on_begins_that_stage_anew(
    calls: int, model: Path, usual: AuditReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Block, "__call__", late(limited(100), calls))
    halved = peelaudit.audit(model, **SMALL)
    assert figures(halved) == pytest.approx(figures(usual), abs=1e-5)
    told = [note for note in halved.warnings if note not in usual.warnings]
    assert told
    assert all("memory ran out" in note and "hidden states" not in note for note in told)


def test_a_sequence_that_is_too_much_is_an_error_that_names_the_stage(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Block, "__call__", limited(31))
    with pytest.raises(OutOfMemory, match=r"^hidden states: not enough memory for one sequence at a time"):
        peelaudit.audit(model, **SMALL)
