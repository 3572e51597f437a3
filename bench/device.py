"""`make bench-gpu`: a ternary network of OpenLLaMA-3B's shape (26 layers, 3.4 billion parameters, random weights),
audited on a GPU: wall time, peak memory, and the share of the device's own matrix-product rate that was reached.

The rate is measured first, by products of square matrices in the dtype that blocks compute in. With `--count`
operations are counted by torch while the audit runs (products and attention; factorisations aren't counted, so that the
share is a lower bound). Counting slows every call to the device several times, and low-bit rounding is millions of
small ones: wall times are told without it. `--layers 2 --width 64 --device cpu` tries it on anything.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import LlamaConfig, LlamaForCausalLM

import peelaudit
from peelaudit.network.lowbit.constraints import Ternary
from peelaudit.progress import SILENT, Progress
from peelaudit.records import AuditReport


def config_of(layers: int, width: int) -> LlamaConfig:
    """OpenLLaMA-3B's, or one of its proportions."""
    return LlamaConfig(
        vocab_size=32_000 if width >= 3200 else 512,
        hidden_size=width,
        intermediate_size=width * 27 // 10,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 100),
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
    )


@torch.no_grad()
def write_checkpoint(config: LlamaConfig, folder: Path, device: torch.device) -> int:
    """A directory with random ternary blocks, in bfloat16; returns its parameters."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    for name, weight in model.named_parameters():
        if ".layers." in name and weight.ndim == 2:
            weight.copy_(Ternary().quantise(weight.float()))
    model.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations a second of square matrix products, the best of five."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(5):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(4):
            a @ b
        synchronise(device)
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - start))
    return best


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Operations(TorchDispatchMode):
    """Counts what torch knows the operations of. torch's own counter also keeps them by module, with hooks that can't
    stand gradients by a leaf, such as the slopes'.
    """

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if (count := flop_registry.get(function._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


@dataclass(frozen=True, slots=True)
class Bench:
    """An audit and what it took; `operations` and the device's `rate` of them are 0 where they weren't counted."""

    report: AuditReport
    parameters: int
    seconds: float
    operations: int
    rate: float


def audit(folder: Path, tokens: Path, arguments: argparse.Namespace, progress: Progress) -> AuditReport:
    schedules = (
        "final",
        "direct",
        *(f"prefix:{m}" for m in sorted({arguments.layers // 2, arguments.layers - 2} - {0})),
    )
    return peelaudit.audit(
        folder,
        tokens,
        tokens=arguments.tokens,
        device=arguments.device,
        dtype=arguments.dtype,
        schedules=schedules,
        effort="quick",
        progress=progress,
    )


def measure(arguments: argparse.Namespace, progress: Progress = SILENT) -> Bench:
    """Write the network and audit it."""
    device = torch.device(arguments.device)
    rate = 0.0
    if arguments.count:
        rate = matrix_rate(device, getattr(torch, arguments.dtype), 8192 if device.type == "cuda" else 512)
    with tempfile.TemporaryDirectory() as scratch:
        folder, tokens = Path(scratch) / "model", Path(scratch) / "tokens.npy"
        config = config_of(arguments.layers, arguments.width)
        parameters = write_checkpoint(config, folder, device)
        draw = np.random.default_rng(0).integers(3, config.vocab_size, 2 * arguments.tokens)
        np.save(tokens, draw.astype(np.uint16))
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        synchronise(device)
        start = time.perf_counter()
        with Operations() if arguments.count else nullcontext() as counter:
            report = audit(folder, tokens, arguments, progress)
        synchronise(device)
        seconds = time.perf_counter() - start
    return Bench(report, parameters, seconds, counter.total if counter else 0, rate)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--width", type=int, default=3200)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--count", action="store_true", help="count operations, which slows the audit down")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench-gpu: torch finds no CUDA device here")
    bench = measure(arguments)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    size = f"{arguments.layers} layers × {arguments.width}, {bench.parameters / 1e9:.2f} billion parameters"
    held = bench.report.low_bit.sets[0].name if bench.report.low_bit else "float"
    print(f"{name}: {size}, {held}, {arguments.dtype}, {arguments.tokens} tokens")
    print(f"wall time      {bench.seconds:.1f} s")
    if device.type == "cuda":
        print(f"peak memory    {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB on the device")
    if arguments.count:
        reached = bench.operations / bench.seconds
        print(f"operations     {bench.operations / 1e12:.1f} · 10^12, {reached / 1e12:.2f} · 10^12 a second")
        print(f"matrix limit   {bench.rate / 1e12:.2f} · 10^12 a second, of which {reached / bench.rate:.1%}")
    for stage, spent in bench.report.timings:
        print(f"  {stage:20}{spent:8.1f} s")


if __name__ == "__main__":
    main()
