"""The words of a report follow its figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from peelaudit.auditing.advice import advise, calibration_warnings, read_layer
from peelaudit.records import BaselineLosses, Estimate, LayerRow, NetworkRow, RepairInfo, Symptom, Verdict
from tests.factories import make_data, make_estimate, make_figures, make_report, make_schedule

BASELINES = BaselineLosses(10.8, make_estimate(7.2))
BEST = make_schedule("via:2", (2, 2, 4, 4), (2,), 5.0)


def network(
    verdict: Verdict = Verdict.GREEN, *, trained: float = 5.0, gap: float = 0.2, head: float = 0.0
) -> NetworkRow:
    figures = make_figures(trained, gap, head=head, verdict=verdict)
    return dataclasses.replace(make_report().network, held_out=figures)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.RED, "Train on"),
        (Verdict.YELLOW, "The layers could do 0.2000 nats/token"),
        (Verdict.GREEN, "No reference that was run beats"),
        (Verdict.GREY, "this text can't tell"),
    ],
)
def test_each_verdict_has_its_advice(verdict: Verdict, words: str) -> None:
    assert words in advise(network(verdict), BASELINES, BEST)


def test_the_layer_where_the_better_reference_departs_is_named() -> None:
    assert "at layer 1" in advise(network(Verdict.YELLOW), BASELINES, BEST)
    late = make_schedule("prefix:2", (1, 2, 4, 4), (1, 2), 5.0)
    assert "at layer 3" in advise(network(Verdict.YELLOW), BASELINES, late)


def test_a_model_worse_than_guessing_gets_no_other_advice() -> None:
    words = advise(network(Verdict.GREEN, trained=11.5), BASELINES, BEST)
    assert "broken" in words
    assert "No reference" not in words


def test_a_model_worse_than_word_counts_is_told_apart_from_a_broken_one() -> None:
    words = advise(network(Verdict.GREEN, trained=8.0), BASELINES, BEST)
    assert "token frequencies" in words
    assert "guessing all tokens alike" not in words


@pytest.mark.parametrize("trained", [11.5, 8.0])
def test_a_layer_that_its_gap_names_is_named_however_high_the_loss(trained: float) -> None:
    for named, told in (((3,), True), ((), False)):
        repair = RepairInfo("cheap", (1,) * 4, 9.5, named)
        words = advise(network(trained=trained), BASELINES, BEST, rows(0.1, 0.2, 0.9, 0.2), repair)
        assert (" Look at layer 3, whose repair alone gains 0.9000" in words) == told
        assert ("repair" in words) == told


def test_the_head_is_told_apart_from_the_layers() -> None:
    assert "head alone gains 0.1000" in advise(network(head=0.1), BASELINES, BEST)
    assert "loses 0.1000" in advise(network(head=-0.1), BASELINES, BEST)
    assert "head" not in advise(network(head=0.0), BASELINES, BEST)


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


def test_too_little_text_is_warned_of_with_how_much_would_do() -> None:
    data = make_data()
    assert calibration_warnings(data, data.fit.tokens // 10) == ()
    (words,) = calibration_warnings(data, data.fit.tokens // 5)
    total = data.fit.tokens + data.select.tokens + data.held_out.tokens
    assert str(-(-10 * (data.fit.tokens // 5) * total // data.fit.tokens)) in words


def test_a_green_says_how_far_behind_the_nearest_other_network_is() -> None:
    assert "the nearest, every:2, is 0.1200" in advise(network(Verdict.GREEN), BASELINES, BEST)
    alone = dataclasses.replace(network(Verdict.GREEN), rival=None, margin=None)
    assert "nearest" not in advise(alone, BASELINES, BEST)


def test_a_grey_whose_gap_is_sure_does_not_deny_it() -> None:
    sure = network(Verdict.GREY, gap=0.2)
    assert sure.held_out.gap_layers.low > 0
    assert "The layers could do 0.2000" in advise(sure, BASELINES, BEST)
    row = read_layer(3, sure.held_out, "via:2", 4, make_estimate(0.5, 0.01))
    assert "predicts 0.2000" in row
    assert "can't tell the trained blocks from" not in row


@pytest.mark.parametrize(
    ("named", "gaps", "words"),
    [
        ((3,), (0.1, 0.2, 0.9, 0.2), "Look at layer 3, whose repair alone gains 0.9000"),
        ((3, 1), (0.8, 0.2, 0.9, 0.2), "Look at layer 3, whose repair alone gains"),
        ((3, 1), (0.8, 0.2, 0.9, 0.2), "and layer 1, whose"),
        ((), (0.1, 0.2, 0.3, 0.2), "No layer stands out: repaired alone, they gain 0.1000 to 0.3000"),
        ((), (0.0, 0.0, 0.0, 0.0), "No layer gains anything by its repair alone"),
    ],
)
def test_the_layers_that_stand_out_are_named(named: tuple[int, ...], gaps: tuple[float, ...], words: str) -> None:
    assert words in advise(network(), BASELINES, BEST, rows(*gaps), RepairInfo("cheap", (1,) * len(gaps), 9.5, named))


def test_one_step_of_low_bit_blocks_is_told_and_nothing_made_of_it() -> None:
    repair = RepairInfo("cheap", (1, 1, 1), 9.5, (), judged=False)
    words = advise(network(), BASELINES, BEST, rows(0.1, 0.2, 0.3), repair)
    assert "Repaired alone, they gain 0.1000 to 0.3000 nats/token; that tells no layer from another" in words
    assert "stands out" not in words


def rows(*gaps: float, symptoms: Mapping[int, tuple[Symptom, ...]] = {}) -> list[LayerRow]:
    row = make_report().layers[0]
    return [
        dataclasses.replace(row, layer=k, repair_gap=make_estimate(gap, 0.01), symptoms=symptoms.get(k, ()))
        for k, gap in enumerate(gaps, 1)
    ]


def test_symptoms_are_told_whatever_the_verdict_and_not_again_by_their_gaps() -> None:
    sick = rows(0.9, 0.2, 0.2, symptoms={1: (Symptom.UNTRAINED,), 3: (Symptom.UNTRAINED, Symptom.MLP_SILENT)})
    for trained in (11.5, 8.0, 5.0):
        words = advise(network(trained=trained), BASELINES, BEST, sick)
        assert "Look at layers 1, 3: matrices that can't be told from random ones" in words
        assert "Look at layer 3: an MLP that adds nothing" in words
    words = advise(network(), BASELINES, BEST, sick, RepairInfo("cheap", (1, 1, 1), 9.5, ()))
    assert "None of the others stands out: repaired alone, they gain 0.2000 to 0.2000" in words
    assert "No layer stands out" not in words


def test_where_all_layers_are_untrained_none_is_singled_out() -> None:
    words = advise(network(), BASELINES, BEST, rows(0.1, 0.1, symptoms=dict.fromkeys((1, 2), (Symptom.UNTRAINED,))))
    assert "All layers: matrices that can't be told from random ones" in words
    assert "Look at" not in words


def test_a_layers_reading_has_its_symptoms() -> None:
    words = read_layer(3, make_figures(5.0, 0.2), "via:2", 4, make_estimate(0.5), (Symptom.ATTENTION_SILENT,))
    assert words.endswith("Block 3: an attention that adds nothing to the residual stream.")
