"""The batch's bench on one checkpoint: both of what it compares run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.batch import bare, batch
from tests.fleet.support import write_model


@pytest.mark.slow
def test_audits_run_bare_and_in_a_batch(tmp_path: Path) -> None:
    paths = [str(write_model(tmp_path / f"run/{seed}.pt", seed=seed, layers=1)) for seed in range(2)]
    assert bare(paths) > 0
    assert batch(paths, tmp_path / "results") > 0
    assert len(list((tmp_path / "results/reports").iterdir())) == 2
