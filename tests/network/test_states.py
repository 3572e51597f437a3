"""Hidden states: transformers' own at every boundary, in memory or in files that leave nothing behind."""

from __future__ import annotations

import gc
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from peelaudit.calibration import load_calibration
from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import NonFiniteResult
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import (
    NO_TARGET,
    Rows,
    StateStore,
    TokenRows,
    apply_block,
    available_memory,
    trained_states,
)
from peelaudit.settings.audit import AuditConfig
from tests.checkpoints import models
from tests.networks import Network
from tests.pretend import pretend

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", models.families())
def test_states_are_transformers_own(family: str, network: Callable[..., Network]) -> None:
    model = models.model(family)
    opened = network(model, dtype=torch.float32, positions=20)
    with torch.no_grad():
        expected = model(input_ids=opened.tokens, output_hidden_states=True).hidden_states
    assert len(opened.states) == len(expected) == 3
    for found, theirs in zip(opened.states[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)
    # transformers' last one has gone through the final norm.
    torch.testing.assert_close(opened.decoder.norm(opened.states[-1]), expected[-1], rtol=1e-4, atol=1e-5)


def test_batches_of_any_size_give_the_same_states(
    network: Callable[..., Network],
) -> None:
    opened = network("gemma3_text", positions=20)
    opened.decoder.memory.tokens = 50
    again = trained_states(opened.decoder, opened.tokens, StateStore(dtype=torch.float64))
    for found, before in zip(again, opened.states, strict=True):
        torch.testing.assert_close(found, before, rtol=1e-6, atol=1e-6)


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def is_mapped(tensor: Tensor, folder: Path) -> bool:
    """Whether the system says that a file of this folder is behind the tensor's memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= tensor.data_ptr() < high:
            return str(folder) in line
    return False


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system doesn't say what is mapped")
def test_beyond_the_budget_states_are_in_files_and_none_is_left_behind(folder: Path) -> None:
    store = StateStore(budget=4 * 2 * 3 * 5)
    first, second = store.empty(2, 3, 5), store.empty(2, 3, 5)
    assert not is_mapped(first, folder)
    assert is_mapped(second, folder)
    assert files_in(folder) == []
    second.copy_(torch.arange(30.0).view(2, 3, 5))
    assert float(second.sum()) == 435
    assert second.shape == (2, 3, 5)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system doesn't say what is mapped")
def test_a_dropped_state_gives_its_bytes_back(folder: Path) -> None:
    store = StateStore(budget=4 * 30)
    for _ in range(3):
        state = store.empty(2, 3, 5)
        assert not is_mapped(state, folder)
        del state
        gc.collect()
    kept = store.empty(1, 3, 5)
    assert is_mapped(store.empty(2, 3, 5), folder)
    assert not is_mapped(store.empty(1, 3, 5), folder)
    assert kept.numel() == 15


def test_states_from_files_are_those_from_memory(network: Callable[..., Network], folder: Path) -> None:
    opened = network("llama")
    mapped = trained_states(opened.decoder, opened.tokens, StateStore(budget=0, dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in zip(mapped, opened.states, strict=True))
    assert [path.name for path in files_in(folder) if path.name.startswith("peelaudit")] == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system reserves nothing")
def test_row_59_a_disk_without_room_is_an_error_at_once_and_no_file_is_left(folder: Path) -> None:
    """The system's limit on a file's size stands for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            StateStore(budget=0).empty(100, 100, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files_in(folder) == []


def test_the_default_budget_is_a_part_of_what_is_free() -> None:
    assert 0 < available_memory() < 1 << 50
    state = StateStore(dtype=torch.bfloat16).empty(1, 2, 3)
    assert (state.dtype, state.shape) == (torch.bfloat16, (1, 2, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("sequence", [0, 37])
def test_a_state_that_is_not_finite_is_refused_by_layer(
    bad: float, sequence: int, network: Callable[..., Network]
) -> None:
    opened = network("llama")
    states = opened.states[1].clone()
    states[sequence, 3, 5] = bad
    block = opened.decoder.block(2)
    with pytest.raises(NonFiniteResult, match="layer 2: hidden states became NaN or Inf"):
        apply_block(
            block, states, torch.empty_like(states), device=CPU, dtype=torch.float64, what=f"layer {block.layer}"
        )


def test_an_embedding_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model = models.model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[7, 3] = float("inf")
    with open_checkpoint(models.save(model, tmp_path / "model")) as checkpoint:
        decoder = Decoder(checkpoint, seq_len=8, device=CPU, dtype=torch.float32)
        with pytest.raises(NonFiniteResult, match="embedding"):
            trained_states(decoder, torch.full((2, 8), 7), StateStore())


def test_rows_are_the_splits_one_after_another(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 64, 4000))
    folder = models.save(models.model("llama"), tmp_path / "model")
    config = AuditConfig(checkpoint=str(folder), data=(str(tmp_path / "tokens.npy"),), tokens=1024, seq_len=16)
    with open_checkpoint(folder) as checkpoint:
        calibration = load_calibration(config, checkpoint.info)
    data = TokenRows.of(calibration)
    for rows, split in (
        (data.rows.fit, calibration.fit),
        (data.rows.select, calibration.select),
        (data.rows.held_out, calibration.held_out),
    ):
        assert torch.equal(data.tokens[rows], torch.from_numpy(split.tokens))
    assert data.rows.held_out.stop == len(data.tokens)


def test_states_live_on_the_device_where_it_has_room_and_in_memory_beyond() -> None:
    with pretend() as device:
        store = StateStore(budget=4 * 30, device=device, device_budget=4 * 30)
        first, second, third = (store.empty(1, 1, 30) for _ in range(3))
        assert [state.device.type for state in (first, second, third)] == ["pretend", "cpu", "cpu"]
        assert store.empty(0, dtype=torch.float64).device.type == "pretend"
        del first
        assert store.empty(1, 1, 15, dtype=torch.float64).device.type == "pretend"


@given(st.integers(1, 6), st.integers(0, 5))
def test_a_thinned_text_asks_for_one_in_so_many_tokens_of_those_that_were_asked_for(step: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 9, (5, 13), generator=generator)
    whole = TokenRows(tokens, Rows(slice(0, 3), slice(3, 4), slice(4, 5)), torch.rand(5, 13, generator=generator) < 0.4)
    thin = whole.thinned(step)
    every, some = (one.targets(slice(None))[:, 1:] for one in (whole, thin))
    kept = some != NO_TARGET
    assert torch.equal(every[kept], some[kept])
    before, after = (one.predictions(slice(None)) for one in (whole, thin))
    assert bool(((after - before / step).abs() < 1).all())
    assert step > 1 or torch.equal(every, some)
