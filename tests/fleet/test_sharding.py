"""Shards are disjoint and complete, and SLURM's array is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.errors import ConfigError
from peelaudit.fleet.sharding import Shard, parse_shard


@given(st.integers(0, 50), st.integers(1, 12))
def test_disjoint_complete_and_even(tasks: int, count: int) -> None:
    parts = [Shard(index, count).of(range(tasks)) for index in range(1, count + 1)]
    assert sorted(task for part in parts for task in part) == list(range(tasks))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def slurm(**values: int) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("text", "environ", "shard"),
    [
        (None, {}, Shard(1, 1)),
        ("2/3", {}, Shard(2, 3)),
        (None, slurm(ID=0, COUNT=4, MIN=0), Shard(1, 4)),
        (None, slurm(ID=7, COUNT=4, MIN=4), Shard(4, 4)),
        (None, slurm(ID=8, COUNT=4, MIN=0, STEP=4), Shard(3, 4)),
        ("1/1", slurm(ID=7, COUNT=4, MIN=4), Shard(1, 1)),
    ],
)
def test_shards(text: str | None, environ: dict[str, str], shard: Shard) -> None:
    assert parse_shard(text, environ) == shard


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/0", "-1/2", "1/2/3", " 1/2", "1/99999999999"])
def test_no_shards(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard is"):
        parse_shard(text, {})


@pytest.mark.parametrize(
    "environ",
    [slurm(ID=7, COUNT=3, MIN=1), slurm(ID=3, COUNT=4, MIN=0, STEP=2), slurm(ID=3), slurm(ID=0, COUNT=2, MIN=1)],
)
def test_an_array_that_is_no_range(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--shard"):
        parse_shard(None, environ)
