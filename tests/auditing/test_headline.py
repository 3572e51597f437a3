"""The verdict with all that is known of the layers, and the sentence that says it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from peelaudit.auditing.headline import judge
from peelaudit.auditing.parent import ParentFigures
from peelaudit.method.diagnosis.naming import Naming
from peelaudit.records import BaselineLosses, Estimate, LayerRefinement, NetworkRow, Symptom, Verdict
from tests.factories import make_estimate, make_figures, make_report

BASELINES = BaselineLosses(10.8, make_estimate(7.2))
BETTER, WORSE = Estimate(-2.0, -2.1, -1.9), Estimate(0.5, 0.4, 0.6)
TOLERANCE = 0.01
N = 7


def network(
    verdict: Verdict, *, trained: float = 5.0, gap: float = 0.2, head: float = 0.0, **changes: Any
) -> NetworkRow:
    """Its temperature gains nothing unless told."""
    plain = {"temperature": 1.0, "temperature_gain": make_estimate(0.0, 0.001), **changes}
    return dataclasses.replace(
        make_report().network, held_out=make_figures(trained, gap, head=head, verdict=verdict), **plain
    )


def naming(
    symptoms: dict[int, tuple[Symptom, ...]] | None = None, *named: int, refined: bool = True, told: bool = True
) -> Naming:
    found = tuple((symptoms or {}).get(layer, ()) for layer in range(1, N + 1))
    how = LayerRefinement((1,) * N, (0,) * N, 9.5, named, told) if refined else None
    return Naming(found, ({},) * N, (None,) * N, how, np.zeros(N))


def judged(row: NetworkRow, layers: Naming | None = None, over_unigram: Estimate = BETTER) -> tuple[Verdict, str]:
    return judge(row, BASELINES, over_unigram, layers or naming(), TOLERANCE)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.RED, "ineffective: blocks fitted to the last state alone beat it by 0.100 nats/token"),
        (
            Verdict.YELLOW,
            "can do better: its layers by 0.200 nats/token (0.180 to 0.218), shared by all layers",
        ),
        (
            Verdict.GREEN,
            "effective: nothing that was tried, refined among it, beats its layers by over 0.01 nats/token",
        ),
        (
            Verdict.GREY,
            "inconclusive: the gap of its layers, 0.200 nats/token (0.180 to 0.218), straddles 0.01",
        ),
    ],
)
def test_each_verdict_of_the_references_has_its_sentence(verdict: Verdict, words: str) -> None:
    assert judged(network(verdict)) == (verdict, words)


def test_a_green_of_a_low_bit_network_says_that_its_references_have_its_bits() -> None:
    how = make_report().network.refinement
    assert how is not None
    _, words = judged(network(Verdict.GREEN, refinement=dataclasses.replace(how, held=True)))
    assert words.startswith("effective: within its low-bit weights nothing that was tried, refined among it, beats")


@pytest.mark.parametrize("verdict", list(Verdict))
def test_worse_than_guessing_is_red_and_nothing_else_is_said(verdict: Verdict) -> None:
    found = judged(network(verdict, trained=11.5, head=0.3), naming({2: (Symptom.UNTRAINED,)}, 3), WORSE)
    words = (
        "broken, untrained, or not made for this tokenizer: its loss of 11.50 is worse than guessing all tokens alike "
        "(10.80)"
    )
    assert found == (Verdict.RED, words)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_worse_than_token_frequencies_is_red_and_nothing_else_is_said(verdict: Verdict) -> None:
    found = judged(network(verdict, trained=8.0, head=0.3), naming({2: (Symptom.UNTRAINED,)}, 3), WORSE)
    words = "ineffective: it predicts this text worse (8.00) than token frequencies alone do (7.20)"
    assert found == (Verdict.RED, words)


def test_token_frequencies_are_compared_sequence_by_sequence() -> None:
    """The loss's own interval is wide; that of the difference is what counts."""
    unsure = Estimate(0.5, -0.1, 1.1)
    assert judged(network(Verdict.GREEN, trained=8.0), over_unigram=unsure)[0] is Verdict.GREEN


@pytest.mark.parametrize("symptom", [Symptom.UNTRAINED, Symptom.ATTENTION_SILENT, Symptom.MLP_SILENT])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_dead_layer_is_red_whatever_the_references_say(verdict: Verdict, symptom: Symptom) -> None:
    expected = (Verdict.RED, f"ineffective; layer 3: {symptom}")
    assert judged(network(verdict), naming({3: (symptom,)})) == expected


@pytest.mark.parametrize("symptom", [Symptom.NOISY, Symptom.MISSCALED])
@pytest.mark.parametrize("verdict", [Verdict.GREEN, Verdict.GREY])
def test_a_disturbed_layer_is_yellow_where_no_reference_says_so(verdict: Verdict, symptom: Symptom) -> None:
    expected = (
        Verdict.YELLOW, f"can do better, though no whole reference gains over 0.01 nats/token; layer 3: {symptom}"
    )  # fmt: skip
    assert judged(network(verdict), naming({3: (symptom,)})) == expected


def test_a_layer_whose_gap_stands_out_is_yellow_too() -> None:
    expected = "can do better, though no whole reference gains over 0.01 nats/token; the gap of layer 3 stands out"
    assert judged(network(Verdict.GREEN), naming({}, 3)) == (Verdict.YELLOW, expected)


def test_a_yellow_with_a_layer_named_is_not_shared_by_all() -> None:
    _, words = judged(network(Verdict.YELLOW), naming({2: (Symptom.NOISY,)}, 5, 7))
    assert words == (
        "can do better: its layers by 0.200 nats/token (0.180 to 0.218); layer 2: noisy; the gap of layers 5, 7 "
        "stands out"
    )


@pytest.mark.parametrize(("leading", "words"), [((4,), "layer 4"), ((2, 4), "layers 2, 4")])
def test_a_gap_shared_by_all_layers_has_those_that_gain_most(leading: tuple[int, ...], words: str) -> None:
    found = naming()
    assert found.refinement is not None
    found = dataclasses.replace(found, refinement=dataclasses.replace(found.refinement, leading=leading))
    assert judged(network(Verdict.YELLOW), found)[1].endswith(f", shared by all layers, most in {words}")
    assert judged(network(Verdict.GREEN), found) == judged(network(Verdict.GREEN))


@pytest.mark.parametrize("verdict", [Verdict.GREEN, Verdict.GREY])
def test_what_one_layer_alone_gains_is_no_green(verdict: Verdict) -> None:
    """SmolLM2 in 4 bits: all blocks at once gained nothing, each alone up to 0.155."""
    gaps = (*[make_estimate(0.05, 0.01)] * (N - 1), make_estimate(0.155, 0.013))
    found = dataclasses.replace(naming(), gaps=gaps, strongest=N)
    gains = f"layer {N} refined alone gains 0.155 nats/token (0.142 to 0.167), more than any whole reference"
    assert judged(network(verdict), found) == (Verdict.YELLOW, f"can do better: {gains}, shared by all layers")
    little = dataclasses.replace(found, strongest=1, gaps=(make_estimate(0.015, 0.01), *gaps[1:]))
    assert judged(network(verdict), little) == judged(network(verdict))


def test_a_red_names_the_layers_too() -> None:
    _, words = judged(network(Verdict.RED), naming({2: (Symptom.NOISY,)}))
    assert words.endswith("beat it by 0.100 nats/token; layer 2: noisy")


@pytest.mark.parametrize("options", [{"refined": False}, {"told": False}])
def test_whether_layers_share_a_gap_is_not_said_where_that_cannot_be_told(options: dict[str, bool]) -> None:
    _, words = judged(network(Verdict.YELLOW), naming(**options))
    assert words == "can do better: its layers by 0.200 nats/token (0.180 to 0.218)"


def test_without_refined_nothing_is_effective() -> None:
    words = "inconclusive: no reference wins, but refined, the strongest, was not run"
    assert judged(network(Verdict.GREEN, refinement=None)) == (Verdict.GREY, words)
    assert judged(network(Verdict.YELLOW, refinement=None))[0] is Verdict.YELLOW
    assert "straddles" in judged(network(Verdict.GREY, refinement=None))[1]


@pytest.mark.parametrize(
    ("symptoms", "words"),
    [
        (dict.fromkeys(range(1, N + 1), (Symptom.UNTRAINED,)), "; all layers: untrained"),
        (dict.fromkeys(range(1, N), (Symptom.UNTRAINED,)), "; layers 1, 2, 3, 4, 5 and more: untrained"),
        (dict.fromkeys((2, 4), (Symptom.MLP_SILENT,)), "; layers 2, 4: MLP silent"),
        (
            {2: (Symptom.UNTRAINED, Symptom.MLP_SILENT), 4: (Symptom.UNTRAINED,)},
            "; layers 2, 4: untrained; layer 2: MLP silent",
        ),
    ],
)
def test_layers_are_listed_by_symptom(symptoms: dict[int, tuple[Symptom, ...]], words: str) -> None:
    assert judged(network(Verdict.GREEN), naming(symptoms))[1] == f"ineffective{words}"


HOT = {"temperature": 1.31, "temperature_gain": make_estimate(0.052, 0.01)}


@pytest.mark.parametrize("verdict", [Verdict.YELLOW, Verdict.GREEN, Verdict.GREY])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (HOT, "; over-confident (a temperature of 1.31 gains 0.052)"),
        # A figure that the tolerance covers, or whose interval reaches into it, isn't told.
        ({"head": 0.015}, ""),
        ({**HOT, "temperature_gain": make_estimate(0.015, 0.01)}, ""),
        ({"head": -0.1}, ""),
    ],
)
def test_what_is_the_heads_is_said_last(verdict: Verdict, changes: dict[str, Any], words: str) -> None:
    plain, found = judged(network(verdict)), judged(network(verdict, **changes))
    assert found == (verdict, plain[1] + words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "; another head alone would gain 0.100"),
        (HOT, "; another head alone would gain 0.100; over-confident (a temperature of 1.31 gains 0.052)"),
        ({**HOT, "temperature": 1.04}, "; another head alone would gain 0.100"),
    ],
)
def test_a_head_that_gains_beside_the_layers_is_said_last(changes: dict[str, Any], words: str) -> None:
    plain, found = judged(network(Verdict.YELLOW)), judged(network(Verdict.YELLOW, head=0.1, **changes))
    assert found == (Verdict.YELLOW, plain[1] + words)


@pytest.mark.parametrize(("changes", "hot"), [({}, ""), (HOT, "; over-confident (a temperature of 1.31 gains 0.052)")])
@pytest.mark.parametrize("verdict", [Verdict.GREEN, Verdict.GREY])
@pytest.mark.parametrize("refined", [True, False])
def test_a_network_that_another_head_beats_is_not_green(
    refined: bool, verdict: Verdict, changes: dict[str, Any], hot: str
) -> None:
    """A network that was trained too little is beaten by that alone: its blocks can't learn from so few tokens."""
    without = {} if refined else {"refinement": None}
    _, plain = judged(network(verdict, **without))
    found = judged(network(verdict, head=0.1, **changes, **without))
    words = plain.partition(": ")[2]
    assert found == (
        Verdict.YELLOW,
        f"can do better: another head alone by 0.100 nats/token (0.090 to 0.109); {words}{hot}",
    )


def test_a_red_says_nothing_of_the_head() -> None:
    assert "head" not in judged(network(Verdict.RED, head=0.3))[1]


def test_the_tolerance_is_told() -> None:
    found = judge(network(Verdict.GREEN), BASELINES, BETTER, naming(), 0.25)
    assert "effective" in found[1]
    assert "over 0.25 nats/token" in found[1]
    assert judge(network(Verdict.GREEN, head=0.1), BASELINES, BETTER, naming(), 0.25) == found


def test_an_estimate_for_floats_says_nothing_of_a_low_bit_networks_verdict() -> None:
    row = network(Verdict.GREEN, refinement=None, estimated_gain=make_estimate(0.2))
    verdict, words = judge(row, BASELINES, BETTER, naming(refined=False), TOLERANCE)
    assert (verdict, words.split(":")[0]) == (Verdict.YELLOW, "can do better")
    verdict, words = judge(row, BASELINES, BETTER, naming(refined=False), TOLERANCE, low_bit=True)
    assert (verdict, words.split(":")[0]) == (Verdict.GREY, "inconclusive")
    assert "as floats its layers could do better by 0.200" in words


@pytest.mark.parametrize(
    ("better", "words"),
    [
        ((), ""),
        ((3,), "; its parent's block does better in layer 3 by 0.300 nats/token (0.280 to 0.318)"),
        (
            (3, 1, 2),
            "; its parent's block does better in layer 3 by 0.300 nats/token (0.280 to 0.318), less so in 2 more",
        ),
    ],
)
@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_is_lost_to_the_parents_blocks_is_said_and_no_verdict(
    verdict: Verdict, better: tuple[int, ...], words: str
) -> None:
    gaps = tuple(make_estimate(0.1 * layer, 0.02) for layer in range(1, N + 1))
    parent = ParentFigures(make_estimate(4.8), make_estimate(0.2), gaps, ((0.1, 0.2),) * N, better)
    plain = judged(network(verdict))
    found = judge(network(verdict), BASELINES, BETTER, naming(), TOLERANCE, parent=parent)
    assert found == (plain[0], plain[1] + words)
