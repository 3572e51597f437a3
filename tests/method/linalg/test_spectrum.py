"""Leading singular directions, against a full decomposition."""

from __future__ import annotations

import pytest
import torch

from peelaudit.method.linalg.spectrum import leading


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (3, 9)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_values_that_stand_apart_are_those_of_a_full_decomposition(shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(shape[0], 3, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(shape[1], 3, generator=generator, dtype=torch.float64))
    sizes = torch.tensor([90.0, 50.0, 30.0], dtype=torch.float64)
    matrix = (u * sizes) @ v.T + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    found = leading(matrix.to(dtype), 2)
    precise = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2}[dtype]
    full = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(found.s.double(), full.S[:2], rtol=precise, atol=0)
    part = (found.u * found.s) @ found.v.T
    best = (full.U[:, :2] * full.S[:2]) @ full.Vh[:2]
    torch.testing.assert_close(part.double(), best, rtol=0, atol=10 * precise)
    assert torch.equal(found.u, leading(matrix.to(dtype), 2).u)


def test_no_generator_of_others_is_drawn_from_or_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def seeded(_: int) -> None:
        raise AssertionError("torch.manual_seed seeds the generators of all devices")

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    monkeypatch.setattr(torch, "manual_seed", seeded)
    leading(torch.ones(4, 4), 1)
    assert torch.equal(torch.rand(3), expected)


def test_every_dtype_begins_alike() -> None:
    """Among values that are close together the subspace is what it is by chance: not by another one in each dtype."""
    matrix = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    single, double = leading(matrix, 4), leading(matrix.double(), 4)
    parts = [(found.u * found.s) @ found.v.T for found in (single, double)]
    torch.testing.assert_close(parts[0].double(), parts[1], rtol=0, atol=1e-4)
