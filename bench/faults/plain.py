"""Scores that others use, by transformers and WeightWatcher alone; prints one a layer as JSON.

    python -m bench.faults.plain alpha|influence|norm DIR [--data TEXT --tokens N]

alpha       WeightWatcher's exponent of the spectrum's tail, the mean of a block's matrices: large where it is thought
            to be untrained
influence   1 less the mean cosine of a block's input and output, by how many times over or under the layers' median
norm        the root mean square of a block's matrices, by how many times over or under the layers' median
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

LENGTH = 256
"""Tokens of a sequence at most."""
_LAYER = re.compile(r"(?:layers|h)\.(\d+)\.")


def alpha(model: Any, options: argparse.Namespace) -> list[float]:
    """See the module."""
    import weightwatcher

    found: dict[int, list[float]] = defaultdict(list)
    for row in weightwatcher.WeightWatcher(model=model).analyze().itertuples():
        if (layer := _LAYER.search(row.longname)) is not None:
            found[int(layer[1])].append(float(row.alpha))
    return [statistics.fmean(found[layer]) for layer in sorted(found)]


def influence(model: Any, options: argparse.Namespace) -> list[float]:
    """See the module."""
    tokenizer = AutoTokenizer.from_pretrained(options.directory)
    text = "\n".join(Path(path).read_text(encoding="utf-8") for path in options.data)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[0]
    length = min(LENGTH, model.config.max_position_embeddings)
    rows = ids[: min(options.tokens, len(ids)) // length * length].view(-1, length)
    sums: list[float] = []
    for part in rows.split(4):
        states = model(part, output_hidden_states=True).hidden_states
        turned = [(1 - torch.cosine_similarity(a, b, dim=-1)).sum().item() for a, b in pairwise(states)]
        sums = [old + new for old, new in zip(sums or [0.0] * len(turned), turned, strict=True)]
    return _oddity(sums)


def norm(model: Any, options: argparse.Namespace) -> list[float]:
    """See the module."""
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and (layer := _LAYER.search(name)) is not None:
            sums[int(layer[1])][0] += weight.double().square().sum().item()
            sums[int(layer[1])][1] += weight.numel()
    return _oddity([(sums[layer][0] / sums[layer][1]) ** 0.5 for layer in sorted(sums)])


def _oddity(values: list[float]) -> list[float]:
    logs = torch.tensor(values, dtype=torch.float64).clamp(min=1e-300).log()
    oddity: list[float] = (logs - logs.median()).abs().tolist()
    return oddity


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("score", choices=("alpha", "influence", "norm"))
    parser.add_argument("directory")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=16_384)
    options = parser.parse_args()
    logging.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr), torch.no_grad():  # libraries print
        model = AutoModelForCausalLM.from_pretrained(options.directory, dtype=torch.float32)
        scores = {"alpha": alpha, "influence": influence, "norm": norm}[options.score](model, options)
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
