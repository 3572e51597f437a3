"""Numbers and names as text: within their width, and never another value than was meant."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.records import Estimate, Verdict
from peelaudit.reports.wording.text import (
    VERDICT_WORDS,
    abbreviate,
    count,
    encodable,
    fitting,
    flow,
    interval,
    number,
    signed,
    size,
    targets_text,
    verdict_text,
)
from tests.factories import staircase

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def test_every_verdict_has_a_word_and_a_sign_beside_its_colour() -> None:
    assert verdict_text(Verdict.RED) == "red ✗ ineffective"
    assert VERDICT_WORDS.keys() == set(Verdict)
    for parts in zip(*VERDICT_WORDS.values(), strict=True):
        assert len(set(parts)) == len(Verdict)


@given(st.floats(0, 1e300))
def test_a_number_has_six_characters_at_most_and_is_near(value: float) -> None:
    assert len(number(value)) <= 6
    assert float(number(value)) == pytest.approx(value, rel=0.34 if value >= 999.95 else 1e-3, abs=0.0005001)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.9617, "3.962"),
        (0.0, "0.000"),
        (99.9994, "99.999"),
        (99.9996, "100.0"),
        (999.94, "999.9"),
        (999.96, "1e+03"),
        (-0.25, "-0.250"),
        (2e5, "2e+05"),
    ],
)
def test_numbers_on_either_side_of_a_change_of_form(value: float, text: str) -> None:
    assert number(value) == text


@given(FINITE)
def test_a_difference_has_its_sign_before_the_same_number(value: float) -> None:
    text = signed(value)
    assert text[0] in "+-"
    assert text.removeprefix("+") == number(value)


def test_an_interval_is_both_its_ends() -> None:
    estimate = Estimate(4.0, 3.901, 4.022)
    assert interval(estimate) == "3.901..4.022"
    assert interval(Estimate(0.0, -0.1, 0.25), sign=True) == "-0.100..+0.250"


@given(st.integers())
def test_thousands_stand_apart(value: int) -> None:
    assert int(count(value).replace(",", "")) == value
    assert all(len(part) == 3 for part in count(value).split(",")[1:])


@given(st.floats(0, 9.99e14), st.sampled_from(["B", "FLOP", ""]))
def test_a_size_is_short_and_near(value: float, unit: str) -> None:
    text = size(value, unit)
    found = re.fullmatch(rf"([\d.e-]+) ?([kMGT]?){unit}", text)
    assert found is not None
    scale = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[found[2]]
    assert float(found[1]) * scale == pytest.approx(value, rel=6e-3)
    assert value < 0.1 or len(text) <= len("99.9 T") + len(unit)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "B", "0 B"),
        (999, "B", "999 B"),
        (999.6, "B", "1 kB"),
        (1_061_000_000, "B", "1.06 GB"),
        (135e6, "", "135 M"),
        (4.2e15, "B", "4.2e+03 TB"),
    ],
)
def test_sizes_change_their_prefix(value: float, unit: str, text: str) -> None:
    assert size(value, unit) == text


@given(st.text(max_size=40), st.integers(1, 50))
def test_an_abbreviation_fits_and_keeps_both_ends(text: str, width: int) -> None:
    found = abbreviate(text, width)
    assert len(found) <= width
    if len(text) <= width:
        assert found == text
        return
    assert len(found) == width
    head, tail = found[: width // 2], found[width // 2 + 1 :]
    assert found == f"{head}…{tail}"
    assert text.startswith(head)
    assert text.endswith(tail)


def expanded(text: str) -> list[int]:
    """The targets that a schedule's runs say."""
    targets: list[int] = []
    for run in filter(None, text.split(", ")):
        if "–" in run:
            first, last = map(int, run.split("–"))
            targets += range(first, last + 1)
        else:
            target, _, times = run.partition("×")
            targets += [int(target)] * int(times or 1)
    return targets


@given(st.lists(st.integers(1, 12), max_size=40))
def test_runs_of_targets_say_every_target(targets: list[int]) -> None:
    assert expanded(targets_text(targets, 1000)) == targets


@given(st.lists(st.integers(1, 99), min_size=1, max_size=40), st.integers(1, 60))
def test_targets_fit_and_say_which_are_left_out(targets: list[int], width: int) -> None:
    text = targets_text(targets, width)
    assert len(text) <= width
    assert ("…" in text) == (text != targets_text(targets, 1000))


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        ((4, 4, 4, 4), "4×4"),
        ((1, 2, 3, 4), "1–4"),
        ((1, 4, 4, 4), "1, 4×3"),
        ((1, 1, 1, 4), "1×3, 4"),
        ((4, 1, 3, 3), "4, 1, 3×2"),
        ((1, 2, 3, 3), "1–2, 3×2"),
        (staircase(range(1, 23), 30), "1–22, 30×8"),
        (staircase((22, 28), 30), "22×22, 28×6, 30×2"),
        (staircase(range(2, 80, 2), 80), "2×2, 4×2, …, 78×2, 80×2"),
        ((), ""),
    ],
)
def test_schedules_as_runs(targets: tuple[int, ...], text: str) -> None:
    assert targets_text(targets, 24) == text


@given(st.text(st.characters(exclude_categories=("Cs",))), st.sampled_from(["ascii", "latin-1", "cp1252", "utf-8"]))
def test_any_terminal_can_show_it_column_for_column(text: str, encoding: str) -> None:
    found = encodable(text, encoding)
    assert found.encode(encoding).decode(encoding) == found
    assert len(found) == len(text)


def test_signs_have_others_where_a_terminal_has_none() -> None:
    assert encodable("red ✗ 4×4 … 1–22 −1", "ascii") == "red x 4x4 ~ 1-22 -1"
    assert encodable("4×4", "latin-1") == "4×4"
    assert encodable("4×4", "no such encoding") == "4x4"


@given(st.lists(st.text("abc", min_size=1, max_size=12), max_size=12), st.integers(1, 30))
def test_items_flow_into_lines_and_are_never_broken(items: list[str], width: int) -> None:
    lines = flow(items, width)
    assert [item for line in lines for item in line.split(" · ")] == items
    assert all(len(line) <= width or line in items for line in lines)
    for line, following in pairwise(lines):
        assert len(line) + len(" · ") + len(following.split(" · ")[0]) > width, "it would have fitted"


@pytest.mark.parametrize(
    ("width", "text"), [(12, "one, two, 33"), (11, "one, two, …"), (10, "one, …"), (6, "one, …"), (5, "one, …")]
)
def test_of_items_that_are_too_many_the_first_are_told(width: int, text: str) -> None:
    assert fitting(("one", "two", "33"), width) == text
    assert fitting((), width) == ""
