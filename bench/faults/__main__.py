"""Which per-layer scores find the damaged layer?

    python -m bench.faults MODEL --data TEXT --results FILE.jsonl [--score NAME]… [--layers 1,3] [--tokens N]
    python -m bench.faults --table FILE.jsonl…

MODEL is damaged as `peelaudit selftest` does it, one layer with one fault at a time, and written as a directory that
transformers loads. Every score sees that directory, by a command of its own, and nothing of the healthy network; those
that want text see the same. Scores are those of `scorers.py`: peelaudit's report, WeightWatcher's alpha
(`pip install weightwatcher`), model-clinic's exam (`pip install model-clinic`), block influence, the weights' norm.

A line is added to FILE for each directory; what is in it already isn't measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.faults.planting import planted
from bench.faults.scorers import SCORERS, run
from bench.faults.table import table
from peelaudit.settings.audit import AuditConfig

LOSS = "peelaudit --effort quick"
"""The score whose report tells the network's loss, which is transformers' to 1e-6 nats."""


def measured(options: argparse.Namespace) -> None:
    """Add a line to the results for each copy."""
    results: Path = options.results
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    wanted = {name: SCORERS[name] for name in options.score or SCORERS if SCORERS[name].installed} | {
        LOSS: SCORERS[LOSS]
    }
    text = [argument for path in options.data for argument in ("--data", path)] + ["--tokens", str(options.tokens)]
    config = AuditConfig(checkpoint=options.model, data=tuple(options.data), tokens=options.tokens)
    layers = [int(layer) for layer in options.layers.split(",") if layer]
    with tempfile.TemporaryDirectory() as place:
        for copy in planted(config, Path(place), layers, done=[line["name"] for line in lines]):
            line: dict[str, Any] = {
                "model": Path(options.model).stem,
                "name": copy.name,
                "fault": copy.fault,
                "layer": copy.layer,
            }
            by: dict[str, Any] = {}
            for name, scorer in wanted.items():
                outcome = run(scorer, copy.path, text)
                by[name] = {"scores": outcome.scores, "named": outcome.named, "seconds": outcome.seconds}
                if name == LOSS:
                    line["loss"] = json.loads(outcome.output)["held_out"]["trained_loss"]["value"]
                    line["layers"] = len(outcome.scores)
            with results.open("a") as file:
                file.write(json.dumps(line | {"by": by}) + "\n")
            shutil.rmtree(copy.path)


def main() -> None:
    """Measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--layers", default="")
    parser.add_argument("--score", action="append", choices=list(SCORERS))
    parser.add_argument("--results", type=Path)
    parser.add_argument("--table", type=Path, nargs="+")
    options = parser.parse_args()
    if options.model is not None:
        if options.results is None:
            parser.error("MODEL wants --results FILE.jsonl as well")
        measured(options)
    for line in table([json.loads(line) for path in options.table or () for line in path.read_text().splitlines()]):
        print(line)


if __name__ == "__main__":
    main()
