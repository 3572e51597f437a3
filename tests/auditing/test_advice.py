"""What is advised follows the figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from peelaudit.auditing.advice import advise
from peelaudit.records import (
    BaselineLosses,
    Estimate,
    LayerRefinement,
    LayerRow,
    NetworkRow,
    Refinement,
    Symptom,
    Verdict,
)
from peelaudit.settings.audit import AuditConfig
from tests.factories import make_estimate, make_figures, make_report

BASELINES = BaselineLosses(10.8, make_estimate(7.2))
CONFIG = AuditConfig(checkpoint="runs/x.pt", data=("a.txt",), tokens=8192)
RUN = "peelaudit run runs/x.pt --data a.txt"
FLAT = Refinement(4, 6, 35.2, make_estimate(0.2, 0.02), make_estimate(0.2, 0.02))


def network(
    verdict: Verdict = Verdict.GREEN, *, trained: float = 5.0, gap: float = 0.2, head: float = 0.0, **changes: Any
) -> NetworkRow:
    """Unless told, its temperature gains nothing, and half of the text would have found as much."""
    plain = {"temperature": 1.0, "temperature_gain": make_estimate(0.0, 0.001), "refinement": FLAT, **changes}
    figures = make_figures(trained, gap, head=head, verdict=verdict)
    return dataclasses.replace(make_report().network, held_out=figures, **plain)


def rows(*gaps: float, symptoms: Mapping[int, tuple[Symptom, ...]] = {}) -> list[LayerRow]:
    row = make_report().layers[0]
    return [
        dataclasses.replace(row, layer=k, gap=make_estimate(gap, 0.01), symptoms=symptoms.get(k, ()))
        for k, gap in enumerate(gaps, 1)
    ]


def refined(*named: int, layers: int = 4, told: bool = True) -> LayerRefinement:
    return LayerRefinement((1,) * layers, (0,) * layers, 9.5, named, told)


ELSEWHERE = "peelaudit run runs/x.pt --data TEXT"
HEALTHY = rows(0.1, 0.1, 0.1, 0.1)


def advice(row: NetworkRow, layers: list[LayerRow] = HEALTHY, how: LayerRefinement | None = refined()) -> str:  # noqa: B008
    over = make_estimate(row.held_out.trained_loss.value - BASELINES.unigram.value, 0.1)
    return advise(row, BASELINES, over, layers, how, CONFIG)


@pytest.mark.parametrize(
    ("verdict", "begins", "ends"),
    [
        (
            Verdict.RED,
            "Look for what stopped its training",
            "peelaudit batch runs/x.pt NEXT --data a.txt --tokens 8192",
        ),
        (Verdict.YELLOW, "No layer stands out", "peelaudit run runs/x.pt --data TEXT"),
        (Verdict.GREEN, "Nothing to do that this text shows.", f"{RUN} --tokens 32768"),
        (Verdict.GREY, "More text narrows the interval", f"{RUN} --tokens 32768"),
    ],
)
def test_each_verdict_has_its_advice_which_ends_with_a_command(verdict: Verdict, begins: str, ends: str) -> None:
    words = advice(network(verdict))
    assert words.startswith(begins)
    assert words.endswith(f": {ends}")


def test_what_gains_most_is_said_where_none_stands_out() -> None:
    how = dataclasses.replace(refined(), leading=(3,))
    assert advice(network(Verdict.YELLOW), how=how).startswith(
        "No layer stands out, though layer 3 gains most: train it on"
    )


@pytest.mark.parametrize(
    ("temperature", "remedy"), [(1.2, "an earlier checkpoint or more data is what it wants"), (1.0, "train it on")]
)
def test_what_a_head_beats_is_told_by_whether_it_is_over_confident(temperature: float, remedy: str) -> None:
    row = network(Verdict.YELLOW, head=0.3, temperature=temperature, temperature_gain=make_estimate(0.1, 0.01))
    words = f"If this text is like that of its training, {remedy}; if not, audit it on one that is: {ELSEWHERE}"
    assert advice(row).endswith(words)


def test_what_was_left_out_is_run_next() -> None:
    words = advice(network(Verdict.GREY, refinement=None))
    assert words == f"The strongest reference was left out: {RUN} --tokens 8192 --schedules refined"
    alone = advice(network(Verdict.YELLOW), how=None)
    assert alone == f"Whether one layer is at fault, it takes more to tell: {RUN} --tokens 8192 --effort default"
    untold = advice(network(Verdict.YELLOW), how=refined(told=False))
    assert untold == f"Whether one layer is at fault, it takes more to tell: {RUN} --effort thorough --tokens 32768"


def test_a_head_that_gains_may_see_too_little() -> None:
    head = dataclasses.replace(network(Verdict.GREEN).held_out, gap_head=make_estimate(0.2))
    gains = dataclasses.replace(network(Verdict.GREEN), held_out=head)
    told = (gains, BASELINES, make_estimate(-2.2), HEALTHY, refined(), CONFIG)
    assert "too little" not in advise(*told)
    assert "Or it sees too little at a time: 32 tokens (--seq-len, with more --tokens)." in advise(*told, cut_at=32)
    healthy = (network(Verdict.GREEN), BASELINES, make_estimate(-2.2), HEALTHY, refined(), CONFIG)
    assert "too little" not in advise(*healthy, cut_at=32)


def test_a_command_without_a_text_has_none() -> None:
    words = advise(network(), BASELINES, make_estimate(-2.2), HEALTHY, refined(), dataclasses.replace(CONFIG, data=()))
    assert words.endswith("peelaudit run runs/x.pt --tokens 32768")


def test_a_model_worse_than_guessing_gets_no_other_advice() -> None:
    words = advice(network(trained=11.5, head=0.3), rows(0.9, 0.1, symptoms={1: (Symptom.UNTRAINED,)}), refined(1))
    assert words.startswith("Check the file before anything else")
    assert words.endswith("peelaudit inspect runs/x.pt --tensors")
    assert "layer" not in words


def test_a_model_worse_than_word_counts_is_told_apart_from_a_broken_one() -> None:
    words = advice(network(trained=8.0, head=0.3))
    assert words.startswith("It is untrained or damaged, or the tokenizer or the text isn't its own.")
    assert words.endswith("peelaudit run runs/x.pt --data TEXT")
    assert "head" not in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": 0.1}, "A refitted head alone gains"),
        ({"head": 0.1, "readout": "lens"}, "The readout lens alone gains"),
        ({"head": -0.1}, "The readout refit loses"),
        (
            {"temperature": 1.31, "temperature_gain": make_estimate(0.05, 0.01), "head": 0.1},
            "Its logits want a temperature of 1.31",
        ),
        ({"temperature": 1.04, "temperature_gain": make_estimate(0.05, 0.01), "head": 0.1}, "A refitted head alone"),
        ({"temperature": 1.31, "temperature_gain": make_estimate(0.005, 0.01), "head": 0.1}, "A refitted head alone"),
    ],
)
@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_head_is_told_apart_from_the_layers(verdict: Verdict, changes: dict[str, Any], words: str) -> None:
    assert advice(network(verdict, **changes)).startswith(words)
    assert "head" not in advice(network(verdict))
    assert "temperature" not in advice(network(verdict))


@pytest.mark.parametrize(
    ("gain", "half", "told"), [(0.3, 0.2, True), (0.3, 0.29, False), (0.015, 0.005, False), (0.3, None, False)]
)
def test_that_more_text_would_find_more_is_told(gain: float, half: float | None, told: bool) -> None:
    how = Refinement(4, 6, 35.2, make_estimate(gain, 0.02), None if half is None else make_estimate(half, 0.02))
    words = advice(network(Verdict.YELLOW, refinement=how))
    assert ("would gain more" in words) == told


def test_of_the_first_layer_the_embedding_below_it_is_told_too() -> None:
    words = advice(network(Verdict.YELLOW), rows(0.9, 0.2, 0.1, 0.3), refined(1))
    assert "stands out. Layer 1 makes up for the embedding too, if that is what is wrong. What repairs" in words


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_layer_that_stands_out_is_named_and_how_to_get_the_repair_is_told(verdict: Verdict) -> None:
    words = advice(network(verdict, head=0.1), rows(0.1, 0.2, 0.9, 0.3), refined(3))
    assert words.startswith("Look at layer 3: ")
    assert words.endswith(f" What repairs it can be had: {RUN} --tokens 8192 --save-repairs DIR")
    assert "head" not in words


def test_symptoms_are_told_whatever_the_verdict_and_the_loss() -> None:
    sick = rows(0.9, 0.2, 0.2, symptoms={1: (Symptom.UNTRAINED,), 3: (Symptom.UNTRAINED, Symptom.MLP_SILENT)})
    for trained in (8.0, 5.0):
        words = advice(network(trained=trained), sick, None)
        assert "Look at layers 1, 3: matrices that can't be told from random ones" in words
        assert "Look at layer 3: an MLP that adds nothing" in words
    assert words.endswith(f"What repairs it can be had: {RUN} --tokens 8192 --save-repairs DIR")


def test_where_all_layers_are_untrained_none_is_singled_out() -> None:
    words = advice(network(), rows(0.1, 0.1, symptoms=dict.fromkeys((1, 2), (Symptom.UNTRAINED,))))
    assert "All layers: matrices that can't be told from random ones" in words
    assert "Look at" not in words


def test_of_many_sick_layers_a_few_are_listed() -> None:
    sick = rows(*[0.1] * 9, symptoms=dict.fromkeys(range(1, 8), (Symptom.NOISY,)))
    assert "Look at layers 1, 2, 3, 4, 5 and more: matrices whose bulk" in advice(network(), sick)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_the_parent_does_better_is_told_with_what_says_more(verdict: Verdict) -> None:
    config = dataclasses.replace(CONFIG, parent="runs/float")
    told = (network(verdict), BASELINES, Estimate(-2.0, -2.1, -1.9))
    words = advise(*told, HEALTHY, refined(), config, better_in_parent=(3, 1))
    assert words == (
        "The parent's block does better in layers 3, 1. What was changed there: peelaudit diff runs/float runs/x.pt "
        "--data a.txt --tokens 8192"
    )
    rounded = advise(*told, HEALTHY, refined(), dataclasses.replace(config, bits="int4:g32"), better_in_parent=(3, 1))
    assert rounded == (
        "The parent's block does better in layers 3, 1. --bits int4:g32 rounds them all alike; where as many bits are "
        "worth most: peelaudit budget runs/x.pt --data a.txt --tokens 8192 --average 4"
    )
    named = advise(*told, HEALTHY, refined(2), config, better_in_parent=(3,))
    assert (
        "Look at layer 2: what refining alone gains there stands out. The parent's block does better in layer 3."
        in named
    )
    assert named.endswith("--save-repairs DIR")
