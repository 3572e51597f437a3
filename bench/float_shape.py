"""A float network of another one's shape, for what needs floats where that one has few values.

    python -m bench.float_shape MODEL --data TEXT --out DIR [--steps N]

MODEL's embedding and norms, its blocks' matrices drawn anew, trained to its own predictions (KL) on the first 60 % of
TEXT; DIR is a Hugging Face directory, with the rest of TEXT beside it as rest.txt, which nothing was trained on. One
thread, so that the same machine makes the same weights.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

TRAINED = 0.6
"""Of the text."""
ROWS, CONTEXT = 16, 128
WARM, LAST = 20, 0.02
"""Steps of warming up, and the last step's share of the largest."""
MATRICES, OTHERS = 4e-3, 1e-3
"""AdamW's step of the blocks' matrices, and of all else."""
WRITERS = ("o_proj.weight", "down_proj.weight")


def redrawn(model: Any, generator: torch.Generator) -> list[Tensor]:
    """Draw the matrices of its blocks anew, those that write to the residual stream smaller; these."""
    found = [(name, weight) for name, weight in model.named_parameters() if weight.ndim == 2 and ".layers." in name]
    with torch.no_grad():
        for name, weight in found:
            size = weight.shape[1] ** -0.5 * (0.3 if name.endswith(WRITERS) else 1.0)
            weight.copy_(torch.randn(weight.shape, generator=generator) * size)
    return [weight for _, weight in found]


def optimiser(model: Any, matrices: list[Tensor]) -> torch.optim.AdamW:
    drawn = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in drawn]
    groups = [
        {"params": matrices, "largest": MATRICES, "weight_decay": 0.05},
        {"params": others, "largest": OTHERS, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=OTHERS, betas=(0.9, 0.98), eps=1e-12)


def train(model: Any, teacher: Any, tokens: Tensor, steps: int, generator: torch.Generator) -> None:
    """To the teacher's predictions."""
    stepper = optimiser(model, redrawn(model, generator))
    for step in range(steps):
        share = min(1, (step + 1) / WARM) * (LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in stepper.param_groups:
            group["lr"] = group["largest"] * share
        at = torch.randint(len(tokens) - CONTEXT, (ROWS,), generator=generator)
        rows = tokens[at[:, None] + torch.arange(CONTEXT)]
        with torch.no_grad():
            wanted = teacher(rows).logits.log_softmax(-1)
        own = model(rows).logits.log_softmax(-1)
        distance = (wanted.exp() * (wanted - own)).sum(-1).mean()
        stepper.zero_grad()
        distance.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        stepper.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step}: KL {float(distance.detach()):.3f}", flush=True)


def loss(model: Any, tokens: Tensor, rows: int = 64) -> float:
    """nats/token of the first rows."""
    first = tokens[: rows * CONTEXT].view(rows, CONTEXT)
    with torch.no_grad():
        return float(F.cross_entropy(model(first).logits[:, :-1].flatten(0, 1), first[:, 1:].flatten()))


def main() -> None:
    """Train, save, and print the losses on the rest of the text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=320)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = options.data.read_text(encoding="utf-8")
    cut = int(len(text) * TRAINED)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokens, rest = (
        torch.tensor(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (text[:cut], text[cut:])
    )
    teacher, model = (AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32) for _ in range(2))
    train(model, teacher.eval(), tokens, options.steps, torch.Generator().manual_seed(0))
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    (options.out / "rest.txt").write_text(text[cut:], encoding="utf-8")
    print(f"on the rest: {loss(teacher, rest):.3f} of {options.model}, {loss(model, rest):.3f} of {options.out}")


if __name__ == "__main__":
    main()
