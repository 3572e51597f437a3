"""What a process set for its own products is not what an audit computes with, and is left as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import peelaudit
from peelaudit.method.linalg.precision import exact_float32, wide_product
from tests.places import FIXTURES


class Watch:
    """Notes at each stage of an audit whether TF32 is allowed."""

    def __init__(self) -> None:
        self.allowed: list[bool] = []

    def stage(self, name: str, total: int) -> None:
        self.allowed.append(torch.backends.cuda.matmul.allow_tf32)

    def advance(self, steps: int = 1) -> None: ...


def test_an_audit_has_no_tf32_and_leaves_what_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        watch = Watch()
        peelaudit.audit(
            FIXTURES / "nanogpt/ckpt.pt", tokens=1536, seq_len=32, resamples=100, effort="quick", progress=watch
        )
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert watch.allowed
    assert not any(watch.allowed)


@pytest.mark.parametrize(
    "setting",
    [
        "torch.set_float32_matmul_precision('medium')",
        pytest.param(
            "torch.backends.fp32_precision = torch.backends.cuda.matmul.fp32_precision = 'tf32'",
            marks=pytest.mark.skipif(
                not hasattr(torch.backends, "fp32_precision"), reason="this torch has no precision by backend"
            ),
        ),
    ],
)
def test_any_way_of_asking_for_tf32_is_undone_and_restored(setting: str) -> None:
    code = f"""
import torch
from peelaudit.method.linalg.precision import exact_float32, wide_product
{setting}
def now():
    return [getattr(getattr(torch.backends, b).matmul, "fp32_precision", None) for b in ("cuda", "mkldnn")]
before = now()
with exact_float32():
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
assert now() == before, (now(), before)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_it_is_restored_after_an_error() -> None:
    with pytest.raises(ValueError, match="x"), exact_float32():
        raise ValueError("x")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_wide_product_rounds_sums_alone(dtype: torch.dtype) -> None:
    """Whole numbers whose sums no half holds, and float32 does."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randint(-255, 256, shape, generator=generator) for shape in ((3, 300), (300, 5)))
    made = wide_product(left.to(dtype), right.to(dtype))
    assert made.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(made.long(), left @ right)
