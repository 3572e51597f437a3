"""A Lightning module that trains a language model, and a Trainer that says and keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["module", "trainer"]


def module(network: nn.Module, split: Callable[[nn.Module, Any], object] | None = None, **hyperparameters: Any) -> Any:
    """The module. With `split` its weights are split over the strategy's mesh; hyperparameters are saved with it."""
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters(hyperparameters)
            self.model = network

        def configure_model(self) -> None:
            if split is not None:
                split(self.model, self.device_mesh["data_parallel"])

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            return self.model(input_ids=batch, labels=batch).loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    return Module()


def trainer(folder: Path, *, steps: int, halves: bool = False, whole: bool = True, **options: Any) -> Any:
    """A Trainer for some steps on the CPU; with `halves` over two processes, its checkpoints in one file if `whole`."""
    import lightning.pytorch as lightning
    from lightning.pytorch.strategies import ModelParallelStrategy

    if halves:
        strategy = ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=not whole
        )
        options = {"devices": 2, "strategy": strategy, **options}
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
