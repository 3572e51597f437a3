"""Rounding against a Gram matrix: on the grid, far better than to nearest, and no better than trying everything."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peelaudit.network.lowbit.constraints import Binary, Constraint, Integer, Ternary
from peelaudit.network.lowbit.detection import find_grid
from peelaudit.network.lowbit.rounding import Part, fit_to_grid
from peelaudit.records import ScaleLayout, ZeroPoint
from tests.network.lowbit.support import ALL, ALL_NAMES, CONSTRAINTS, NAMES, objective, problem, rounded


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=NAMES)
def test_it_is_on_the_grid_and_far_better_than_rounding_to_nearest(constraint: Constraint) -> None:
    target, gram = problem(256, 24)
    weight = rounded(constraint, target, gram)
    grid = find_grid(weight.T.float())
    if constraint.grid.bits < 8:  # 256 weights in a row of 256 levels tell nothing
        assert grid is not None
        assert grid.bits <= constraint.grid.bits
        assert (grid.layout, grid.group) == (constraint.layout, constraint.group)
    assert constraint.holds(weight.T.float())
    assert torch.equal(weight, weight.float().double())
    assert objective(weight, target, gram) < 0.2 * objective(constraint.quantise(target.T).T, target, gram)


@pytest.mark.parametrize("constraint", [Binary(), Ternary(ScaleLayout.ROW)], ids=["binary", "ternary"])
def test_few_weights_are_never_better_than_the_best_of_all_codes_and_often_near(constraint: Constraint) -> None:
    """Every code of six weights is tried, each with its best scale: a search in turns ends in a local optimum."""
    ratios = []
    for seed in range(8):
        target, gram = problem(6, 1, seed)
        values = (-1.0, 1.0) if constraint.levels == 2 else (-1.0, 0.0, 1.0)
        codes = torch.tensor(list(itertools.product(values, repeat=6)), dtype=torch.float64).T
        codes = codes[:, codes.any(dim=0)]
        scales = (codes * (gram @ target)).sum(dim=0) / (codes * (gram @ codes)).sum(dim=0)
        least = min(objective((scales[i] * codes[:, i])[:, None], target, gram) for i in range(codes.shape[1]))
        ratios.append(objective(rounded(constraint, target, gram), target, gram) / least)
    assert min(ratios) >= 1 - 1e-6
    assert sorted(ratios)[len(ratios) // 2] < 3
    assert min(ratios) < 1 + 1e-6


@pytest.mark.parametrize("constraint", ALL[len(CONSTRAINTS) :], ids=ALL_NAMES[len(CONSTRAINTS) :])
def test_tables_are_kept_to_and_far_better_than_rounding_to_nearest(constraint: Constraint) -> None:
    target, gram = problem(256, 24)
    weight = rounded(constraint, target, gram)
    assert constraint.holds(weight.T.float())
    assert torch.equal(weight, weight.float().double())
    assert objective(weight, target, gram) < 0.2 * objective(constraint.quantise(target.T).T, target, gram)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1_000), constraint=st.sampled_from(ALL))
def test_a_target_on_the_grid_is_kept(seed: int, constraint: Constraint) -> None:
    target, gram = problem(128, 8, seed)
    target = constraint.quantise(target.T.float()).T.double()
    weight = rounded(constraint, target, gram, target)
    scale = objective(torch.zeros_like(target), target, gram)
    assert objective(weight, target, gram) <= 1e-9 * scale


def test_several_targets_at_once_are_each_by_itself() -> None:
    target, gram = problem(64, 12)
    targets = torch.stack([target, 3 * target.flip(0), -target])
    for constraint in (Ternary(), Integer(ScaleLayout.GROUP, 32, 3, ZeroPoint.FREE), Binary()):
        parts, start = [Part(slice(0, 64), constraint)], constraint.quantise(target.T).T
        together = fit_to_grid(targets, start, gram, parts, torch.float64)
        for index, one in enumerate(targets):
            alone = fit_to_grid(one[None], start, gram, parts, torch.float64)[0]
            ratio = objective(together[index], one, gram) / objective(alone, one, gram)
            assert ratio == pytest.approx(1, abs=1e-3)


def test_a_float_part_takes_up_what_the_bits_leave() -> None:
    """A bias beside ternary weights ends at its own least squares."""
    target, gram = problem(64, 12)
    parts = [Part(slice(0, 63), Ternary()), Part(slice(63, 64), None)]
    weight = fit_to_grid(target[None], Ternary().quantise(target.T).T, gram, parts, torch.float64)[0]
    assert Ternary().holds(weight[:63].T)
    slope = (gram @ (weight - target))[63]
    assert float(slope.abs().max()) < 1e-5 * float((gram @ target).abs().max())


def test_two_parts_are_held_to_their_own_sets() -> None:
    target, gram = problem(96, 12)
    first, second = Ternary(), Integer(ScaleLayout.ROW, None, 3, ZeroPoint.SYMMETRIC)
    parts = [Part(slice(0, 32), first), Part(slice(32, 96), second)]
    start = torch.cat([first.quantise(target[:32].T).T, second.quantise(target[32:].T).T])
    weight = fit_to_grid(target[None], start, gram, parts, torch.float64)[0]
    assert first.holds(weight[:32].T)
    assert second.holds(weight[32:].T)
    assert objective(weight, target, gram) < 0.5 * objective(start, target, gram)
