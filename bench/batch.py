"""What a batch costs beside the audits: `make bench-batch`, or `python -m bench.batch [--checkpoints N]`.

N small checkpoints go through `peelaudit batch --jobs 2` with one thread each; the same are audited by two processes
that do nothing else, torch imported before the clock starts. In turns, a quarter at a time, so that whatever else the
machine does burdens both alike. Printed: seconds a checkpoint of each, their difference (the overhead), the ratio, and
how much of the overhead is paid once a batch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fleet.support import COMMAND, ROOT, environ, write_model

JOBS = 2
SETTINGS = {"tokens": 4096, "effort": "quick"}
FLAGS = ("--tokens", "4096", "--effort", "quick")
BARE = """
import sys
import peelaudit.fleet.warm
from peelaudit.auditing.run import audit_config
from peelaudit.config import AuditConfig
print("ready", flush=True)
sys.stdin.readline()
for path in sys.argv[2:]:
    audit_config(AuditConfig(checkpoint=path, **eval(sys.argv[1])))
"""


def bare(paths: Sequence[str]) -> float:
    """Seconds that `JOBS` processes take for the audits alone."""
    commands = [[sys.executable, "-c", BARE, repr(SETTINGS), *paths[job::JOBS]] for job in range(JOBS)]
    streams: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "text": True,
        "env": environ(),
        "cwd": ROOT,
    }
    processes: list[Any] = [subprocess.Popen(command, **streams) for command in commands]
    for process in processes:
        process.stdout.readline()
    begun = time.perf_counter()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    took = time.perf_counter() - begun
    if any(process.returncode != 0 for process in processes):
        raise RuntimeError("a bare audit failed")
    return took


def batch(paths: Sequence[str], results: Path) -> float:
    """Seconds that the command takes, from its start to its end."""
    listed = "\n".join(paths)
    begun = time.perf_counter()
    subprocess.run(
        [*COMMAND, "batch", "-", "--out", str(results), "--jobs", str(JOBS), "-q", *FLAGS],
        input=listed, text=True, env=environ(), cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=200)
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root, count = Path(place), options.checkpoints
        paths = [str(write_model(root / f"run/{n}.pt", seed=n, layers=1 + n % 2, width=32)) for n in range(count)]
        alone = together = 0.0
        for turn in range(options.turns):
            part = paths[turn :: options.turns]
            alone += bare(part)
            together += batch(part, root / "results")
        # All are done now: what is left is the start, and finding that there is nothing to do.
        idle = batch(paths[:1], root / "results")
    each, once = JOBS / count, options.turns * idle
    machine = f"--jobs {JOBS}, one thread each, {os.cpu_count()} cores, {options.turns} batches"
    lines = (
        f"{count} checkpoints of 1 and 2 layers, {machine}",
        f"bare audit   {alone * each:.3f} s a checkpoint, of a job's time",
        f"batch        {together * each:.3f} s a checkpoint: {together / alone:.2f} times the bare audit",
        f"overhead     {(together - alone) * each:.3f} s a checkpoint",
        f"  once       {idle:.1f} s a batch, from start to end with nothing to do: imports, above all",
        f"  each       {(together - alone - once) * each:.3f} s a checkpoint: {(together - once) / alone:.2f} times",
    )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
