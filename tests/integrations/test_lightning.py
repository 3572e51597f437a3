"""Audits within Lightning's Trainer, which trains to the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.checkpoints import models

lightning = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")
AUDITS: dict[str, Any] = {"tokens": 512, "seq_len": 16, "resamples": 100, "effort": "quick", "schedules": "direct"}


def trained(folder: Path, *, every: int | None) -> tuple[dict[str, torch.Tensor], list[Any], list[dict[str, str]]]:
    from lightning.pytorch.loggers import CSVLogger

    from peelaudit.integrations.lightning import AuditCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = models.model("llama", attention_dropout=0.1)

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            return self.model(batch, labels=batch).loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    lightning.seed_everything(0)
    module = Module()
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 64, (256, 16)))
    callbacks = [] if every is None else [AuditCallback(rows, every=every, **AUDITS)]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=50,
        logger=CSVLogger(folder),
        callbacks=callbacks,
        accumulate_grad_batches=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=2, shuffle=True))
    (logged,) = folder.rglob("metrics.csv") if every else (None,)
    text = "" if logged is None else logged.read_text()
    return module.state_dict(), callbacks[0].reports if callbacks else [], text.splitlines()


def test_the_weights_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    plain, _, _ = trained(tmp_path / "plain", every=None)
    audited, reports, logged = trained(tmp_path / "audited", every=20)
    assert all(torch.equal(weight, audited[name]) for name, weight in plain.items())
    assert [report.checkpoint.training_step for report in reports] == [20, 40]
    assert "peelaudit/gap_layers" in logged[0]
    assert len(logged) == 3
