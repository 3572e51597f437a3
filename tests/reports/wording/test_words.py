"""Sentences: every verdict and readout has its words, and each of what a run can show is said."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from peelaudit.records import BaselineLosses, DataShare, LowBit, LowBitSet, Verdict
from peelaudit.reports.formats import Format, export
from peelaudit.reports.wording.words import (
    HEAD_WORDS,
    LEGEND,
    VERDICT_MEANING,
    baseline_warning,
    bits_words,
    share_words,
)
from peelaudit.settings.audit import ReadoutKind
from tests.factories import make_data, make_estimate, make_report


def test_every_verdict_and_every_readout_has_its_words() -> None:
    assert VERDICT_MEANING.keys() == set(Verdict)
    assert HEAD_WORDS.keys() == set(get_args(ReadoutKind))
    assert len(set(VERDICT_MEANING.values())) == len(Verdict)


@pytest.mark.parametrize("term", ["YES-0", "YES*", "gap", "gap_head", "gap_layers"])
def test_the_legend_explains_the_tables_words(term: str) -> None:
    assert term in LEGEND


def test_a_float_network_has_no_bits_to_tell_of() -> None:
    assert bits_words(make_report()) == ""


@pytest.mark.parametrize(("held", "words"), [(True, "references too"), (False, "references are float")])
def test_low_bit_sets_are_counted_and_what_references_are_is_said(held: bool, words: str) -> None:
    sets = (LowBitSet("ternary per tensor", 6), LowBitSet("4-bit in groups of 32", 2))
    found = bits_words(make_report(low_bit=LowBit(sets, 14, held=held)))
    assert found == f"6 ternary per tensor, 2 4-bit in groups of 32, of 14 matrices; {words}"


@pytest.mark.parametrize(
    ("trained", "words"),
    [
        (3.0, None),
        (8.0, r"above that of guessing by word counts alone (7.000)"),
        (12.0, "guessing all tokens alike (10.000)"),
    ],
)
def test_a_network_worse_than_a_baseline_is_warned_of(trained: float, words: str | None) -> None:
    report = make_report(baselines=BaselineLosses(10.0, make_estimate(7.0)))
    held_out = dataclasses.replace(report.network.held_out, trained_loss=make_estimate(trained))
    found = baseline_warning(
        dataclasses.replace(report, network=dataclasses.replace(report.network, held_out=held_out))
    )
    assert (found == "") == (words is None)
    assert (words or "") in found


def test_a_mixture_is_told_in_every_text() -> None:
    data = make_data(source="a.jsonl=0.7, b.txt=0.3")
    assert share_words(data) == ""
    shares = (DataShare("a.jsonl", 0.7, 1400, 27, 7, 11), DataShare("b.txt", 0.3, None, 11, 3, 5))
    report = make_report(data=dataclasses.replace(data, shares=shares))
    words = (
        "a.jsonl (1,400 documents) gave 45 of 64 sequences, 70 % asked for; b.txt (undivided) gave 19 of 64 sequences, "
        "30 % asked for"
    )
    assert share_words(report.data) == words
    for form in (Format.HTML, Format.MARKDOWN, Format.TABLE):
        assert "gave 45 of 64" in export([report], form)
