"""Bits given out, by the library: what was found keeps its promises, on tiny networks and on fixtures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from peelaudit.auditing.budgeting import Wish, budget
from peelaudit.errors import ConfigError, UnsupportedCheckpoint
from peelaudit.records.budget import Budget
from peelaudit.records.json import dump, load
from peelaudit.settings.audit import AuditConfig
from tests.checkpoints import models
from tests.places import FIXTURES, NANOGPT

TEXT = NANOGPT / "calibration.txt"
TABLE = NANOGPT / "meta.pkl"


def given(
    path: Path,
    average: float = 3,
    widths: tuple[int, ...] = (2, 3, 4),
    *,
    passes: float = np.inf,
    named: bool = False,
    **changes: object,
) -> Budget:
    settings = {"data": (TEXT,), "tokens": 1024, "seq_len": 32, "resamples": 100, "tokenizer": TABLE} | changes
    return budget(AuditConfig(checkpoint=path, **settings), Wish(average, widths, 16, passes, named))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network that depends on one of its matrices far more than on the others."""
    made = models.model("llama", vocab_size=128, num_hidden_layers=3, tie_word_embeddings=True)
    with torch.no_grad():
        for layer in made.model.layers:
            for weight in layer.parameters():
                if weight.ndim == 2:
                    weight *= 0.3
        made.model.layers[1].mlp.down_proj.weight *= 40
        made.model.layers[1].mlp.up_proj.weight *= 4
    return models.save(made, tmp_path_factory.mktemp("network"))


def test_a_matrix_that_matters_is_given_the_bits_of_others(folder: Path) -> None:
    found = given(folder)
    bits = {(row.layer, row.name): row.bits for row in found.rows}
    assert len(bits) == 3 * 7
    assert bits[2, "mlp.down_proj"] == 4
    assert min(bits.values()) == 2
    assert found.kl_gain.low > 0
    assert found.chosen.kl.value < found.spread.kl.value / 2


def test_the_budget_is_kept_and_the_figures_belong_together(folder: Path) -> None:
    found = given(folder, 2.7)
    weights = sum(row.weights for row in found.rows)
    for one, each in ((found.chosen, "bits"), (found.spread, "spread")):
        assert one.bits == pytest.approx(sum(row.weights * getattr(row, each) for row in found.rows) / weights)
        assert one.bits <= 2.7
        assert one.with_scales - one.bits == pytest.approx(16 / 16)
        assert one.cost.value == pytest.approx(one.loss.value - found.float_loss.value, abs=1e-9)
    assert found.gain.value == pytest.approx(found.spread.loss.value - found.chosen.loss.value, abs=1e-9)
    assert found.kl_gain.value == pytest.approx(found.spread.kl.value - found.chosen.kl.value, abs=1e-9)
    assert {row.spread for row in found.rows} == {2, 3}
    assert all([one.bits for one in row.alone] == [2, 3, 4] for row in found.rows)


def test_a_matrix_moves_the_predictions_less_with_more_bits(folder: Path) -> None:
    for row in given(folder, tokens=512, dtype="float64").rows:
        two, _, four = (one.kl.value for one in row.alone)
        assert two > four > 0


def test_the_wanted_average_everywhere_where_nothing_else_is_within_it(folder: Path) -> None:
    found = given(folder, 2)
    assert {row.bits for row in found.rows} == {2}
    assert found.gain.value == found.kl_gain.value == 0
    assert "2 bits everywhere, for no other way" in found.headline
    with pytest.raises(ConfigError, match=r"an average of 1\.5 bits is below the narrowest width, 2"):
        given(folder, 1.5)


def test_few_passes_measure_on_fewer_sequences(folder: Path) -> None:
    every, some = given(folder, tokens=4096), given(folder, tokens=4096, passes=6)
    assert every.sequences == every.of == some.of
    assert 4 < some.sequences < some.of
    assert dict(some.passes)["round each matrix alone"] == pytest.approx(6, rel=0.15)
    assert some.spread == every.spread  # what is held out is whole either way


def test_a_fixture_s_predictions_move_less_than_with_bits_given_out_evenly() -> None:
    found = given(FIXTURES / "llama", 2.4, data=(), tokenizer=None, seq_len=64, tokens=6144, passes=6)
    assert found.kl_gain.low > 0
    assert len({row.bits for row in found.rows}) > 1


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "mixtral", "deepseek_v3"])
def test_every_structure_is_rounded(family: str, tmp_path: Path) -> None:
    path = models.save(models.model(family, vocab_size=128), tmp_path)
    found = given(path, 3, (2, 3, 4), tokens=512, named=True)
    assert found.chosen.bits <= 3
    assert all(row.gguf for row in found.rows)


def test_a_low_bit_network_is_refused() -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"low-bit already \(28 ternary per tensor, of 28 matrices\)"):
        given(FIXTURES / "llama-ternary", data=(), tokenizer=None)


def test_names_that_are_needed_and_not_known_are_an_error_before_anything_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UnsupportedCheckpoint, match="needs the gguf library"):
        given(folder, named=True)
    assert not any(row.gguf for row in given(folder, tokens=512).rows)


def test_it_comes_back_from_json(folder: Path) -> None:
    found = given(folder, tokens=512)
    assert load(dump(found, Budget), Budget) == found
