"""Audits within Lightning's Trainer.

trainer = Trainer(callbacks=[AuditCallback(texts, tokenizer=tokenizer, every=500)])
trainer.fit(module)
"""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from peelaudit.integrations.auditing import StepAudits
from peelaudit.library import Report

__all__ = ["AuditCallback"]


class AuditCallback(Callback):  # type: ignore[misc, unused-ignore]
    """Audits the network every so many optimizer steps; training goes on as it would without.

    The network is the module's `model`, or the module itself. The figures go to all of the trainer's loggers, as
    `peelaudit/gap_layers` and the like.

    Args:
        data: text or token ids, see `peelaudit.audit`.
        every: how many steps lie between two audits.
        folder: where each report is written as JSON; nowhere if None.
        **settings: of the audits.
    """

    def __init__(self, data: Any, *, every: int, folder: str | os.PathLike[str] | None = None, **settings: Any) -> None:
        self._audits = StepAudits(data, every=every, folder=folder, **settings)

    @property
    def reports(self) -> list[Report]:
        """Those made so far."""
        return self._audits.reports

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Audit the network, on the first process alone."""
        wrapped = trainer.strategy.model
        model = pl_module if wrapped is None else wrapped
        figures = self._audits.after(trainer.global_step, model, first=trainer.is_global_zero)
        if figures is None:
            return
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)
