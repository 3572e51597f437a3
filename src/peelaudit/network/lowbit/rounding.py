"""Rounding a regression's solution to a low-bit set, against the Gram matrix of its features.

Objective, for a target W* and a Gram matrix H = F'F + λI, over the matrices W of the set:

    minimise   tr((W - W*)' H (W - W*))

which is the regression's own objective but for a constant, so that what rounding one weight does to the output is made
good by the others. First input by input: each is rounded, and its error spread over those still to come (GPTQ,
arXiv 2210.17323, in the order of their own size as there). Then in turns: each scale by least squares, for the codes as
they are, and one sweep over the inputs that gives each weight the code that is best while the others stay. Neither can
raise the objective. The sweeps were measured to matter most: from round-to-nearest at 0.137, error compensation came to
0.109 and the sweeps to 0.065, where the float solution was at 0.035 (normalised squared error on *select*, a ternary
layer of 256 inputs).

The scales to begin with matter too, and which are better differs by set: those of the trained weights for binary ones
(0.30 against 0.33), those of the target for 4 bits in groups (0.043 against 0.054). Both are tried.

The search computes in float32, for what it decides are whole numbers; who uses it judges the result in float64.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peelaudit.network.lowbit.constraints import Constraint, Scales
from peelaudit.network.lowbit.coordinates import compensate, descend, descend_floats

__all__ = ["Part", "fit_to_grid"]

ROUNDS = 12
"""Turns of scales and codes at most."""
LEAST_GAIN = 1e-2
"""Share of the objective that a turn must gain to be followed by another one."""

_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring features that are one matrix's inputs, or a bias: `constraint` None leaves them floats."""

    features: slice
    constraint: Constraint | None


def fit_to_grid(target: Tensor, start: Tensor, gram: Tensor, parts: Sequence[Part], dtype: torch.dtype) -> Tensor:
    """The matrix of the set that is found for a target.

    Args:
        target: W*, [batch, features, outputs] float64.
        start: a matrix of the set, [features, outputs], such as the trained one.
        gram: H, [features, features], positive definite.
        parts: of the features, in order, all of them.
        dtype: of the weights: the scales are rounded to it, so that equal codes are equal weights to the last bit.

    Returns:
        [batch, features, outputs] float64.
    """
    problem = _Problem(target, gram, parts)
    searches = [
        _Search(problem, start[None], of_the_set=True),
        _Search(problem, target, of_the_set=False),
    ]
    hopeless = 2 * torch.minimum(*(search.objectives() for search in searches))
    hopes = [search.objectives() <= hopeless for search in searches]
    for search, hope in zip(searches, hopes, strict=True):
        search.finish(hope)
    best, other = searches
    best.take(other, ~hopes[0] | hopes[1] & (other.objectives() < best.objectives()))
    return best.weights(dtype)


class _Problem:
    """What all searches for one target share; matrices are [features, batch · outputs], float32."""

    def __init__(self, target: Tensor, gram: Tensor, parts: Sequence[Part]) -> None:
        self.batch, self.features, self.outputs = target.shape
        self.parts = parts
        gram = gram / gram.diagonal().mean()
        self.gram = gram.float()
        self.target = target.transpose(0, 1).reshape(self.features, -1).float()
        held = torch.zeros(self.features, dtype=torch.bool, device=gram.device)
        for part in parts:
            held[part.features] = part.constraint is not None
        # In this order, those of most size first and floats at the end, weights are rounded with compensation.
        self.order = torch.argsort(torch.where(held, self.gram.diagonal(), -1.0), descending=True)
        each = [part.constraint for part in parts for _ in range(part.features.start, part.features.stop)]
        ordered = [each[feature] for feature in self.order.cpu().tolist()]
        self.constraints = [constraint for constraint in ordered if constraint is not None]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram[self.order][:, self.order]))
        self.factor = torch.linalg.cholesky(inverse, upper=True).float().contiguous()


class _Search:
    """The codes and scales as they are now; all matrices are [features, batch · outputs], float32.

    `slope` is H (W* - W), kept so through every change. A search begins with the scales of `like`, [batch or 1,
    features, outputs], which is of the set or, if not, scaled as the set scales float weights; and with one turn.
    """

    def __init__(self, problem: _Problem, like: Tensor, *, of_the_set: bool) -> None:
        self.batch, self.features, self.outputs = problem.batch, problem.features, problem.outputs
        self.parts, self.gram, self.target = problem.parts, problem.gram, problem.target
        self.scales = [
            None if part.constraint is None else self._begin(part.constraint, like[:, part.features].mT, of_the_set)
            for part in self.parts
        ]
        self.weight = self._compensated(problem)
        self.slope = self.gram @ (self.target - self.weight)
        self.improve()

    def _begin(self, constraint: Constraint, weight: Tensor, of_the_set: bool) -> Scales:
        """[batch, outputs or 1, groups] of matrices [batch or 1, outputs, inputs]."""
        found = constraint.read(weight.float()) if of_the_set else constraint.scales(weight.float())
        return Scales(*(v.expand(self.batch, *v.shape[1:]).clone() for v in (found.scale, found.zero)))

    def finish(self, which: Tensor) -> None:
        """Turns until one gains little, for each that [batch] says by itself: none depends on its neighbours."""
        for _ in range(ROUNDS - 1):
            if not bool(which.any()):
                break
            before, last = self._copy(), self.objectives()
            self.improve()
            self.take(before, ~which)
            which = which & (self.objectives() < (1 - LEAST_GAIN) * last)

    def _copy(self) -> _Search:
        """One whose weights and scales can change by themselves."""
        other = copy.copy(self)
        other.weight, other.slope = self.weight.clone(), self.slope.clone()
        other.scales = [None if s is None else Scales(s.scale.clone(), s.zero.clone()) for s in self.scales]
        return other

    def take(self, other: _Search, which: Tensor) -> None:
        """Take over what another search for the same problem has, for those of the batch."""
        columns = which.repeat_interleave(self.outputs)
        self.weight = torch.where(columns, other.weight, self.weight)
        self.slope = torch.where(columns, other.slope, self.slope)
        for own, theirs in zip(self.scales, other.scales, strict=True):
            if own is not None and theirs is not None:
                own.scale[which], own.zero[which] = theirs.scale[which], theirs.zero[which]

    def _columns(self, values: Tensor) -> Tensor:
        """[inputs, batch · outputs] of [batch, outputs, inputs]."""
        return values.permute(2, 0, 1).reshape(-1, self.batch * self.outputs)

    def _matrices(self, rows: Tensor) -> Tensor:
        """[batch, outputs, inputs] of [inputs, batch · outputs]."""
        return rows.reshape(-1, self.batch, self.outputs).permute(1, 2, 0)

    def _spread(self, scales: Scales, inputs: int) -> Scales:
        """For each weight, [inputs, batch · outputs]."""
        spread = scales.spread(inputs)
        return Scales(*(self._columns(v.expand(-1, self.outputs, -1)) for v in (spread.scale, spread.zero)))

    def objectives(self) -> Tensor:
        """tr((W - W*)' H (W - W*)) of each of the batch, up to a constant factor: [batch] float64, at least 0."""
        products = (self.slope * (self.target - self.weight)).sum(dim=0, dtype=torch.float64)
        return products.reshape(self.batch, self.outputs).sum(dim=1).clamp_min(0)

    def _compensated(self, problem: _Problem) -> Tensor:
        """The target rounded feature by feature, each one's error spread over those to come.

        What is left of the errors ends in the floats.
        """
        scale, zero = torch.ones_like(self.target), torch.zeros_like(self.target)
        for part, scales in zip(self.parts, self.scales, strict=True):
            if scales is not None:
                spread = self._spread(scales, part.features.stop - part.features.start)
                scale[part.features], zero[part.features] = spread.scale, spread.zero
        order, factor = problem.order, problem.factor
        weight, scale, zero = self.target[order], scale[order], zero[order]
        for rows in _spans(slice(0, len(problem.constraints)), _BLOCK):
            own = Scales(scale[rows], zero[rows])
            errors = compensate(weight[rows], factor[rows, rows], own, problem.constraints[rows])
            weight[rows.stop :].addmm_(factor[rows, rows.stop :].T, errors, alpha=-1)
        return weight[torch.argsort(order)]

    def improve(self) -> None:
        """One turn over all scales and weights: each is given the value that is best while all else stays."""
        for part, scales in zip(self.parts, self.scales, strict=True):
            if scales is None or part.constraint is None:
                for rows in _spans(part.features, _BLOCK):
                    with self._together(rows) as slope:
                        descend_floats(self.weight[rows], slope, self.gram[rows, rows])
                continue
            length = (part.features.stop - part.features.start) // scales.scale.shape[-1]
            if length > _BLOCK:
                self._improve_wide(part.features, part.constraint, scales, length)
                continue
            index = 0
            for span in _spans(part.features, length * (_BLOCK // length)):
                with self._together(span) as slope:
                    for rows in _spans(span, length):
                        local = slope[rows.start - span.start : rows.stop - span.start]
                        change, own = self._refit(rows, local, part.constraint, scales.of(index))
                        slope.addmm_(self.gram[span, rows], change, alpha=-1)
                        self._sweep(rows, span, slope, own, part.constraint)
                        index += 1

    def _improve_wide(self, features: slice, constraint: Constraint, scales: Scales, length: int) -> None:
        """The same where a group is more than is swept at once."""
        for index, rows in enumerate(_spans(features, length)):
            change, own = self._refit(rows, self.slope[rows], constraint, scales.of(index))
            self.slope.addmm_(self.gram[:, rows], change, alpha=-1)
            for span in _spans(rows, _BLOCK):
                with self._together(span) as slope:
                    self._sweep(span, span, slope, own, constraint)

    @contextlib.contextmanager
    def _together(self, rows: slice) -> Iterator[Tensor]:
        """Weights that change one after another while their own slope is kept; all others' is told at the end."""
        before = self.weight[rows].clone()
        yield self.slope[rows].clone()
        self.slope.addmm_(self.gram[:, rows], self.weight[rows] - before, alpha=-1)

    def _sweep(self, rows: slice, span: slice, slope: Tensor, scales: Scales, constraint: Constraint) -> None:
        """Give each of `rows`, which have one group's scales, its best code; `slope` is that of `span`, and is kept."""
        spread = self._spread(scales, 1)
        own, first = Scales(spread.scale[0], spread.zero[0]), rows.start - span.start
        descend(self.weight[rows], slope, self.gram[span, span], first, own, constraint)

    def _refit(self, rows: slice, slope: Tensor, constraint: Constraint, own: Scales) -> tuple[Tensor, Scales]:
        """Give a group the scale (and a free zero) that is best for its codes as they are, by least squares.

        `own` is changed in place, and given back with the change of the weights.
        """
        codes = constraint.codes(self._matrices(self.weight[rows]), own)
        bases = [constraint.units(codes, own.zero)] + ([torch.ones_like(codes)] if constraint.free_zero else [])
        step = self._step(bases, self.gram[rows, rows], self._matrices(slope), shared=own.scale.shape[1] == 1)
        fitted = _moved(own, step, constraint)
        own.scale.copy_(fitted.scale)
        own.zero.copy_(fitted.zero)
        values = self._columns(constraint.values(codes, own))
        change = values - self.weight[rows]
        self.weight[rows] = values
        return change, own

    @staticmethod
    def _step(bases: Sequence[Tensor], gram: Tensor, slope: Tensor, *, shared: bool) -> Tensor:
        """Newton's step in the bases' coefficients, exact for a quadratic: [batch, outputs or 1, bases]."""
        products = [basis @ gram for basis in bases]
        left = torch.stack([torch.stack([(a * p).sum(dim=-1) for p in products], dim=-1) for a in bases], dim=-1)
        right = torch.stack([(basis * slope).sum(dim=-1) for basis in bases], dim=-1)
        if shared:
            left, right = left.sum(dim=1, keepdim=True), right.sum(dim=1, keepdim=True)
        return _solve(left.double(), right.double()).float()

    def weights(self, dtype: torch.dtype) -> Tensor:
        """[batch, features, outputs] float64: the codes' values as they are in `dtype`, and the floats."""
        result = self.weight.double().reshape(-1, self.batch, self.outputs).transpose(0, 1).clone()
        for part, scales in zip(self.parts, self.scales, strict=True):
            if scales is None or part.constraint is None:
                continue
            codes = part.constraint.codes(self._matrices(self.weight[part.features]), scales).to(dtype)
            rounded = Scales(scales.scale.to(dtype), scales.zero.to(dtype))
            result[:, part.features] = part.constraint.values(codes, rounded).transpose(1, 2).double()
        return result


def _spans(rows: slice, length: int) -> list[slice]:
    """The rows cut into spans of that length, the last one shorter where they don't divide."""
    return [slice(start, min(start + length, rows.stop)) for start in range(rows.start, rows.stop, length)]


def _moved(scales: Scales, step: Tensor, constraint: Constraint) -> Scales:
    """The scales after a step in the coefficients of code - zero and, for a free zero, of 1; none changes its sign."""
    scale = scales.scale + step[..., :1]
    scale = torch.where((scale == 0) | (scale * scales.scale < 0), scales.scale, scale)
    if not constraint.free_zero:
        return Scales(scale, scales.zero)
    # scale (code - zero) is what the first basis gives; the second lowers the zero.
    return Scales(scale, scales.zero - step[..., 1:] / torch.where(scale == 0, 1.0, scale))


def _solve(left: Tensor, right: Tensor) -> Tensor:
    """The symmetric systems' solutions; unknowns that nothing depends on stay where they are."""
    diagonal = left.diagonal(dim1=-2, dim2=-1)
    largest = diagonal.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    ridge = torch.where(diagonal > 0, 1e-7 * diagonal, largest)
    solution: Tensor = torch.linalg.solve_ex(left + torch.diag_embed(ridge), right.unsqueeze(-1)).result
    return solution.squeeze(-1)
