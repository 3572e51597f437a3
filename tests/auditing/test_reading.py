"""The reading of a depth follows its figures."""

from __future__ import annotations

import pytest

from peelaudit.auditing.reading import read_layer
from peelaudit.records import Estimate, LayerSigns, Symptom, Verdict
from tests.factories import make_estimate, make_figures


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_layers_reading_says_its_number_and_is_a_sentence(verdict: Verdict) -> None:
    words = read_layer(3, make_figures(5.0, 0.2, verdict=verdict), "via:2", 4, make_estimate(0.5, 0.01))
    assert words.startswith("Cut after layer 3, ")
    assert words.endswith(".")
    assert "hardly" not in words


def test_an_idle_block_is_called_idle() -> None:
    words = read_layer(3, make_figures(5.0, 0.2), "via:2", 4, Estimate(0.002, 0.001, 0.003))
    assert "0.20%" in words
    assert "hardly does anything" in words


def test_a_grey_row_whose_gap_is_sure_does_not_deny_it() -> None:
    figures = make_figures(5.0, 0.2, verdict=Verdict.GREY)
    assert figures.gap_layers.low > 0
    row = read_layer(3, figures, "via:2", 4, make_estimate(0.5, 0.01))
    assert "predicts 0.2000" in row
    assert "can't tell the trained blocks from" not in row


def test_a_layers_reading_has_its_symptoms() -> None:
    words = read_layer(3, make_figures(5.0, 0.2), "via:2", 4, make_estimate(0.5), (Symptom.ATTENTION_SILENT,))
    assert words.endswith("Block 3: an attention that adds nothing to the residual stream, or the same to every token.")


def test_experts_that_are_dead_or_untrained_are_numbered() -> None:
    signs = LayerSigns(1.0, 1.0, 99.0, experts=8, dead=(3,), random_experts=(3, 5))
    words = read_layer(
        2, make_figures(5.0, 0.2), "via:2", 4, make_estimate(0.5), (Symptom.EXPERT_UNTRAINED,), signs=signs
    )
    assert words.endswith(
        " That is experts 3, 5 (of 0 to 7). No calibration token reaches expert 3 (of 0 to 7) of block 2."
    )
