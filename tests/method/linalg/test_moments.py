"""Second moments: whatever the batches, they are those of all rows in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.method.linalg.moments import Gram, Moments, accumulation_dtype

CPU = torch.device("cpu")


def accumulate(features: torch.Tensor, residuals: list[torch.Tensor], cuts: list[int]) -> Moments:
    moments = Moments(features.shape[1], residuals[0].shape[1], len(residuals), CPU)
    edges = [0, *sorted(cuts), len(features)]
    for start, end in pairwise(edges):
        moments.add(features[start:end], (residual[start:end] for residual in residuals))
    return moments


@given(st.lists(st.integers(0, 40), max_size=5), st.integers(0, 2**32))
def test_batches_of_any_size_give_the_moments_of_all_rows(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, targets = rng.normal(size=(40, 5)), rng.normal(size=(3, 40, 2))
    moments = accumulate(torch.from_numpy(features), [torch.from_numpy(target) for target in targets], cuts)
    np.testing.assert_allclose(moments.gram, features.T @ features, rtol=1e-12, atol=1e-12)
    for index, target in enumerate(targets):
        np.testing.assert_allclose(moments.cross[index], features.T @ target, rtol=1e-12, atol=1e-12)
        assert float(moments.square[index]) == pytest.approx((target**2).sum(), rel=1e-12)
    assert moments.rows == 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_narrow_features_are_summed_in_float64(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    features = (1000 + torch.randn(5000, 3, generator=generator)).to(dtype)
    moments = accumulate(features, [features], [1000, 4000])
    exact = features.double().numpy()
    np.testing.assert_allclose(moments.gram, exact.T @ exact, rtol=1e-13)
    assert float(moments.square[0]) == pytest.approx((exact**2).sum(), rel=1e-13)


def test_no_float64_where_the_device_has_none() -> None:
    assert accumulation_dtype(CPU) is torch.float64
    assert accumulation_dtype(torch.device("mps")) is torch.float32


@pytest.mark.parametrize("features", [1, 255, 256, 257, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gram_matrix_of_any_size_is_whole_and_symmetric(features: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, features, generator=generator, dtype=dtype)
    gram = Gram(features, CPU)
    for part in rows.split(25):
        gram.add(part)
        torch.testing.assert_close(gram.whole, gram.whole.T, rtol=1e-12, atol=1e-12)
    expected = rows.double().T @ rows.double()
    torch.testing.assert_close(gram.whole, expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-4)
