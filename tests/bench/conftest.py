"""Texts that the studies train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.grammar import calibration_text


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One to train on and one to judge by."""
    folder = tmp_path_factory.mktemp("texts")
    paths = folder / "train.txt", folder / "test.txt"
    for seed, path in enumerate(paths):
        path.write_text(calibration_text(seed, 20_000), encoding="utf-8")
    return paths
