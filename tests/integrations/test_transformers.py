"""Audits within transformers' Trainer, which trains to the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from peelaudit import ConfigError
from peelaudit.integrations.transformers import AuditCallback
from peelaudit.reports.trajectory import trace
from tests.checkpoints import models

pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 50
AUDITS: dict[str, Any] = {"tokens": 512, "seq_len": 16, "resamples": 100, "effort": "quick", "schedules": "direct"}


def rows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, (256, 16))


class Told(transformers.TrainerCallback):
    """A reporter."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append((state.global_step, dict(logs)))


def trained(folder: Path, *, every: int | None) -> tuple[dict[str, torch.Tensor], Told, list[Any]]:
    transformers.set_seed(0)
    model = models.model("llama", attention_dropout=0.1)
    data = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in rows()]
    arguments = transformers.TrainingArguments(
        folder / "run",
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=10,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    told = Told()
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[told])
    reports: list[Any] = []
    if every is not None:
        callback = AuditCallback(trainer, rows(), every=every, folder=folder / "reports", **AUDITS)
        trainer.add_callback(callback)
        reports = callback.reports
    trainer.train()
    return model.state_dict(), told, reports


def test_the_weights_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    plain, told, _ = trained(tmp_path / "plain", every=None)
    audited, told_too, reports = trained(tmp_path / "audited", every=20)
    assert all(torch.equal(weight, audited[name]) for name, weight in plain.items())
    assert [report.checkpoint.training_step for report in reports] == [20, 40]
    assert reports[0].network.held_out.trained_loss != reports[1].network.held_out.trained_loss
    of_audits = [(step, logs) for step, logs in told_too.logs if "peelaudit/gap_layers" in logs]
    assert [step for step, _ in of_audits] == [20, 40]
    assert of_audits[1][1]["peelaudit/trained_loss"] == reports[1].network.held_out.trained_loss.value
    losses = [[(step, logs["loss"]) for step, logs in each.logs if "loss" in logs] for each in (told, told_too)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS // 10
    assert trace(reports).steps == (20, 40)
    saved = [json.loads(path.read_text()) for path in sorted((tmp_path / "audited/reports").iterdir())]
    assert [report["checkpoint"]["training_step"] for report in saved] == [20, 40]


def test_a_number_of_steps_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every is 0: expected a number of steps"):
        AuditCallback(None, rows(), every=0)
