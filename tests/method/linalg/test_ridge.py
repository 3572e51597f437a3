"""Ridge in closed form against an independent least squares: scipy on the augmented system [F; sqrt(lambda) I]."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.moments import Moments
from peelaudit.method.linalg.ridge import PENALTIES, Factorisation, best_penalty, factorise, rotate_gram

Array = NDArray[np.float64]
SHAPES = ("full rank", "collinear", "duplicate", "wide", "zero variance", "condition 1e3", "condition 1e6")


def conditioned(rng: np.random.Generator, rows: int, features: int, condition: float) -> Array:
    """Features whose singular values fall evenly, in logarithms, by `condition`."""
    left, _ = np.linalg.qr(rng.normal(size=(rows, features)))
    right, _ = np.linalg.qr(rng.normal(size=(features, features)))
    return left * np.geomspace(1, 1 / condition, features) @ right


def design(shape: str, rng: np.random.Generator) -> Array:
    plain = rng.normal(size=(400, 12))
    match shape:
        case "collinear":
            return np.hstack([plain, plain @ rng.normal(size=(12, 4))])
        case "duplicate":
            return np.hstack([plain, plain[:, :5]])
        case "wide":
            return plain[:7]
        case "zero variance":
            return np.hstack([plain, np.zeros((400, 3)), np.ones((400, 2))])
        case "condition 1e3" | "condition 1e6":
            return conditioned(rng, 400, 12, float(shape.split()[1]))
    return plain


def reference(features: Array, residuals: Array, penalty: float) -> Array:
    """The same minimum by orthogonal decomposition of the features: no Gram matrix."""
    ridge = penalty * (features**2).sum() / features.shape[1]
    augmented = np.vstack([features, np.sqrt(ridge) * np.eye(features.shape[1])]) if penalty else features
    padding = np.zeros((len(augmented) - len(features), residuals.shape[1]))
    value = scipy.linalg.lstsq(augmented, np.vstack([residuals, padding]), cond=1e-10, lapack_driver="gelsd")[0]
    assert isinstance(value, np.ndarray)
    return value


def moments_of(features: Array, *residuals: Array) -> Moments:
    moments = Moments(features.shape[1], residuals[0].shape[1], len(residuals), torch.device("cpu"))
    moments.add(torch.from_numpy(features), (torch.from_numpy(residual) for residual in residuals))
    return moments


def factorised(moments: Moments) -> Factorisation:
    return factorise(moments.gram, moments.rows)


def distance(found: torch.Tensor | Array, expected: Array) -> float:
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("penalty", [0.0, *PENALTIES])
@pytest.mark.parametrize("shape", SHAPES)
def test_solutions_are_those_of_an_independent_least_squares(shape: str, penalty: float) -> None:
    rng = np.random.default_rng(SHAPES.index(shape))
    features = design(shape, rng)
    residuals = rng.normal(size=(len(features), 3))
    moments = moments_of(features, residuals)
    found = factorised(moments).solve(moments.cross[0], penalty)
    expected = reference(features, residuals, penalty)
    # The Gram matrix squares the condition: of its least eigenvalue, 1e-12, float64 keeps four digits. Every penalty of
    # the path is above it by far, and none of them is 0.
    within = 1e-3 if shape == "condition 1e6" and penalty == 0 else 1e-6
    assert distance(found.value, expected) < within
    assert distance(features @ found.value.numpy(), features @ expected) < within


@pytest.mark.parametrize(
    ("shape", "rank"),
    [
        ("full rank", 12),
        ("collinear", 12),
        ("duplicate", 12),
        ("wide", 7),
        ("zero variance", 13),
        ("condition 1e6", 12),
    ],
)
def test_rank_and_condition_are_the_features_own(shape: str, rank: int) -> None:
    features = design(shape, np.random.default_rng(0))
    found = factorised(moments_of(features, features))
    singular = np.linalg.svd(features, compute_uv=False)
    assert found.conditioning.rank == rank
    assert found.conditioning.condition == pytest.approx((singular[0] / singular[rank - 1]) ** 2, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(8, 20_000), st.integers(-6, 6), st.integers(0, 2**32))
def test_collinear_features_of_any_number_of_tokens_and_size_get_the_least_norm(
    plain: int, collinear: int, rows: int, power: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    left = rng.normal(size=(rows, plain))
    features = np.hstack([left, left @ rng.normal(size=(plain, collinear))]) * 10.0**power
    residuals = rng.normal(size=(rows, 2))
    singular = np.linalg.svd(left, compute_uv=False)
    if singular[0] > 1e3 * singular[-1]:
        return
    moments = moments_of(features, residuals)
    found = factorised(moments)
    assert found.conditioning.rank == plain
    assert distance(found.solve(moments.cross[0], 0.0).value, reference(features, residuals, 0.0)) < 1e-6


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), st.sampled_from(PENALTIES), st.integers(0, 2**32))
def test_no_other_change_has_a_lower_objective(shape: str, penalty: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = design(shape, rng)
    residuals = rng.normal(size=(len(features), 2))
    moments = moments_of(features, residuals)
    found = factorised(moments).solve(moments.cross[0], penalty).value.numpy()
    ridge = penalty * (features**2).sum() / features.shape[1]

    def objective(change: Array) -> float:
        return float(((features @ change - residuals) ** 2).sum() + ridge * (change**2).sum())

    for size in (1e-3, 1e-1, 10.0):
        assert objective(found) <= objective(found + size * rng.normal(size=found.shape)) * (1 + 1e-12)


@given(st.integers(0, 2**32))
def test_a_larger_penalty_gives_a_smaller_change(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = design("condition 1e3", rng)
    moments = moments_of(features, rng.normal(size=(400, 2)))
    found = factorised(moments)
    norms = [float(found.solve(moments.cross[0], penalty).value.norm()) for penalty in (0.0, *PENALTIES)]
    assert norms == sorted(norms, reverse=True)


def test_one_factorisation_serves_many_targets_and_all_penalties() -> None:
    rng = np.random.default_rng(0)
    features, residuals = design("collinear", rng), rng.normal(size=(6, 400, 3))
    moments = moments_of(features, *residuals)
    found = factorised(moments)
    for index, residual in enumerate(residuals):
        for penalty in PENALTIES[::3]:
            solution = found.solve(moments.cross[index], penalty)
            assert distance(solution.value, reference(features, residual, penalty)) < 1e-6
            assert (solution.penalty, solution.conditioning.rank) == (penalty, 12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [(0, 3), (3, 0), (2, 2)])
def test_a_gram_matrix_that_is_not_finite_is_refused(bad: float, place: tuple[int, int]) -> None:
    gram = torch.eye(4, dtype=torch.float64)
    gram[place] = bad
    with pytest.raises(NonFiniteResult, match="NaN or Inf"):
        factorise(gram)


def test_features_that_are_all_zero_change_nothing() -> None:
    found = factorise(torch.zeros(3, 3, dtype=torch.float64))
    assert found.conditioning.rank == 0
    for penalty in (0.0, 1.0):
        assert not found.solve(torch.ones(3, 2, dtype=torch.float64), penalty).value.any()


def brute_force(
    fit: tuple[Array, Array], select: tuple[Array, Array], penalties: tuple[float, ...]
) -> dict[float | None, float]:
    """The error on *select* of each penalty's reference solution and, under None, of no change."""
    errors: dict[float | None, float] = {None: float((select[1] ** 2).sum())}
    for penalty in penalties:
        errors[penalty] = float(((select[0] @ reference(*fit, penalty) - select[1]) ** 2).sum())
    return errors


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), st.floats(0, 3), st.integers(0, 2**32))
def test_the_best_penalty_is_that_of_brute_force(shape: str, noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(design(shape, rng).shape[1], 2))
    splits = []
    for _ in range(2):
        features = design(shape, np.random.default_rng(seed % 7)) if shape.startswith("cond") else design(shape, rng)
        splits.append((features, features @ truth + noise * rng.normal(size=(len(features), 2))))
    fit, select = splits
    fit_moments, select_moments = moments_of(*fit), moments_of(*select)
    found = factorised(fit_moments)
    penalty, error = best_penalty(found, fit_moments.cross[0], select_moments, 0)
    errors = brute_force(fit, select, PENALTIES)
    scale = errors[None]
    assert error == pytest.approx(errors[penalty], abs=1e-6 * scale)
    assert error == pytest.approx(min(errors.values()), abs=1e-6 * scale)


def test_leaving_the_weights_is_best_where_fit_says_the_opposite_of_select() -> None:
    rng = np.random.default_rng(0)
    features, residuals = design("full rank", rng), rng.normal(size=(400, 2))
    fit, select = moments_of(features, residuals), moments_of(features, -residuals)
    penalty, error = best_penalty(factorised(fit), fit.cross[0], select, 0)
    assert penalty is None
    assert error == float(select.square[0]) == pytest.approx((residuals**2).sum())


def test_a_rotated_gram_that_is_at_hand_changes_nothing_and_targets_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    features, residuals = design("condition 1e3", rng), rng.normal(size=(2, 400, 2))
    fit, select = moments_of(features, *residuals), moments_of(features, *residuals)
    found = factorised(fit)
    at_hand = rotate_gram(found, select)
    for target in (0, 1):
        plain = best_penalty(found, fit.cross[target], select, target)
        assert best_penalty(found, fit.cross[target], select, target, rotated_gram=at_hand) == plain
    assert best_penalty(found, fit.cross[0], select, 0) != best_penalty(found, fit.cross[1], select, 1)


def test_a_factorisation_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        factorise(torch.eye(2, dtype=torch.float64)).conditioning.rank = 1  # type: ignore[misc]
