"""The closed form of low rank against its own definition."""

from __future__ import annotations

import torch

from peelaudit.method.refinement.low_rank import low_rank


def error(left: torch.Tensor, right: torch.Tensor, change: torch.Tensor, inputs: torch.Tensor) -> float:
    return float((inputs @ (change - left @ right)).square().sum())


def test_it_is_the_truncation_under_the_inputs_metric() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.diag(torch.logspace(0, -3, 12, dtype=torch.float64))
    inputs = torch.randn(400, 12, generator=generator, dtype=torch.float64) @ spread
    change = torch.randn(12, 9, generator=generator, dtype=torch.float64)
    moments = inputs.T @ inputs
    values, vectors = torch.linalg.eigh(moments)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    u, s, v = torch.linalg.svd(root @ change, full_matrices=False)
    for rank in (1, 3, 9):
        left, right = low_rank(change, moments, rank)
        assert (left.shape, right.shape) == ((12, rank), (rank, 9))
        best = torch.linalg.inv(root) @ (u[:, :rank] * s[:rank]) @ v[:rank]
        torch.testing.assert_close(left @ right, best)
        plain = torch.linalg.svd(change)
        unweighted = (plain.U[:, :rank] * plain.S[:rank], plain.Vh[:rank])
        if rank < 9:
            assert error(left, right, change, inputs) < 0.9 * error(*unweighted, change, inputs)


def test_more_rank_than_there_is_ends_in_zeros() -> None:
    change = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    left, right = low_rank(change, torch.eye(3), 8)
    torch.testing.assert_close(left @ right, change)
    assert not left[:, 3:].any()
