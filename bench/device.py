"""`make bench-gpu`: a ternary network of OpenLLaMA-3B's shape (26 layers, 3.4 billion parameters, random weights),
audited on a GPU: wall time by stage, peak memory, and the share of the device's own matrix-product rate that was
reached. `--bits float --layers 20 --width 2048` is a float one of 1.1 billion.

The rate is measured by products of square matrices in the dtype that blocks compute in. Operations are those of the
forward passes that the report counts, by stage: two for each weight and token. What second moments, factorisations and
rounding take isn't among them, so that the share is a lower bound. With `--count` the audit is run once more and torch
counts, products of moments and attention too. Counting slows every call to the device several times: times are those
of the first run. `--layers 2 --width 64 --device cpu` tries it on anything.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

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
        num_attention_heads=max(1, width // (64 if width % 100 else 100)),
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
    )


@torch.no_grad()
def write_checkpoint(config: LlamaConfig, folder: Path, device: torch.device, *, ternary: bool) -> int:
    """A directory with random blocks, in bfloat16; returns its parameters."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    for name, weight in model.named_parameters():
        if ternary and ".layers." in name and weight.ndim == 2:
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
    """Counts what torch knows the operations of, by stage of the audit whose progress it is. torch's own counter also
    keeps them by module, with hooks that can't stand gradients by a leaf, such as the slopes'.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_stage: Counter[str] = Counter()
        self._stage = ""

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def stage(self, name: str, total: int) -> None:
        self._stage = name

    def advance(self, steps: int = 1) -> None:
        """Steps don't matter."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if (count := flop_registry.get(function._overloadpacket)) is not None:
            self.by_stage[self._stage] += count(*args, **(kwargs or {}), out_val=result)
        return result


@dataclass(frozen=True, slots=True)
class Bench:
    """An audit and what it took; `operations` by stage, and the `rate` that the device's matrix products reach."""

    report: AuditReport
    parameters: int
    seconds: float
    operations: Counter[str]
    rate: float


def audit(folder: Path, tokens: Path, arguments: argparse.Namespace, progress: Progress) -> AuditReport:
    return peelaudit.audit(
        folder,
        tokens,
        tokens=arguments.tokens,
        device=arguments.device,
        dtype=arguments.dtype,
        effort=arguments.effort,
        max_memory=arguments.max_memory,
        progress=progress,
    )


def measure(arguments: argparse.Namespace, progress: Progress = SILENT) -> Bench:
    """Write the network and audit it."""
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as scratch:
        folder, tokens = Path(scratch) / "model", Path(scratch) / "tokens.npy"
        config = config_of(arguments.layers, arguments.width)
        ternary = arguments.bits == "ternary"
        if device.type == "cuda":
            parameters = write_checkpoint(config, folder, device, ternary=ternary)
        else:  # in a process of its own, so that this one's peak memory is the audit's
            with ProcessPoolExecutor(1, get_context("spawn")) as elsewhere:
                parameters = elsewhere.submit(write_checkpoint, config, folder, device, ternary=ternary).result()
        draw = np.random.default_rng(0).integers(3, config.vocab_size, 2 * arguments.tokens)
        np.save(tokens, draw.astype(np.uint16))
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        synchronise(device)
        start = time.perf_counter()
        report = audit(folder, tokens, arguments, progress)
        synchronise(device)
        seconds = time.perf_counter() - start
        rate = matrix_rate(device, getattr(torch, arguments.dtype), 8192 if device.type == "cuda" else 512)
        embedding = config.vocab_size * config.hidden_size
        passed = 2.0 * (parameters - embedding) * arguments.tokens
        operations = Counter({stage: int(passes * passed) for stage, passes in report.passes})
        if arguments.count:
            with Operations() as counting:
                audit(folder, tokens, arguments, counting)
            operations = counting.by_stage
    return Bench(report, parameters, seconds, operations, rate)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--width", type=int, default=3200)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--bits", choices=("ternary", "float"), default="ternary", help="what its blocks are")
    parser.add_argument("--effort", choices=("quick", "default", "thorough"), default="default")
    parser.add_argument("--max-memory", help="main memory that the audit may take, such as 8GiB")
    parser.add_argument("--count", action="store_true", help="count operations in a second audit")
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
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB on the device")
    else:
        print(
            f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.1f} GB, mapped files in it"
        )
    for line in table(bench):
        print(line)


def table(bench: Bench) -> list[str]:
    """A line a stage, and one for the whole: seconds, forward passes, operations and their share of the rate."""
    passes = dict(bench.report.passes)
    whole = ("the whole audit", bench.seconds, sum(passes.values()), bench.operations.total())
    stages = [(stage, spent, passes.get(stage, 0.0), bench.operations[stage]) for stage, spent in bench.report.timings]
    lines = [
        f"{name:25}{spent:8.1f} s{done:8.1f} passes{operations / 1e12:10.1f} · 10^12,"
        f" {operations / max(spent, 1e-9) / bench.rate:6.1%} of the rate"
        for name, spent, done, operations in (whole, *stages)
    ]
    return [*lines, f"matrix products alone reach {bench.rate / 1e12:.2f} · 10^12 a second"]


if __name__ == "__main__":
    main()
