"""Whole audits on a device: the fixtures' beside the CPU's, a real model's time and memory, the large shape's."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import peelaudit
from bench import device as large
from bench.gpu.table import Check, Found, Skipped, Table
from peelaudit.progress import Clock
from peelaudit.records import AuditReport, Estimate, LayerRow
from peelaudit.records.quantities import quantities_of

__all__ = ["compare", "fixture_checks", "large_checks", "model_check"]

SHARE = 0.1
"""Of an interval's width that a held-out figure may be off."""
EXACT = 1e-5
"""What counts as the width of an interval that has none: a gap that is 0 by definition."""
FIXTURES: Mapping[str, Mapping[str, str]] = {
    "nanogpt/ckpt.pt": {},
    "nanogpt/ckpt-000250.pt": {"data": "nanogpt/calibration.txt", "tokenizer": "nanogpt/meta.pkl"},
    "llama": {},
    "llama-ternary": {},
    "llama-binary": {},
}
LARGE_DTYPE = "bfloat16"
STEP = 45.0
"""Seconds that are kept back from the large shape: an audit is ended between two steps of a stage, not within one."""


class TimeIsUp(Exception):
    """Raised from within an audit that has no time left."""


class Deadline:
    """A progress that ends an audit when the time is up."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def stage(self, name: str, total: int) -> None:
        self.advance()

    def advance(self, steps: int = 1) -> None:
        if time.monotonic() > self._end:
            raise TimeIsUp


def fixture_checks(fixtures: Path, device: torch.device) -> Iterator[Check]:
    """Each fixture's audit beside the CPU's; on the CPU beside float64's, for it would be held to itself."""
    for name, beside in FIXTURES.items():
        files = {setting: str(fixtures / path) for setting, path in beside.items()}
        settings = {"tokens": 4096, **files}
        yield Check(f"audit of {name}", device.type, "float32", partial(_fixture, fixtures / name, settings, device))


def _fixture(path: Path, settings: Mapping[str, Any], device: torch.device) -> Found:
    wide = "float64" if device.type == "cpu" else "float32"
    reference, known = _heard(lambda: peelaudit.audit(path, device="cpu", dtype=wide, **settings))
    begun = time.monotonic()
    found, heard = _heard(lambda: peelaudit.audit(path, device=device.type, dtype="float32", **settings))
    spent, (worst, where, differences) = _spent(begun), compare(found, reference)
    differences += [f"warning: {text}" for text in sorted(heard - known)]
    note = "; ".join((f"{spent}, farthest {where}", *differences))
    return Found(math.inf if differences else worst, SHARE, note)


def _heard(audit: Callable[[], AuditReport]) -> tuple[AuditReport, set[str]]:
    """The report, and what libraries warned of meanwhile."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = audit()
    return report, {str(warning.message) for warning in caught}


def compare(found: AuditReport, reference: AuditReport) -> tuple[float, str, list[str]]:
    """How far held-out figures are from another audit's, in widths of its intervals, at most; where; and what else
    differs that may not: verdicts, what is named, warnings.

    Where weights are low-bit, what steps gain may be off by a whole width of the wider interval: a step moves weights
    over the threshold to another code or doesn't, and the last digit decides for those that are near it.
    """
    mine, theirs = dict(_held_out(found)), dict(_held_out(reference))
    differences = [f"only one has {name}" for name in sorted(mine.keys() ^ theirs.keys())]
    shares = {name: _share(mine[name], theirs[name]) for name in mine.keys() & theirs.keys()}
    if found.low_bit is not None:
        steps = {name for name in shares if "gap" in name or "refine" in name}
        shares |= {name: SHARE * _share(mine[name], theirs[name], wider=True) for name in steps}
    differences += [
        f"{name} {one} instead of {other}"
        for (name, one), (_, other) in zip(_verdicts(found), _verdicts(reference), strict=True)
        if one != other
    ]
    differences += [f"warning: {text}" for text in found.warnings if text not in reference.warnings]
    where = max(shares, key=lambda name: shares[name])
    return shares[where], where, differences


def _share(found: Estimate, reference: Estimate, *, wider: bool = False) -> float:
    """How far one is from the other, in the width of the reference's interval, or of the wider of the two. NaN counts
    as infinitely far.
    """
    width = max(reference.high - reference.low, EXACT)
    if wider:
        width = max(width, found.high - found.low)
    share = abs(found.value - reference.value) / width
    return share if math.isfinite(share) else math.inf


def _held_out(report: AuditReport) -> Iterator[tuple[str, Estimate]]:
    network = report.network
    yield from _estimates("network", (network.held_out, network.margin, network.temperature_gain, network.refinement))
    for row in report.layers:
        yield from _estimates(f"layer {row.layer}", row.held_out)
        for key in quantities_of(LayerRow):
            yield from _estimates(f"layer {row.layer}.{key}", getattr(row, key))
    for schedule in report.schedules:
        yield from _estimates(f"schedule {schedule.name}", schedule.held_out)
    for bound in report.yes:
        yield from _estimates(f"YES-{bound.waypoints}", bound.held_out)


def _estimates(name: str, value: object) -> Iterator[tuple[str, Estimate]]:
    if isinstance(value, Estimate):
        yield name, value
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _estimates(f"{name}.{index}", item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _estimates(f"{name}.{field.name}", getattr(value, field.name))


def _verdicts(report: AuditReport) -> Iterator[tuple[str, object]]:
    yield "the network's verdict", report.network.held_out.verdict
    yield "the headline", report.headline.partition(":")[0]
    yield "the paper's verdict", report.network.paper_verdict
    yield "layers named", report.named
    for row in report.layers:
        yield f"layer {row.layer}'s verdict", row.held_out.verdict


def model_check(path: Path | None, data: Path | None, device: torch.device) -> Check:
    """A real model at 4,096 tokens of a text, or of the program's own: that it comes to an end, its time and memory."""

    def run() -> Found:
        if path is None:
            raise Skipped("no --model was given")
        missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
        if path.suffix == ".gguf" and missing:
            raise Skipped(f"a GGUF file needs {' and '.join(missing)}, which this Python hasn't")
        _forget_peak(device)
        begun = time.monotonic()
        report = peelaudit.audit(path, () if data is None else data, tokens=4096, device=device.type, dtype="float32")
        verdict = report.network.held_out
        note = f"{_spent(begun)}, {_peak(device)}, loss {verdict.trained_loss.value:.3f}, {verdict.verdict}"
        beaten = verdict.trained_loss.high < report.baselines.unigram.low
        return Found(note=note) if beaten else Found(1.0, 0.0, f"{note}: no better than word counts")

    return Check("audit of a real model", device.type, "float32", run)


def large_checks(device: torch.device, table: Table) -> Iterator[Check]:
    """`bench-gpu`'s ternary network, in two layers and in all 26, each as long as the table has time left.

    Its operations aren't counted: counting them costs more than they do.
    """
    small = [] if device.type == "cuda" else ["--width", "64", "--tokens", "2048"]
    for layers in (2, 26):
        options = [*small, "--layers", str(layers), "--device", device.type, "--dtype", LARGE_DTYPE]
        run = partial(_large, large.parse(options), table)
        yield Check(f"bench-gpu, {layers} layers", device.type, LARGE_DTYPE, run)


def _large(arguments: argparse.Namespace, table: Table) -> Found:
    clock = Clock(Deadline(table.left - STEP))
    try:
        bench = large.measure(arguments, clock)
    except TimeIsUp:
        stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in clock.seconds())
        raise Skipped(f"stopped when the time was up, in the last of: {stages}") from None
    return Found(note=f"{bench.seconds:.1f} s, {_peak(torch.device(arguments.device))}")


def _spent(begun: float) -> str:
    return f"{time.monotonic() - begun:.1f} s"


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> str:
    """Most bytes at once: of tensors on a CUDA device, else of the process."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB on the device"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB of memory so far"
