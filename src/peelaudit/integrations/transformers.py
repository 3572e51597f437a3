"""Audits within transformers' Trainer.

trainer = Trainer(model, ...)
trainer.add_callback(AuditCallback(trainer, texts, tokenizer=tokenizer, every=500))
trainer.train()
"""

from __future__ import annotations

import os
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from peelaudit.integrations.auditing import StepAudits
from peelaudit.library import Report

__all__ = ["AuditCallback"]


class AuditCallback(TrainerCallback):  # type: ignore[misc]  # transformers isn't followed
    """Audits the network every so many optimizer steps; training goes on as it would without.

    The figures go to whatever the trainer reports to, as `peelaudit/gap_layers` and the like.

    Args:
        trainer: whose callback this will be.
        data: text or token ids, see `peelaudit.audit`.
        every: how many steps lie between two audits.
        folder: where each report is written as JSON; nowhere if None.
        **settings: of the audits.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: Any,
        *,
        every: int,
        folder: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        self._trainer, self._audits = trainer, StepAudits(data, every=every, folder=folder, **settings)

    @property
    def reports(self) -> list[Report]:
        """Those made so far."""
        return self._audits.reports

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Audit the network, on the first process alone."""
        figures = self._audits.after(state.global_step, kwargs["model"], first=state.is_world_process_zero)
        if figures is None:
            return
        logs = control.should_log  # which a log of one's own would take for done
        self._trainer.log(figures)
        control.should_log = logs
