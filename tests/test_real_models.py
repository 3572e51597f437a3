"""Whole audits of the real models beside the repository, where they are at hand."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import peelaudit
from peelaudit.calibration import load_calibration
from peelaudit.checkpoints import open_checkpoint
from peelaudit.cli import main
from peelaudit.records import AuditReport, Verdict
from peelaudit.records.json import parse_report
from peelaudit.settings.audit import AuditConfig
from tests.calibration.support import shared

pytestmark = pytest.mark.slow


@cache
def audited(name: str, **settings: Any) -> AuditReport:
    return peelaudit.audit(shared(f"models/{name}"), shared("data/tinystories.txt"), **settings)


@pytest.mark.parametrize("name", ["stories260K", "stories260K-broken", "bitllama-3M"])
def test_the_trained_loss_is_that_of_transformers_on_the_same_tokens(name: str) -> None:
    folder, settings = shared(f"models/{name}"), {"tokens": 8192}
    report = audited(name, effort="quick", **settings)
    config = AuditConfig(checkpoint=str(folder), data=(str(shared("data/tinystories.txt")),), **settings)
    with open_checkpoint(folder) as checkpoint:
        calibration = load_calibration(config, checkpoint.info)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for figures, split in ((report.network.fit, calibration.fit), (report.network.held_out, calibration.held_out)):
        tokens = torch.from_numpy(split.tokens)
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[:, :-1].double()
        theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        assert figures.trained_loss.value == pytest.approx(float(theirs), abs=1e-4)


def test_a_healthy_model_is_not_called_broken() -> None:
    report = audited("stories260K", tokens=8192)
    assert 1.3 < report.network.held_out.trained_loss.value < 2.0  # 1.54 with all of its context
    assert report.network.held_out.trained_loss.high < report.baselines.unigram.low
    assert report.verdict is not Verdict.RED
    assert "broken" not in report.headline


def test_scrambled_weights_are_called_broken_in_the_report_and_in_the_table(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, data = shared("models/stories260K-broken"), shared("data/tinystories.txt")
    target = tmp_path / "report.json"
    arguments = [
        "run",
        str(folder),
        "--data",
        str(data),
        "--tokens",
        "8192",
        "-q",
        "--effort",
        "quick",
        "-o",
        str(target),
    ]
    assert main(arguments) == 0
    report = parse_report(target.read_text())
    assert report.network.held_out.trained_loss.low > report.baselines.uniform == pytest.approx(math.log(512))
    assert report.verdict is Verdict.RED
    assert report.headline.startswith("broken, untrained, or not made for this tokenizer")
    table = capfd.readouterr().out
    assert "broken" in table
    assert "Check the file before anything else" in " ".join(table.split())
