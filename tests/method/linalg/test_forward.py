"""Forward-mode derivatives, beside differences and torch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from peelaudit.method.linalg import forward
from peelaudit.method.linalg.forward import jvp

CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril()
CASES: dict[str, dict[str, object]] = {
    "all": {},
    "causal": {"is_causal": True},
    "mask": {"attn_mask": CAUSAL[None, None]},
    "mask of each sequence": {"attn_mask": CAUSAL.expand(3, 1, 6, 6).clone()},
    "bias of each head": {"attn_mask": torch.randn(1, 4, 6, 6, dtype=torch.float64)},
    "scale": {"is_causal": True, "scale": 0.7},
    "grouped": {"is_causal": True, "enable_gqa": True},
}


def tensors(heads: tuple[int, int, int] = (4, 4, 4), width: int = 5) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    shapes = [(3, heads[0], 6, 5), (3, heads[1], 6, 5), (3, heads[2], 6, width)]
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


def torchs(function: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(function, at, along)  # type: ignore[no-any-return]


@pytest.mark.parametrize("scores", [1, 100, 1 << 22])
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_attention_is_torchs_and_so_is_its_derivative(
    case: dict[str, object], scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "SCORES", scores)
    at = tensors((4, 2, 2) if "enable_gqa" in case else (4, 4, 4), width=7)
    along = tuple(torch.randn_like(one) for one in at)

    def attend(*tensors: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*tensors, **case)  # type: ignore[arg-type]

    for found, wanted in zip(jvp(attend, at, along), torchs(attend, at, along), strict=True):
        torch.testing.assert_close(found, wanted)


def test_what_does_not_move_adds_nothing() -> None:
    query, key, value = tensors()

    def attend(moved: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, moved, is_causal=True)

    turn = torch.randn_like(value)
    torch.testing.assert_close(jvp(attend, (value,), (turn,))[1], attend(turn))


def test_a_function_of_what_does_not_move_has_a_derivative_of_zero() -> None:
    value, derivative = jvp(lambda _: torch.ones(2), (torch.ones(3),), (torch.ones(3),))
    assert value.tolist() == [1, 1]
    assert derivative.tolist() == [0, 0]


def test_mappings_are_taken_as_they_are() -> None:
    at, along = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, {"a": torch.tensor(1.0), "b": torch.tensor(10.0)}
    assert [float(one) for one in jvp(lambda both: both["a"] * both["b"], (at,), (along,))] == [6.0, 23.0]


def test_attention_that_drops_is_refused() -> None:
    at = tensors()
    with pytest.raises(RuntimeError, match="jvp"):
        jvp(lambda *parts: F.scaled_dot_product_attention(*parts, dropout_p=0.5), at, at)
