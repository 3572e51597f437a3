"""Networks to mend: tokens that tell of the next ones, and transformers' own loss on those that are held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional as F

from peelaudit.calibration import load_calibration
from peelaudit.checkpoints import open_checkpoint
from peelaudit.settings.audit import AuditConfig

SMALL: dict[str, Any] = {"tokens": 2560, "seq_len": 16, "resamples": 100, "effort": "quick"}


def tokens(folder: Path, vocabulary: int = 64) -> Path:
    """Ids of which each tells much of the next."""
    draw = np.random.default_rng(0)
    follows, ids = draw.permutation(vocabulary), np.zeros(6000, dtype=np.uint16)
    for at in range(1, len(ids)):
        ids[at] = follows[ids[at - 1]] if draw.random() < 0.8 else draw.integers(vocabulary)
    np.save(folder / "tokens.npy", ids)
    return folder / "tokens.npy"


def wish_for(path: Path, folder: Path, **settings: Any) -> AuditConfig:
    return AuditConfig(checkpoint=path, data=tokens(folder), **{**SMALL, **settings})


def transformers_loss(folder: Path, config: AuditConfig) -> float:
    """nats/token of transformers' own forward on the held-out tokens."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return loss_of(loaded, config)


@torch.no_grad()
def loss_of(model: Any, config: AuditConfig) -> float:
    with open_checkpoint(config.checkpoint, config=config.config) as checkpoint:
        held_out = torch.from_numpy(load_calibration(config, checkpoint.info).held_out.tokens)
    logits = model(held_out, use_cache=False).logits[:, :-1]
    return float(F.cross_entropy(logits.flatten(0, 1).double(), held_out[:, 1:].flatten()))
