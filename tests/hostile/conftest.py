"""Sound checkpoints, to be damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import models


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return models.save(models.model("llama"), tmp_path / "llama")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return models.save(models.model("llama"), tmp_path / "sharded", max_shard_size="20KB")
