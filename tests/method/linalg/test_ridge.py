"""Ridge in closed form against an independent least squares: scipy on the augmented system [F; sqrt(lambda) I]."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg import moments as moments_module
from peelaudit.method.linalg import ridge as module
from peelaudit.method.linalg.moments import Moments
from peelaudit.method.linalg.ridge import PENALTIES, Ridge, Solution

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


def ridge(moments: Moments) -> Ridge:
    return Ridge(moments.gram, moments.rows)


def solved(moments: Moments, penalty: float) -> torch.Tensor:
    factor = ridge(moments).factor(penalty)
    assert factor is not None
    return torch.cholesky_solve(moments.cross[0], factor)


def best(fit: Moments, select: Moments) -> list[Solution | None]:
    return ridge(fit).best(fit.cross, select)


def distance(found: torch.Tensor | Array, expected: Array) -> float:
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_solutions_are_those_of_an_independent_least_squares(shape: str, penalty: float) -> None:
    rng = np.random.default_rng(SHAPES.index(shape))
    features = design(shape, rng)
    residuals = rng.normal(size=(len(features), 3))
    moments = moments_of(features, residuals)
    found = solved(moments, penalty).numpy()
    expected = reference(features, residuals, penalty)
    assert distance(found, expected) < 1e-6
    assert distance(features @ found, features @ expected) < 1e-6


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
    found = ridge(moments_of(features, features))
    singular = np.linalg.svd(features, compute_uv=False)
    assert found.conditioning.rank == rank
    assert found.conditioning.condition == pytest.approx((singular[0] / singular[rank - 1]) ** 2, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(8, 20_000), st.integers(-6, 6), st.integers(0, 2**32))
def test_the_rank_of_collinear_features_of_any_number_of_tokens_and_size(
    plain: int, collinear: int, rows: int, power: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    left = rng.normal(size=(rows, plain))
    features = np.hstack([left, left @ rng.normal(size=(plain, collinear))]) * 10.0**power
    singular = np.linalg.svd(left, compute_uv=False)
    if singular[0] > 1e3 * singular[-1]:
        return
    assert ridge(moments_of(features, features)).conditioning.rank == plain


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), st.sampled_from(PENALTIES), st.integers(0, 2**32))
def test_no_other_change_has_a_lower_objective(shape: str, penalty: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = design(shape, rng)
    residuals = rng.normal(size=(len(features), 2))
    moments = moments_of(features, residuals)
    found = solved(moments, penalty).numpy()
    weight = penalty * (features**2).sum() / features.shape[1]

    def objective(change: Array) -> float:
        return float(((features @ change - residuals) ** 2).sum() + weight * (change**2).sum())

    for size in (1e-3, 1e-1, 10.0):
        assert objective(found) <= objective(found + size * rng.normal(size=found.shape)) * (1 + 1e-12)


@given(st.integers(0, 2**32))
def test_a_larger_penalty_gives_a_smaller_change(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = design("condition 1e3", rng)
    moments = moments_of(features, rng.normal(size=(400, 2)))
    norms = [float(solved(moments, penalty).norm()) for penalty in PENALTIES]
    assert norms == sorted(norms)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [(0, 3), (3, 0), (2, 2)])
def test_a_gram_matrix_that_is_not_finite_is_refused(bad: float, place: tuple[int, int]) -> None:
    gram = torch.eye(4, dtype=torch.float64)
    gram[place] = bad
    with pytest.raises(NonFiniteResult, match="NaN or Inf"):
        Ridge(gram)


def test_features_that_are_all_zero_change_nothing() -> None:
    moments = moments_of(np.zeros((9, 3)), np.ones((9, 2)))
    found = ridge(moments)
    assert found.conditioning.rank == 0
    assert best(moments, moments) == [None]


def brute_force(
    fit: tuple[Array, Array], select: tuple[Array, Array], penalties: tuple[float, ...]
) -> dict[float | None, float]:
    """The error on *select* of each penalty's reference solution and, under None, of no change."""
    errors: dict[float | None, float] = {None: float((select[1] ** 2).sum())}
    for penalty in penalties:
        errors[penalty] = float(((select[0] @ reference(*fit, penalty) - select[1]) ** 2).sum())
    return errors


def noisy(shape: str, noise: float, seed: int, outputs: int = 2) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Features and residuals of two splits with one truth behind them."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(design(shape, rng).shape[1], outputs))
    splits = []
    for _ in range(2):
        features = design(shape, np.random.default_rng(seed % 7)) if shape.startswith("cond") else design(shape, rng)
        splits.append((features, features @ truth + noise * rng.normal(size=(len(features), outputs))))
    return splits[0], splits[1]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), st.floats(0, 3), st.integers(0, 2**32))
def test_the_best_penalty_is_that_of_brute_force(shape: str, noise: float, seed: int) -> None:
    """Or of those that are tried: one in two, and what is beside the best of these."""
    fit, select = noisy(shape, noise, seed)
    (found,) = best(moments_of(*fit), moments_of(*select))
    errors = brute_force(fit, select, PENALTIES)
    scale = errors[None]
    coarse = min(errors[penalty] for penalty in (None, *PENALTIES[:: module.COARSE]))
    if found is None:
        assert coarse > scale * (1 - 1e-6)
        return
    assert found.error == pytest.approx(errors[found.penalty], abs=1e-6 * scale)
    place = PENALTIES.index(found.penalty)
    beside = min(errors[penalty] for penalty in PENALTIES[max(0, place - 1) : place + 2])
    assert found.error <= min(coarse, beside) + 1e-6 * scale


def test_of_a_curve_with_two_dips_the_deeper_is_found() -> None:
    """Of large features *select* wants less than *fit*, which a large penalty gives; small ones have more to gain."""
    rng = np.random.default_rng(1)
    scale = np.repeat([30.0, 0.03], 6)
    truth = rng.normal(size=(12, 2)) / scale[:, None] * np.repeat([1.0, 2.0], 6)[:, None]
    splits = []
    for share in (1.0, 0.3):
        features = scale * rng.normal(size=(60, 12))
        splits.append((features, features @ (truth * np.repeat([share, 1.0], 6)[:, None])))
    errors = brute_force(*splits, PENALTIES)
    curve = [errors[penalty] for penalty in PENALTIES]
    rises = np.diff(curve) > 1e-3 * curve[0]
    assert int(np.argmin(curve)) > int(np.flatnonzero(rises)[0])
    (found,) = best(moments_of(*splits[0]), moments_of(*splits[1]))
    assert found is not None
    assert found.error == pytest.approx(min(curve), rel=1e-6)


def test_each_target_has_a_penalty_of_its_own() -> None:
    rng = np.random.default_rng(0)
    features = design("full rank", rng)
    truth = features @ rng.normal(size=(12, 2))
    noise = 30 * rng.normal(size=(2, 400, 2))
    fit = moments_of(features, truth, truth + noise[0])
    select = moments_of(features, truth, truth + noise[1])
    plain, loud = best(fit, select)
    assert plain is not None
    assert loud is not None
    assert plain.penalty < loud.penalty
    for target, one in enumerate((plain, loud)):
        residuals = (truth, truth + noise[0])[target]
        assert distance(one.value, reference(features, residuals, one.penalty)) < 1e-6


def test_of_many_outputs_combinations_tell_as_much() -> None:
    """The solution is that of all outputs, and so is its error; the penalty is the best or next to it."""
    fit, select = noisy("condition 1e3", 0.02, 5, outputs=3 * module.MANY)
    (found,) = best(moments_of(*fit), moments_of(*select))
    assert found is not None
    assert distance(found.value, reference(*fit, found.penalty)) < 1e-6
    errors = brute_force(fit, select, PENALTIES)
    assert found.error == pytest.approx(errors[found.penalty], rel=1e-6)
    assert found.error < 1.05 * min(errors.values())
    assert max(errors[penalty] for penalty in PENALTIES) > 2 * min(errors.values())


def test_leaving_the_weights_is_best_where_fit_says_the_opposite_of_select() -> None:
    rng = np.random.default_rng(0)
    features, residuals = design("full rank", rng), rng.normal(size=(400, 2))
    assert best(moments_of(features, residuals), moments_of(features, -residuals)) == [None]


def test_a_penalty_that_rounding_swallows_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, which is all that some devices have: what the tokens don't determine stays as it is."""
    monkeypatch.setattr(moments_module, "accumulation_dtype", lambda device: torch.float32)
    rng = np.random.default_rng(3)
    features = design("duplicate", rng)
    residuals = features @ rng.normal(size=(17, 2))
    fit = moments_of(features, residuals)
    assert ridge(fit).factor(PENALTIES[-1]) is None
    (found,) = best(fit, fit)
    assert found is not None
    assert found.value.dtype == torch.float32
    assert found.penalty > 17 * torch.finfo(torch.float32).eps
    assert distance(found.value, reference(features, residuals, found.penalty)) < 1e-2
