"""The gate on real audits: a layer that was rolled back is caught and named, a healthy twin is left alone.

One re-draw of what `bench/regression_gate.py` measures on many.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.regression_gate import NAMING_RULE, Bench, rolled_back, twin
from peelaudit.records import Outcome


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder: Path = tmp_path_factory.mktemp("bench")
    return Bench(folder)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [1, 3])
def test_a_layer_that_was_rolled_back_is_caught_and_named(layer: int, bench: Bench) -> None:
    outcomes, named = bench.judge(rolled_back(bench.healthy, layer, 600), seed=0)
    assert (outcomes[NAMING_RULE], named) == (Outcome.FAILED, layer)


def test_it_is_named_by_the_losses_where_every_layers_weights_differ(bench: Bench) -> None:
    outcomes, named = bench.judge(rolled_back(twin(bench.healthy, seed=0), 3, 600), seed=0)
    assert (outcomes[NAMING_RULE], named) == (Outcome.FAILED, 3)


def test_a_healthy_twin_passes(bench: Bench) -> None:
    outcomes, _ = bench.judge(twin(bench.healthy, seed=0), seed=0)
    assert outcomes[NAMING_RULE] is Outcome.PASSED
