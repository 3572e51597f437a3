"""Forward-mode derivatives, through torch's fused attention too, which has none of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["jvp"]

SCORES = 1 << 22
"""About as many attention scores are held at once."""


def jvp(function: Callable[..., Tensor], at: tuple[Any, ...], along: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """A function's value and its derivative along a change of its arguments (tensors, or mappings of them).

    Raises:
        RuntimeError: torch's own, where an operation on the way has no forward-mode derivative.
    """
    with warnings.catch_warnings(), forward_ad.dual_level(), _SpeltOutAttention():
        warnings.filterwarnings("ignore", "`torch.jit.script`", DeprecationWarning)  # torch's own use of it
        result = function(*(_dual(one, turn) for one, turn in zip(at, along, strict=True)))
        value, derivative = forward_ad.unpack_dual(result)  # type: ignore[no-untyped-call]
    return value, torch.zeros_like(value) if derivative is None else derivative


def _dual(at: Any, along: Any) -> Any:
    if isinstance(at, Mapping):
        return {name: _dual(one, along[name]) for name, one in at.items()}
    return forward_ad.make_dual(at, along)  # type: ignore[no-untyped-call]


class _SpeltOutAttention(TorchFunctionMode):
    """Has `_Attention` in the place of torch's attention, where nothing is dropped."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As torch.nn.functional.scaled_dot_product_attention; its names are that one's."""
    if dropout_p or query.ndim != 4:
        raise RuntimeError("attention that drops, or of other than four dimensions, is given no jvp here")
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], dim=-3) for one in (key, value))
    bias: Tensor | None = attn_mask
    if is_causal:
        bias = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~bias, -torch.inf)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    attended: Tensor = _Attention.apply(query * scale, key, value, bias)  # type: ignore[no-untyped-call]
    return attended


class _Attention(torch.autograd.Function):
    """softmax(QKᵀ + bias) V of [sequences, heads, positions, width] and its derivative, some heads at a time.

    With P the probabilities and dS the scores' change, that is (P∘dS) V + P dV, less each row's mean of dS under P
    times PV.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_forward(query, key, value, bias)
        found: Tensor = query.new_empty(*query.shape[:-1], value.shape[-1])
        for part in _parts(query, key):
            found[part] = torch.matmul(_probabilities(query, key, bias, part), value[part])
        return found

    @staticmethod
    def jvp(ctx: Any, *turns: Tensor | None) -> Tensor:
        query, key, value, bias = ctx.saved_tensors
        dq, dk, dv = (
            torch.zeros_like(one) if turn is None else turn
            for one, turn in zip((query, key, value), turns[:3], strict=True)
        )
        found: Tensor = query.new_empty(*query.shape[:-1], value.shape[-1])
        for part in _parts(query, key):
            p = _probabilities(query, key, bias, part)
            scores = torch.matmul(dq[part], key[part].mT).add_(torch.matmul(query[part], dk[part].mT)).mul_(p)
            mean = scores.sum(dim=-1, keepdim=True)
            moved = torch.matmul(scores, value[part]).add_(torch.matmul(p, dv[part]))
            found[part] = moved.sub_(mean * torch.matmul(p, value[part]))
        return found


def _parts(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Ranges of sequences and of heads: all heads of some sequences, or of one sequence some heads."""
    sequences, heads, positions, _ = query.shape
    each = positions * key.shape[-2]
    many, some = max(1, SCORES // (heads * each)), min(heads, max(1, SCORES // each))
    for start in range(0, sequences, many):
        for head in range(0, heads, some):
            yield slice(start, start + many), slice(head, head + some)


def _probabilities(query: Tensor, key: Tensor, bias: Tensor | None, part: tuple[slice, slice]) -> Tensor:
    scores = torch.matmul(query[part], key[part].mT)
    if bias is not None:
        scores += bias.expand(*query.shape[:-1], key.shape[-2])[part]
    return scores.softmax(dim=-1)
