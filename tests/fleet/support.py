"""Tiny checkpoints, and the real command over them as a process group that can be killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from tests.cli.support import COMMAND, environ
from tests.places import NANOGPT, ROOT

QUICK = ("--tokens", "640", "--seq-len", "32", "--effort", "quick", "--schedules", "direct;final", "--resamples", "100")
LONG = ("--tokens", "2048", "--schedules", "final", "--solver", "adam", "--init", "random", "--steps", "1000000")
"""An audit that doesn't end by itself within a test, however few its layers: from trained weights one layer is done."""


def write_model(path: Path, *, seed: int, layers: int = 1, width: int = 8, step: int | None = None) -> Path:
    """An untrained nanoGPT checkpoint for the fixtures' characters, whose files are put beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in ("meta.pkl", "calibration.txt"):
        if not (path.parent / name).exists():
            shutil.copy(NANOGPT / name, path.parent)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    state = {"transformer.wte.weight": draw(59, width), "transformer.wpe.weight": draw(64, width)}
    for layer in range(layers):
        block = f"transformer.h.{layer}"
        state |= {
            f"{block}.ln_1.weight": torch.ones(width),
            f"{block}.attn.c_attn.weight": draw(3 * width, width),
            f"{block}.attn.c_proj.weight": draw(width, width),
            f"{block}.ln_2.weight": torch.ones(width),
            f"{block}.mlp.c_fc.weight": draw(4 * width, width),
            f"{block}.mlp.c_proj.weight": draw(width, 4 * width),
        }
    state |= {"transformer.ln_f.weight": torch.ones(width)}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    arguments = {"n_layer": layers, "n_head": 2, "n_embd": width, "block_size": 64, "bias": False, "vocab_size": 59}
    torch.save({"model": state, "model_args": arguments, "iter_num": seed if step is None else step}, path)
    return path


def peelaudit(*arguments: str | Path, cwd: Path = ROOT, **options) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "text": True, "timeout": 240, "env": environ()} | options
    return subprocess.run([*COMMAND, *map(str, arguments)], cwd=cwd, check=False, **settings)


@contextmanager
def started(*arguments: str | Path, cwd: Path = ROOT, **options) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, of which nothing is left in the end."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environ()} | options
    command = [*COMMAND, *map(str, arguments)]
    with subprocess.Popen(command, cwd=cwd, text=True, start_new_session=True, **streams) as process:
        try:
            yield process
        finally:
            for pid in members(process.pid):
                os.kill(pid, signal.SIGKILL)


def members(session: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found


def until(condition: Callable[[], object], *, seconds: float = 60) -> object:
    """Wait for something to be true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise TimeoutError


def journal(results: Path, event: str | None = None) -> list[dict[str, object]]:
    path = results / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if event in (None, line["event"])]


def reports(results: Path) -> dict[str, dict[str, object]]:
    """What every report says, by its file's name, timings aside."""
    found = {path.name: json.loads(path.read_text()) for path in results.glob("reports/*.json")}
    for report in found.values():
        del report["timings"]
    return found


def rows(done: subprocess.CompletedProcess[str]) -> Sequence[dict[str, object]]:
    """The rows of `-f json`."""
    return json.loads(done.stdout)
