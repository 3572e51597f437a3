"""The refitted head beside Adam's: a line a network, and early in training it gains no less."""

from __future__ import annotations

from bench.heads import measured
from peelaudit.settings.audit import AuditConfig
from tests.places import FIXTURES


def test_a_network_in_training_gains_at_least_what_adam_gains() -> None:
    path = str(FIXTURES / "nanogpt" / "ckpt-000100.pt")
    cells = measured(AuditConfig(checkpoint=path, tokens=4096, schedules=("final",))).strip("| ").split(" | ")
    own, theirs, ours = (float(cell) for cell in cells[2:5])
    assert cells[1] == "59"
    assert ours < own - 0.05
    assert ours <= theirs + 0.01
    assert float(cells[5].split()[0]) > -0.02
