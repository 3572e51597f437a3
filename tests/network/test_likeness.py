"""How two tensors differ: each way in which conversions break, and what is none of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.checkpoints.gguf_undo import Heads, paired_queries
from peelaudit.network.likeness import GROSS, likeness
from peelaudit.records.difference import ChangeKind

HEADS = (4, 2)
SEEDS = st.integers(0, 2**31)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kind_of(base: torch.Tensor, new: torch.Tensor) -> ChangeKind | None:
    found = likeness(base, new, HEADS)
    return None if found is None else found.kind


def pairs(matrix: torch.Tensor, heads: int = 4) -> torch.Tensor:
    return matrix[paired_queries(torch.arange(len(matrix)), Heads(heads, heads)).argsort()]


def test_the_same_values_are_the_same_in_any_dtype() -> None:
    matrix = drawn(16, 8).bfloat16()
    assert likeness(matrix, matrix.float(), HEADS) is None
    assert likeness(torch.zeros(4), torch.zeros(4), HEADS) is None


@given(st.floats(-3, 3).filter(lambda x: abs(x) > 0.1), SEEDS)
def test_a_constant_that_was_added(constant: float, seed: int) -> None:
    norm = 1 + 0.2 * drawn(64, seed=seed)
    found = likeness(norm, (norm + constant).bfloat16(), HEADS)
    assert found is not None
    assert found.kind is ChangeKind.SHIFTED
    assert found.constant == pytest.approx(constant, rel=0.02)


@given(st.floats(-3, 3).filter(lambda x: abs(x - 1) > 0.1), SEEDS)
def test_a_factor(factor: float, seed: int) -> None:
    matrix = drawn(16, 8, seed=seed)
    found = likeness(matrix, factor * matrix, HEADS)
    assert found is not None
    assert found.kind is ChangeKind.SCALED
    assert found.constant == pytest.approx(factor, abs=1e-5)


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_rotary_channels_in_pairs_and_in_halves(heads: int, noise: float) -> None:
    matrix = drawn(64, 48)
    new = pairs(matrix, heads) + noise * drawn(64, 48, seed=1)
    assert kind_of(matrix, new) is ChangeKind.PAIRED
    assert kind_of(new, matrix) is ChangeKind.HALVED
    assert kind_of(matrix[:, 0], pairs(matrix, heads)[:, 0]) is ChangeKind.PAIRED  # a bias


@given(SEEDS)
def test_another_order_of_rows_or_columns_under_rounding(seed: int) -> None:
    matrix = drawn(40, 80, seed=seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    noise = 0.2 * drawn(40, 80, seed=seed + 1)
    assert kind_of(matrix, matrix[order] + noise) is ChangeKind.ROWS
    assert kind_of(matrix.T, (matrix[order] + noise).T) is ChangeKind.COLUMNS


def test_experts_in_another_order() -> None:
    experts = drawn(4, 8, 80)
    assert kind_of(experts, experts[[2, 0, 3, 1]]) is ChangeKind.ROWS


def test_a_transposed_square_matrix() -> None:
    matrix = drawn(32, 32)
    assert kind_of(matrix, matrix.T + 0.2 * drawn(32, 32, seed=1)) is ChangeKind.TRANSPOSED


@given(st.floats(0.01, 0.3), SEEDS)
def test_what_is_changed_all_over_is_told_by_how_much(noise: float, seed: int) -> None:
    matrix = drawn(64, 64, seed=seed)
    found = likeness(matrix, matrix + noise * drawn(64, 64, seed=seed + 1), HEADS)
    assert found is not None
    assert found.kind is ChangeKind.CHANGED
    assert found.constant is None
    assert found.size == pytest.approx(noise, rel=0.15)


@given(SEEDS)
def test_matrices_that_have_nothing_in_common(seed: int) -> None:
    one, other = drawn(64, 64, seed=seed), drawn(64, 64, seed=seed + 1)
    found = likeness(one, other, HEADS)
    assert found is not None
    assert found.kind is ChangeKind.UNRELATED
    assert found.size == pytest.approx(math.sqrt(2), rel=0.1)
    assert found.size > GROSS


@given(SEEDS)
def test_the_size_is_the_same_either_way(seed: int) -> None:
    one, other = drawn(8, 8, seed=seed), 2 * drawn(8, 8, seed=seed + 1)
    there, back = (likeness(*pair, HEADS) for pair in ((one, other), (other, one)))
    assert there is not None
    assert back is not None
    assert there.size == pytest.approx(back.size)


def test_what_was_nothing_is_changed_as_far_as_can_be() -> None:
    found = likeness(torch.zeros(8, 8), drawn(8, 8), HEADS)
    assert found is not None
    assert found.kind is ChangeKind.CHANGED
    assert found.size == pytest.approx(math.sqrt(2))


def test_a_large_tensor_is_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, new = drawn(64, 64), drawn(64, 64, seed=1)
    whole = likeness(matrix, new, HEADS)
    monkeypatch.setattr("peelaudit.network.likeness._CHUNK", 100)
    parts = likeness(matrix, new, HEADS)
    assert whole is not None
    assert parts is not None
    assert parts.size == pytest.approx(whole.size)
