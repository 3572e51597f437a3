"""What audits within a training loop have in common, whichever library's loop it is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peelaudit import audit
from peelaudit.checkpoints.split import gathered, is_split
from peelaudit.errors import ConfigError

if TYPE_CHECKING:
    from torch.nn import Module

    from peelaudit.library import Report

__all__ = ["StepAudits"]

_PREFIX = "peelaudit/"


class StepAudits:
    """Audits of one network at some steps of its training.

    Attributes:
        reports: those made so far, each of whose checkpoint has its step.

    Args:
        data: text or token ids, see `peelaudit.audit`.
        every: how many steps lie between two audits.
        folder: where each report is written as JSON, `step-00000100.json`; nowhere if None.
        **settings: of the audits.
    """

    def __init__(self, data: Any, *, every: int, folder: str | os.PathLike[str] | None = None, **settings: Any) -> None:
        if type(every) is not int or every < 1:
            raise ConfigError(f"every is {every!r}: expected a number of steps, 1 or more")
        self.reports: list[Report] = []
        self._data, self._every, self._settings = data, every, settings
        self._folder = None if folder is None else Path(folder)
        self._last = 0

    def after(self, step: int, model: Module, *, first: bool) -> dict[str, float] | None:
        """Audit the network if it is time, on the first process; the figures that a logger is told, by their names.

        Args:
            step: how many steps were made.
            model: the network. Where it is split over processes, all of them must call this, and the weights are
                gathered.
            first: whether this is the first process.

        Raises:
            PeelauditError: as `peelaudit.audit`.
            OutputError: the report couldn't be written.
        """
        if step == self._last or step % self._every:
            return None
        self._last = step
        state = gathered(model) if is_split(model) else None
        return self._audited(model, state, step) if first else None

    def _audited(self, model: Module, state: Mapping[str, Any] | None, step: int) -> dict[str, float]:
        report = audit(model, self._data, state_dict=state, **self._settings)
        report = dataclasses.replace(report, checkpoint=dataclasses.replace(report.checkpoint, training_step=step))
        self.reports.append(report)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            report.save(self._folder / f"step-{step:08}.json")
        held_out = report.network.held_out
        figures = {name: getattr(held_out, name).value for name in ("trained_loss", "gap_head", "gap_layers")}
        gaps = [row.gap.value for row in report.layers if row.gap is not None]
        if gaps:
            figures |= {"largest_layer_gap": max(gaps), "largest_layer": float(1 + gaps.index(max(gaps)))}
        figures["named_layers"] = float(len(report.named))
        return {f"{_PREFIX}{name}": value for name, value in figures.items()}
