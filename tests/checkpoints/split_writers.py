"""What accelerate and Lightning write of a network that is split over two processes on the CPU:
`split_writers.py KIND OUT`.

OUT/whole.pt is the gathered state dict, and OUT has the configuration.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh

from tests import lightning_runs
from tests.checkpoints.models import model
from tests.integrations.split_run import ROWS, WHOLE, split


def accelerates(rank: int, out: Path) -> None:
    """Its own function for FSDP's weights, in each way that it knows: whole, split, and each process by itself.

    An Accelerator of accelerate refuses FSDP without a GPU, so that stands here for one.
    """
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{out}/met", rank=rank, world_size=2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}  # asked for, and not used: they have met
    from accelerate import FullyShardedDataParallelPlugin, PartialState
    from accelerate.utils.fsdp_utils import save_fsdp_model

    PartialState(cpu=True)  # its logger asks for it
    whole = model("qwen2")
    if rank == 0:
        torch.save(whole.state_dict(), out / "whole.pt")
    network = split(whole, init_device_mesh("cpu", (2,)))
    process = SimpleNamespace(num_processes=2, process_index=rank, is_main_process=rank == 0)
    for kind in ("SHARDED_STATE_DICT", "FULL_STATE_DICT"):
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type=kind, cpu_ram_efficient_loading=False)
        save_fsdp_model(plugin, process, network, str(out / "checkpoint-7"))
        if kind == "SHARDED_STATE_DICT":
            save_fsdp_model(plugin, process, network, str(out / "ranks"), use_dcp=False)
    distributed.destroy_process_group()


def lightnings(out: Path) -> None:
    """Its Trainer's checkpoints, split and in one file; Lightning starts the other process itself."""
    import lightning.pytorch as lightning
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    for kind in ("split", "whole"):
        trainer = lightning_runs.trainer(out, steps=4, halves=True, whole=kind == "whole")
        lightning.seed_everything(0)
        module = lightning_runs.module(model("qwen2"), split)
        trainer.fit(module, torch.utils.data.DataLoader(ROWS, batch_size=2))
        trainer.save_checkpoint(out / f"{kind}.ckpt")
        state = get_model_state_dict(module.model, options=WHOLE)
        if trainer.global_rank == 0:
            torch.save(state, out / "whole.pt")


if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    model("qwen2").config.save_pretrained(folder)
    if kind == "accelerate":
        multiprocessing.start_processes(accelerates, (folder,), nprocs=2, start_method="fork")
    else:
        lightnings(folder)
