"""One process of a small training run under DeepSpeed, on the CPU.

    python -m tests.checkpoints.deepspeed_run RANK RANKS PORT STAGE DTYPE OUT

After three steps it saves a checkpoint under OUT as DeepSpeed does it, and OUT/whole.pt is the gathered state dict. The
embedding is tied to the head, and the first block is frozen but in ZeRO stage 3.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from tests.checkpoints.models import model

RANKS = 2


def train(engine: Any, rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    for _ in range(3):
        ids = torch.randint(0, 64, (2, 16), generator=generator)
        loss = engine(input_ids=ids, labels=ids).loss
        engine.backward(loss)
        engine.step()


def main(rank: int, ranks: int, port: int, stage: int, dtype: str, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    import deepspeed  # it looks at the environment

    torch.set_num_threads(1)
    module = model("qwen2")
    for parameter in module.model.layers[0].parameters():
        parameter.requires_grad = stage == 3
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": stage},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "bf16": {"enabled": dtype == "bfloat16"},
    }
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(model=module, config=config, model_parameters=trained, dist_init_required=True)
    train(engine, rank)
    engine.save_checkpoint(str(out))
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters()), enabled=stage == 3):
        if rank == 0:
            torch.save({name: tensor.clone() for name, tensor in engine.module.state_dict().items()}, out / "whole.pt")
            module.config.save_pretrained(out)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), sys.argv[5], Path(sys.argv[6]))
