"""How an audit's time and memory grow with the text and with depth, as exponents.

    python -m bench.growth [--effort quick|default|thorough] [--layers 10] [--tokens 2048] [--times 1,2,4,8]

A Llama of the fixture's shape with other depths and weights drawn at random is audited in a process of its own, with
so many layers on one, two, four and eight times the tokens, and with one, two, four and eight times the layers on so
many tokens. CPU seconds are those of the audit after the imports; memory is the peak above what it was before.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

FIXTURE = Path(__file__).parents[1] / "fixtures" / "llama"


def drawn(folder: Path, layers: int) -> Path:
    """A directory with a network of so many layers."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    path = folder / str(layers)
    if not path.exists():
        torch.manual_seed(0)
        config = LlamaConfig.from_pretrained(FIXTURE, num_hidden_layers=layers)
        AutoModelForCausalLM.from_config(config).save_pretrained(path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(FIXTURE / name, path / name)
    return path


def audited(path: str, tokens: int, effort: str) -> dict[str, float]:
    """CPU seconds, peak bytes above the start, and forward passes of one audit, in this process."""
    from peelaudit.auditing.run import audit_config
    from peelaudit.settings.audit import AuditConfig

    small = AuditConfig(checkpoint=path, data=(str(FIXTURE / "calibration.txt"),), tokens=512, effort="quick")
    audit_config(small)  # what is imported and allocated once
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    config = AuditConfig(checkpoint=path, data=small.data, tokens=tokens, effort=effort)  # type: ignore[arg-type]
    report = audit_config(config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    passes = sum(done for _, done in report.passes)
    return {"seconds": time.process_time() - start, "bytes": 1024.0 * (peak - before), "passes": passes}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the line through the logarithms, by least squares."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    middle, level = sum(x) / len(x), sum(y) / len(y)
    pairs = list(zip(x, y, strict=True))
    return sum((a - middle) * (b - level) for a, b in pairs) / sum((a - middle) ** 2 for a in x)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effort", default="default")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--times", default="1,2,4,8")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(audited(options.one, options.tokens, options.effort)))
        return
    times = [int(factor) for factor in options.times.split(",")]
    with tempfile.TemporaryDirectory() as place:
        for what in ("tokens", "layers"):
            rows = []
            print(f"\n| {what} | CPU s | MB | passes |\n|---:|---:|---:|---:|", flush=True)
            for factor in times:
                layers = options.layers * (factor if what == "layers" else 1)
                tokens = options.tokens * (factor if what == "tokens" else 1)
                path = drawn(Path(place), layers)
                command = [sys.executable, "-m", "bench.growth", "--one", str(path)]
                command += ["--tokens", str(tokens), "--effort", options.effort]
                row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                rows.append(row)
                size = tokens if what == "tokens" else layers
                print(f"| {size} | {row['seconds']:.1f} | {row['bytes'] / 1e6:.0f} | {row['passes']:.1f} |", flush=True)
            seconds, room = (exponent(times, [row[key] for row in rows]) for key in ("seconds", "bytes"))
            print(f"\nexponent of {what}: {seconds:.2f} in time, {room:.2f} in memory", flush=True)


if __name__ == "__main__":
    main()
