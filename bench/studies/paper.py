"""The studies of arXiv 2605.02853 on small decoders: `make paper TRAIN=text TEST=text`.

    python -m bench.studies.paper --train TEXT --test TEXT [--out DIR] [--solver ridge] [--only NAME ...]

Twelve runs: 4-layer LLaMA-style and GPT-2-style decoders, in float, binary and ternary, at two learning rates, one of
them too low. Each is audited at several epochs, on its training tokens and on TEST. `--out` gets the checkpoints and
reports, `table.md` and `table.csv`, and for each run its YES clouds. What is there already is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when tokenizers is imported
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from bench.studies.auditing import Audited, audit_run, draw_clouds
from bench.studies.claims import claim
from bench.studies.plan import Run, Study, runs
from bench.studies.table import table_csv, table_markdown
from bench.studies.texts import Corpus, read_corpus
from bench.studies.training import train
from peelaudit.errors import ConfigError, PeelauditError
from peelaudit.reports.writing import write_whole
from peelaudit.settings.audit import SolverKind


def study_of(train_on: Path, test_on: Path, out: Path, study: Study, only: Sequence[str] = ()) -> list[Audited]:
    """The whole study, or the runs that are named; returns the rows of its table.

    Raises:
        ConfigError: there is no such run, or `out` holds a study with other settings or texts.
        PeelauditError: a text or a checkpoint can't be used.
    """
    chosen = _chosen(study, only)
    corpus = read_corpus(train_on, test_on, study)
    claim(out, dataclasses.asdict(study) | {"sha256": corpus.sha256})
    for run in chosen:
        _train(run, study, corpus, out)
    audited: list[Audited] = []
    for run in chosen:
        audited += _audit(run, study, corpus, out)
    write_whole(out / "table.csv", table_csv(audited))
    write_whole(out / "table.md", table_markdown(audited))
    return audited


def _chosen(study: Study, only: Sequence[str]) -> tuple[Run, ...]:
    every = {run.name: run for run in runs(study)}
    if missing := [name for name in only if name not in every]:
        raise ConfigError(f"there is no run {', '.join(missing)}; there are {', '.join(every)}")
    return tuple(every[name] for name in only or every)


def _train(run: Run, study: Study, corpus: Corpus, out: Path) -> None:
    start = time.process_time()
    for epoch, loss, test in train(run, study, corpus, out):
        print(
            f"{run.name:24} epoch {epoch}: loss {loss:.3f}, on TEST {test:.3f} nats/token, "
            f"{time.process_time() - start:.0f} s of one core",
            flush=True,
        )


def _audit(run: Run, study: Study, corpus: Corpus, out: Path) -> list[Audited]:
    start = time.process_time()
    rows = list(audit_run(run, study, corpus, out))
    draw_clouds(rows, out)
    print(f"{run.name:24} audited, {time.process_time() - start:.0f} s of one core", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, runs the study, prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bench.studies.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True, help="text that is trained on")
    parser.add_argument("--test", type=Path, required=True, help="text that is judged on")
    parser.add_argument("--out", type=Path, default=Path("build/paper"))
    parser.add_argument("--solver", choices=get_args(SolverKind), default=Study().solver)
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="runs, such as llama-ternary-0.003")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    study = Study(solver=options.solver)
    try:
        audited = study_of(options.train, options.test, options.out, study, options.only)
    except PeelauditError as error:
        print(f"bench.studies.paper: {error}", file=sys.stderr)
        return error.exit_code
    print(table_markdown(audited), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
