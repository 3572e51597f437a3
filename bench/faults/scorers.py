"""Per-layer scores: each a command of its own over one directory, which tells how sick each layer looks.

A score of one's own is a row in `SCORERS`: a command line, and what makes of its output one number a layer, the largest
for the layer that is thought to be damaged.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Scores = list[float]
"""Of layers 1 … L."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A score.

    Attributes:
        command: the arguments, for a directory and the arguments that say which text there is.
        read: its standard output as scores.
        needs: a module that must be installed.
        named: the layers that it tells to be damaged, of its standard output; None where it names none.
        exits: what it may return.
    """

    command: Callable[[Path, Sequence[str]], list[str]]
    read: Callable[[str], Scores]
    needs: str = "peelaudit"
    named: Callable[[str], list[int]] | None = None
    exits: tuple[int, ...] = (0,)

    @property
    def installed(self) -> bool:
        """Whether it can be run."""
        return importlib.util.find_spec(self.needs) is not None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scorer made of one directory: scores, layers named, CPU seconds with those of starting, the output."""

    scores: Scores
    named: list[int] | None
    seconds: float
    output: str


def run(scorer: Scorer, directory: Path, text: Sequence[str]) -> Outcome:
    """Run a scorer.

    Raises:
        RuntimeError: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(scorer.command(directory, text), capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in scorer.exits:
        raise RuntimeError(f"{scorer.command(directory, text)} ended with {done.returncode}: {done.stderr[-2000:]}")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    named = None if scorer.named is None else scorer.named(done.stdout)
    return Outcome(scorer.read(done.stdout), named, seconds, done.stdout)


def _peelaudit(*more: str) -> Callable[[Path, Sequence[str]], list[str]]:
    def command(directory: Path, text: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "peelaudit", "run", str(directory), *text, *more, "-f", "json", "--quiet"]

    return command


def _plain(name: str, *, text: bool = False) -> Callable[[Path, Sequence[str]], list[str]]:
    return lambda directory, words: [
        *(sys.executable, "-m", "bench.faults.plain", name, str(directory)),
        *(words if text else ()),
    ]


def _named(output: str) -> list[int]:
    """The layers that the report names: by their looks and slopes, then by their gaps."""
    report = json.loads(output)
    looks = [layer["layer"] for layer in report["layers"] if layer["symptoms"]]
    gaps = (report["refinement"] or {}).get("named", [])
    return looks + [layer for layer in gaps if layer not in looks]


def _by_report(output: str) -> Scores:
    """Named layers before others, each in order: by gap where the report has them, else by the larger slope."""
    report, named = json.loads(output), _named(output)
    layers: list[Mapping[str, Any]] = report["layers"]
    sizes = [_size(layer) for layer in layers]
    most = 1 + max(map(abs, sizes))
    return [
        size + most * (1 + len(named) - named.index(layer["layer"])) if layer["layer"] in named else size
        for layer, size in zip(layers, sizes, strict=True)
    ]


def _size(layer: Mapping[str, Any]) -> float:
    if layer["gap"] is not None:
        return float(layer["gap"]["value"])
    slopes = [layer[key]["value"] for key in ("scale_slope", "bulk_slope") if layer[key] is not None]
    return max((abs(float(slope)) for slope in slopes), default=0.0)


def _clinic(directory: Path, text: Sequence[str]) -> list[str]:
    program = Path(sys.executable).with_name("model-clinic")
    return [str(program), "exam", str(directory), "--hf", "--json"]


_SEVERITY = {"INFO": 0.01, "WARN": 1.0, "ERROR": 100.0}
"""So that no number of milder findings outweighs a graver one."""


def _findings(output: str) -> Scores:
    """The findings on each layer's parameters, the graver ones first."""
    report = json.loads(output[output.index("{") :])
    scores = [0.0] * int(report["meta"]["num_layers"])
    for finding in report["findings"]:
        layer = [part for part in finding["param"].split(".") if part.isdigit()]
        if layer:
            scores[int(layer[0])] += _SEVERITY.get(finding["severity"], 1.0)
    return scores


def _found(output: str) -> list[int]:
    return [layer for layer, score in enumerate(_findings(output), 1) if score >= 1]


SCORERS: dict[str, Scorer] = {
    "peelaudit": Scorer(_peelaudit(), _by_report, named=_named),
    "peelaudit --effort quick": Scorer(_peelaudit("--effort", "quick"), _by_report, named=_named),
    "WeightWatcher's alpha": Scorer(_plain("alpha"), json.loads, needs="weightwatcher"),
    "model-clinic exam": Scorer(_clinic, _findings, needs="model_clinic", named=_found),
    "block influence": Scorer(_plain("influence", text=True), json.loads),
    "weight norm": Scorer(_plain("norm"), json.loads),
}
