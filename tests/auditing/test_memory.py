"""Audits in less memory: told of a limit they plan for it, and where memory runs out they go on with less at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import peelaudit
from peelaudit.auditing import memory as planning
from peelaudit.auditing.identity import key_of_report
from peelaudit.auditing.memory import limit_memory, own_memory
from peelaudit.errors import ConfigError, OutOfMemory
from peelaudit.network.block import Block
from peelaudit.network.memory import BATCH_TOKENS, LOGIT_BYTES
from peelaudit.network.states import StateStore
from peelaudit.records import AuditReport
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.sizes import parse_size
from tests.checkpoints import models
from tests.fleet.support import environ, write_model
from tests.networks import Network
from tests.places import ROOT

SMALL: dict[str, Any] = {"tokens": 640, "seq_len": 32, "resamples": 100, "schedules": ("refined", "final")}
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


def planned(network: Network, limit: str, **settings: Any) -> None:
    limit_memory(network.decoder, AuditConfig(checkpoint="c", max_memory=limit, **settings), 12)


def least_of(network: Network, **settings: Any) -> str:
    with pytest.raises(ConfigError, match="max-memory is 1KiB: this audit takes") as error:
        planned(network, "1KiB", **settings)
    found = re.search(r"takes (\S+) at least", str(error.value))
    assert found
    return found[1]


@pytest.mark.skipif(not own_memory(), reason="the system doesn't say what a process has")
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_a_limit_below_what_is_needed_is_refused_with_what_is(family: str, network: Callable[..., Network]) -> None:
    opened = network(family)
    least = least_of(opened)
    assert parse_size(least) > own_memory()
    grown = f"{parse_size(least) + (16 << 20)}B"  # this process may have taken some since
    planned(opened, grown)
    memory = opened.decoder.memory
    assert memory.state_bytes is not None
    assert memory.block_bytes is not None
    assert 0 <= memory.state_bytes + memory.block_bytes < 64 << 20


def test_less_memory_is_less_at_once_and_fewer_states_in_it(
    network: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "own_memory", lambda: 0)
    found = []
    for mib in (120, 160, 1 << 16):
        opened = network("llama", changes={"vocab_size": 4096})
        planned(opened, f"{mib}MiB")
        memory = opened.decoder.memory
        found.append((memory.tokens, memory.logit_bytes, memory.state_bytes, memory.block_bytes))
    small, middle, large = found
    assert large[:2] == (BATCH_TOKENS, LOGIT_BYTES)
    for less, more in ((small, middle), (middle, large)):
        assert all(a <= b for a, b in zip(less, more, strict=True))
    assert small[0] < BATCH_TOKENS
    assert small[1] < LOGIT_BYTES


def test_a_parents_embedding_and_head_are_planned_for(
    network: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "own_memory", lambda: 0)
    left = []
    for parent in (None, "p"):
        opened = network("llama", changes={"vocab_size": 4096})
        planned(opened, "512MiB", parent=parent)
        left.append((opened.decoder.memory.state_bytes or 0) + (opened.decoder.memory.block_bytes or 0))
    assert left[0] - left[1] == pytest.approx(2 * 4096 * opened.decoder.width * opened.decoder.dtype.itemsize, abs=4)


def test_a_limit_changes_no_figure_and_is_no_other_audit(
    model: Path, usual: AuditReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "own_memory", lambda: 0)
    monkeypatch.setattr(planning, "SLACK", 0)
    budgets: list[int | None] = []
    whole = StateStore.__init__

    def told(store: StateStore, budget: int | None = None, *rest: Any, **options: Any) -> None:
        budgets.append(budget)
        whole(store, budget, *rest, **options)

    monkeypatch.setattr(StateStore, "__init__", told)
    limited = peelaudit.audit(model, **SMALL, max_memory="400KiB")
    assert budgets
    assert all(budget is not None and budget < 400 << 10 for budget in budgets)
    assert figures(limited) == pytest.approx(figures(usual), abs=1e-5)
    assert limited.warnings == usual.warnings
    assert key_of_report(limited) == key_of_report(usual)
    assert dict(limited.settings) == {**dict(usual.settings), "max_memory": "400KiB"}


MILLION = """
import resource, sys
import numpy as np
import peelaudit
ids = np.random.default_rng(0).integers(0, 1_000_000, 40_000)
np.save(sys.argv[1] + "/small.npy", ids % 64)
peelaudit.audit("fixtures/llama", sys.argv[1] + "/small.npy", tokens=512, seq_len=32, effort="quick", resamples=100)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
np.save(sys.argv[1] + "/ids.npy", ids)
peelaudit.audit(sys.argv[1] + "/model", sys.argv[1] + "/ids.npy", tokens=512, seq_len=32, effort=sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, resource.getrusage(resource.RUSAGE_SELF).ru_utime)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_row_87_a_million_words_of_width_two_take_little_memory(tmp_path: Path) -> None:
    shape = {"hidden_size": 2, "intermediate_size": 4, "num_attention_heads": 1, "num_key_value_heads": 1}
    models.save(models.model("llama", vocab_size=1_000_000, head_dim=2, **shape), tmp_path / "model")
    line = [sys.executable, "-c", MILLION, str(tmp_path), "quick"]
    done = subprocess.run(line, cwd=ROOT, env=environ(), capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[0]) < 400 * 2**10  # KiB, of which the words alone are 16 MB, and 8 more are logits
