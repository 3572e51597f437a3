"""Eight odd networks that the audit's rules must hold on: trained too long, too briefly, too wide, too deep, and so on.

    python -m bench.studies.odd --train TEXT --test TEXT --out DIR [--only NAME ...]

| network | what it is | for |
|---|---|---|
| overfitted | LLaMA, 5 layers of 96, trained far past its best on a small part of TRAIN | tuning |
| early | LLaMA, 6 layers of 64, stopped after a twentieth of its steps | tuning |
| wide | LLaMA, 2 layers of 256 | tuning |
| dropout | GPT-2, 4 layers of 96, trained with dropout 0.4 | tuning |
| deep | LLaMA, 12 layers of 48 | kept aside |
| decayed | LLaMA, 4 layers of 96, weight decay 1.0 | kept aside |
| gpt2deep | GPT-2, 8 layers of 64 | kept aside |
| single | LLaMA, 1 layer of 128 | kept aside |

Rules are tuned on the first four. Nobody looks at what the audit says of the other four until the rules stand: what
they say there is then a judgement of the rules.

`--out` gets a Hugging Face directory for each network, with its tokenizer, `losses.json` and `losses.md`. A network
that is there already is not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when tokenizers is imported
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.studies.claims import claim
from bench.studies.plan import Architecture, Shape, Study, untrained
from bench.studies.texts import Corpus, read_corpus
from bench.studies.training import save
from fixtures.train import Recipe, Stream, fit, held_out_loss
from peelaudit.errors import ConfigError, OutputError, PeelauditError
from peelaudit.reports.writing import write_whole

STUDY = Study(train_tokens=320_000, test_tokens=32_768, vocabulary=1_500)
"""The texts, the context, the batches and the seed; what a network is and how long it is trained, `ODD` says."""


class Role(StrEnum):
    """What a network is there for."""

    TUNING = "tuning"
    ASIDE = "kept aside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """One network.

    Attributes:
        role: whether the rules are tuned on it.
        layers: blocks.
        width: of the residual stream.
        steps: updates that its schedule is made for.
        stop: the update after which training ends, None where it goes to the schedule's end.
        train_tokens: how much of what the study trains on it sees, None for all.
        architecture: its style.
        dropout: in training.
        weight_decay: of AdamW, for matrices.
    """

    role: Role
    layers: int
    width: int
    steps: int
    stop: int | None = None
    train_tokens: int | None = None
    architecture: Architecture = Architecture.LLAMA
    dropout: float = 0.0
    weight_decay: float = 0.1


ODD: Mapping[str, Odd] = {
    "overfitted": Odd(role=Role.TUNING, layers=5, width=96, steps=1_200, train_tokens=75_000),
    "early": Odd(role=Role.TUNING, layers=6, width=64, steps=1_500, stop=75),
    "wide": Odd(role=Role.TUNING, layers=2, width=256, steps=900),
    "dropout": Odd(role=Role.TUNING, layers=4, width=96, steps=900, architecture=Architecture.GPT2, dropout=0.4),
    "deep": Odd(role=Role.ASIDE, layers=12, width=48, steps=1_200),
    "decayed": Odd(role=Role.ASIDE, layers=4, width=96, steps=1_500, weight_decay=1.0),
    "gpt2deep": Odd(role=Role.ASIDE, layers=8, width=64, steps=1_500, architecture=Architecture.GPT2),
    "single": Odd(role=Role.ASIDE, layers=1, width=128, steps=2_500),
}


@dataclass(frozen=True, slots=True)
class Losses:
    """Of a trained network without dropout, in nats/token: on text that it saw in training, and on TEST's beginning.

    `steps` are updates made, `seconds` those of one CPU core in training.
    """

    role: Role
    train: float
    validation: float
    steps: int
    seconds: float


def odd_networks(
    train_on: Path,
    test_on: Path,
    out: Path,
    only: Sequence[str] = (),
    *,
    study: Study = STUDY,
    networks: Mapping[str, Odd] = ODD,
) -> dict[str, Losses]:
    """Train all of the networks, or those that are named; returns the losses of all that are in `out`.

    Raises:
        ConfigError: there is no such network, or `out` holds networks of other settings or texts.
        PeelauditError: a text can't be used, or `out` not be written.
    """
    if missing := [name for name in only if name not in networks]:
        raise ConfigError(f"there is no network {', '.join(missing)}; there are {', '.join(networks)}")
    corpus = read_corpus(train_on, test_on, study)
    plan = {name: dataclasses.asdict(odd) for name, odd in networks.items()}
    claim(out, dataclasses.asdict(study) | {"networks": plan, "sha256": corpus.sha256})
    losses = _read_losses(out)
    for name in only or networks:
        if name not in losses:
            losses[name] = _make(name, networks[name], study, corpus, out)
            losses = {known: losses[known] for known in networks if known in losses}
            write_whole(out / "losses.json", json.dumps(_plain(losses), indent=2) + "\n")
            write_whole(out / "losses.md", table(losses))
    return losses


def _make(name: str, odd: Odd, study: Study, corpus: Corpus, out: Path) -> Losses:
    start = time.process_time()
    tokens = torch.from_numpy(np.concatenate(corpus.trained))[: odd.train_tokens]
    model, steps = _trained(odd, study, tokens)
    seconds = time.process_time() - start
    save(model, corpus.tokenizer, study.context, out / name)
    test = torch.from_numpy(np.concatenate(corpus.tested))
    train, validation = (held_out_loss(model, seen, study.context, _judged_rows(study)) for seen in (tokens, test))
    print(
        f"{name:12} train {train:.3f}, validation {validation:.3f} nats/token, {seconds:.0f} s of one core", flush=True
    )
    return Losses(odd.role, train, validation, steps, round(seconds, 1))


def _trained(odd: Odd, study: Study, tokens: Tensor) -> tuple[PreTrainedModel, int]:
    """The network after training, its dropout off, and the updates made."""
    torch.manual_seed(study.seed)
    model = untrained(
        Shape(
            architecture=odd.architecture,
            layers=odd.layers,
            width=odd.width,
            heads=study.heads,
            vocabulary=study.vocabulary,
            context=study.context,
            dropout=odd.dropout,
        )
    )
    recipe = Recipe(
        steps=odd.steps,
        rows=study.rows,
        context=study.context,
        learning_rate=study.learning_rates[0],
        seed=study.seed,
        warmup_steps=max(1, odd.steps // 40),
        weight_decay=odd.weight_decay,
    )
    stop = odd.stop or odd.steps
    for step, _ in fit(model, Stream(tokens, torch.arange(len(tokens))), recipe):
        if step == stop:
            break
    return model.eval(), stop


def _judged_rows(study: Study) -> int:
    return study.test_tokens // study.context


def _plain(losses: Mapping[str, Losses]) -> dict[str, dict[str, object]]:
    return {name: dataclasses.asdict(of) for name, of in losses.items()}


def _read_losses(out: Path) -> dict[str, Losses]:
    """Those of networks that `out` holds."""
    path = out / "losses.json"
    if not path.exists():
        return {}
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return {name: Losses(**{**of, "role": Role(of["role"])}) for name, of in saved.items() if (out / name).is_dir()}
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} isn't what this command writes; name another directory") from error


def table(losses: Mapping[str, Losses]) -> str:
    """A row for each network, as Markdown."""
    lines = ["| network | for | steps | train loss | validation loss | CPU s |", "|---|---|---:|---:|---:|---:|"]
    lines += [
        f"| {name} | {of.role} | {of.steps} | {of.train:.3f} | {of.validation:.3f} | {of.seconds:.0f} |"
        for name, of in losses.items()
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, trains, prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bench.studies.odd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True, help="text that is trained on")
    parser.add_argument("--test", type=Path, required=True, help="text that is judged on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="networks, such as overfitted")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    try:
        losses = odd_networks(options.train, options.test, options.out, options.only)
    except PeelauditError as error:
        print(f"bench.studies.odd: {error}", file=sys.stderr)
        return error.exit_code
    print(table(losses), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
