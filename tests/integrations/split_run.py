"""A training run whose weights are split over two processes, as a program of its own: `split_run.py KIND FOLDER`.

It writes what the processes found to FOLDER, one file each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import peelaudit
from peelaudit.integrations.auditing import StepAudits
from tests import lightning_runs
from tests.checkpoints import models

AUDITS: dict[str, Any] = {"tokens": 512, "seq_len": 16, "resamples": 100, "effort": "quick", "schedules": "direct"}
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
ROWS = torch.from_numpy(np.random.default_rng(0).integers(0, 64, (64, 16)))


def split(model: Any, mesh: Any) -> nn.Module:
    """The model as FSDP has it: every block's weights, and the rest's, on both processes by halves."""
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def trained(rank: int, folder: Path, mesh: Any, *, audits: StepAudits | None) -> tuple[nn.Module, dict[str, Any]]:
    """Four steps of a split network, and what it had in the end."""
    torch.manual_seed(0)
    model = split(models.model("llama", attention_dropout=0.1), mesh).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(1, 5):
        batch = ROWS[[(2 * step + rank) % len(ROWS)]]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if audits is not None:
            audits.after(step, model, first=rank == 0)
    return model, get_model_state_dict(model, options=WHOLE)


def process(rank: int, folder: Path) -> None:
    """One of the two."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/met", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    _, plain = trained(rank, folder, mesh, audits=None)
    audits = StepAudits(ROWS, every=2, **AUDITS)
    model, audited = trained(rank, folder, mesh, audits=audits)
    found: dict[str, Any] = {
        "same": all(torch.equal(weight, audited[name]) for name, weight in plain.items()),
        "losses": [report.network.held_out.trained_loss.value for report in audits.reports],
        "steps": [report.checkpoint.training_step for report in audits.reports],
    }
    whole = models.model("llama")
    flat = FullyShardedDataParallel(whole, device_id=torch.device("cpu"), use_orig_params=True)  # FSDP1
    if rank == 0:  # alone: whoever asks for a state dict waits for the other one
        found["refused"] = [refusal(model), refusal(flat)]
        found["parts"] = refusal(model, state_dict=model.state_dict())
        whole = models.model("llama")
        whole.load_state_dict(audited)
        found["whole"] = peelaudit.audit(whole, ROWS, **AUDITS).network.held_out.trained_loss.value
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def refusal(model: nn.Module, **handed: Any) -> str:
    """Of an audit of the module."""
    try:
        peelaudit.audit(model, ROWS, **handed, **AUDITS)
    except peelaudit.CheckpointError as error:
        return str(error)
    return ""


def lightnings(folder: Path) -> None:
    """The same by Lightning, which starts the other process itself."""
    import lightning.pytorch as lightning

    from peelaudit.integrations.lightning import AuditCallback

    lightning.seed_everything(0)
    callback = AuditCallback(ROWS, every=5, **AUDITS)
    trainer = lightning_runs.trainer(folder, steps=10, halves=True, callbacks=[callback])
    module = lightning_runs.module(models.model("llama"), split)
    trainer.fit(module, torch.utils.data.DataLoader(ROWS, batch_size=2))
    losses = [report.network.held_out.trained_loss.value for report in callback.reports]
    (folder / f"{trainer.global_rank}.json").write_text(json.dumps({"losses": losses}))


if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if kind == "torch":
        multiprocessing.start_processes(process, (folder,), nprocs=2, start_method="fork")  # which imports nothing anew
    else:
        lightnings(folder)
