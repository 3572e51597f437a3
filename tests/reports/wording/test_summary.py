"""What a report's page says, before any format draws it."""

from __future__ import annotations

import dataclasses

import pytest

from peelaudit.records import AuditReport, BaselineLosses, Estimate, Symptom
from peelaudit.reports.wording.summary import equation, growth_words, is_broken, layer_lines, subject
from tests.factories import make_estimate, make_report, with_gaps, with_parent


def with_symptoms(report: AuditReport, layer: int, *symptoms: Symptom) -> AuditReport:
    rows = [
        dataclasses.replace(row, symptoms=symptoms if row.layer == layer else row.symptoms) for row in report.layers
    ]
    return dataclasses.replace(report, layers=tuple(rows))


def quick(n_layers: int = 4) -> AuditReport:
    report = make_report(n_layers, refinement=None)
    return dataclasses.replace(report, layers=tuple(dataclasses.replace(row, gap=None) for row in report.layers))


def with_network(report: AuditReport, **changes: object) -> AuditReport:
    return dataclasses.replace(report, network=dataclasses.replace(report.network, **changes))


def test_what_was_audited_fits_in_two_lines() -> None:
    report = make_report(path="runs/" + 30 * "deep/" + "ckpt.pt")
    far = dataclasses.replace(report, data=dataclasses.replace(report.data, source=30 * "far/" + "wikitext.txt"))
    path, rest = subject(far, 80)
    assert len(path) == 80
    assert path.endswith("ckpt.pt, step 2,000")
    assert rest == "4 layers × 128 wide, 7.23 M parameters; 4,096 tokens held out of wikitext.txt"
    stepless = dataclasses.replace(report, checkpoint=dataclasses.replace(report.checkpoint, training_step=None))
    assert "step" not in subject(stepless, 80)[0]


def test_the_trained_loss_is_the_best_reference_and_two_gaps() -> None:
    report = make_report()
    figures = report.network.held_out
    trained, best, head, layers, rival = equation(report, str.upper)
    assert [trained.label.strip(), best.label] == ["trained loss", "= best reference, DIRECT"]
    assert [head.note, layers.note] == ["gap_head", "gap_layers"]
    for term, figure in ((trained, figures.trained_loss), (best, figures.bound), (head, figures.gap_head)):
        assert float(term.figure) == pytest.approx(figure.value, abs=6e-4)
    assert sum(float(term.figure) for term in (best, head, layers)) == pytest.approx(float(trained.figure), abs=2e-3)
    assert (layers.figure, layers.interval) == ("+0.042", "+0.022..+0.060")
    assert rival.label.strip() == "nearest peeled, EVERY:2"


def test_without_another_head_or_network_their_lines_are_left_out() -> None:
    report = with_network(make_report(), readout="own", rival=None, margin=None)
    assert [term.label.split(",")[0].strip("=+ ") for term in equation(report, str)] == [
        "trained loss",
        "best reference",
        "the layers' part",
    ]


@pytest.mark.parametrize(
    ("margin", "words"),
    [
        (Estimate(0.1, 0.05, 0.2), "behind the trained"),
        (Estimate(-0.1, -0.2, -0.05), "ahead of the trained"),
        (Estimate(0.1, -0.05, 0.2), "level with the trained"),
    ],
)
def test_the_nearest_peeled_reference_has_its_place(margin: Estimate, words: str) -> None:
    assert list(equation(with_network(make_report(), margin=margin), str))[-1].note == words


def test_a_layer_is_like_the_others_or_says_what_is_apart() -> None:
    report = with_symptoms(with_gaps(make_report(), 0.1, 0.2, 0.4, -0.1, named=(3,)), 2, Symptom.NOISY)
    lines = layer_lines(report).lines
    assert [line.words for line in lines] == [("like the others",), ("noisy",), ("stands out",), ("like the others",)]
    assert [line.apart for line in lines] == [False, True, True, False]
    assert [line.share for line in lines] == pytest.approx([0.25, 0.5, 1.0, 0.0])
    assert (lines[2].gap, lines[2].interval) == ("+0.400", "+0.380..+0.418")


def test_no_bar_is_made_of_noise() -> None:
    lines = layer_lines(with_gaps(make_report(), 0.0001, 0.0, 0.0, -0.1)).lines
    assert [line.share for line in lines] == [0.0] * 4  # the first one's interval holds 0
    surely = dataclasses.replace(make_report().layers[0], gap=Estimate(0.0001, 0.00005, 0.0002))
    report = dataclasses.replace(make_report(), layers=(surely, *make_report().layers[1:]))
    gaps = layer_lines(report).lines
    assert 0 < gaps[0].share < 0.01


def test_where_no_layer_can_be_judged_none_is_called_like_the_others() -> None:
    report = with_gaps(make_report(), 0.1, 0.2, 0.4, 0.1)
    assert report.refinement is not None
    unjudged = dataclasses.replace(report, refinement=dataclasses.replace(report.refinement, judged=False))
    found = layer_lines(unjudged)
    assert "none is named by it" in found.caption
    assert {line.words for line in found.lines} == {()}
    assert "too little" not in layer_lines(report).caption


@pytest.mark.parametrize("n_layers", [16, 17, 80])
def test_of_a_deep_network_those_that_stand_out_and_the_largest_are_shown(n_layers: int) -> None:
    gaps = [0.1] * n_layers
    gaps[4], gaps[6] = 0.5, 0.0
    report = with_symptoms(with_gaps(make_report(n_layers), *gaps, named=(5,)), n_layers, Symptom.MLP_SILENT)
    found = layer_lines(report)
    shown = [line.layer for line in found.lines]
    assert [line.layer for line in layer_lines(report, every=True).lines] == list(range(1, n_layers + 1))
    if n_layers == 16:
        assert (len(shown), found.rest) == (16, "")
    else:
        assert shown == [1, 2, 3, 4, 5, 6, 8, n_layers]
        assert found.rest == f"The other {n_layers - 8}: +0.000 to +0.100."


def test_many_that_stand_out_are_counted() -> None:
    report = with_gaps(make_report(40), *[0.1] * 40, named=tuple(range(20, 0, -1)))
    found = layer_lines(report)
    assert [line.layer for line in found.lines] == list(range(1, 16))
    assert found.rest == "The other 25: +0.100 to +0.100; 5 of them stand out as well."


def test_without_gaps_only_symptoms_are_told_and_how_to_have_gaps() -> None:
    assert layer_lines(quick()).lines == ()
    assert layer_lines(quick()).rest == "By its looks no layer stands out."
    found = layer_lines(with_symptoms(quick(), 3, Symptom.UNTRAINED))
    assert "--effort default" in found.caption
    assert [(line.layer, line.gap, line.interval, line.words) for line in found.lines] == [(3, "", "", ("untrained",))]
    assert found.rest == ""


def test_growth_is_told_where_it_was_tried() -> None:
    report = make_report()
    assert growth_words(report) == "All layers refined together gain 0.031 with half the text, 0.042 with all."
    refinement = report.network.refinement
    assert refinement is not None
    assert growth_words(with_network(report, refinement=dataclasses.replace(refinement, half=None))) == ""
    assert growth_words(with_network(report, refinement=None)) == ""


@pytest.mark.parametrize(("uniform", "broken"), [(5.2, True), (5.25, False), (10.8, False)])
def test_broken_is_what_is_surely_worse_than_guessing(uniform: float, broken: bool) -> None:
    report = make_report(baselines=BaselineLosses(uniform, make_estimate(7.2)))
    assert is_broken(report) == broken


def test_the_parent_has_a_line_whatever_the_references() -> None:
    for report in (make_report(), with_network(make_report(), rival=None, margin=None, refinement=None)):
        *_, line = equation(with_parent(report, 0.1, 0.0, 0.2, 0.0), str)
        assert (line.label.strip(), line.figure, line.note) == ("trained loss - its parent's", "+0.170", "float")


def test_what_a_layer_loses_to_its_parents_is_said_where_it_is_clear() -> None:
    found = layer_lines(with_parent(make_report(), 0.1, 0.0, 0.2, 0.0, better=(3, 1)))
    assert "parent's, with its parent's block instead" in found.caption
    assert [line.words for line in found.lines] == [
        ("parent's +0.100",), ("like the others",), ("parent's +0.200",), ("like the others",)
    ]  # fmt: skip
    assert [line.apart for line in found.lines] == [True, False, True, False]
    told = layer_lines(with_parent(quick(), 0.1, 0.0, 0.2, 0.0, better=(3,)))
    assert [line.layer for line in told.lines] == [3]


def test_in_a_deep_network_those_that_lose_most_to_their_parents_have_rows() -> None:
    gaps = [0.1] * 48
    found = layer_lines(with_parent(with_gaps(make_report(48), *gaps), *gaps, better=tuple(range(48, 0, -1))))
    assert {48, 47, 46} <= {line.layer for line in found.lines}
    assert len(found.lines) == 8
