"""The page of two checkpoints' difference: the sums, a row for each part, and of a deep network those that matter."""

from __future__ import annotations

import pytest

from peelaudit.records.difference import ChangeKind, Swapped, TensorChange
from peelaudit.reports.terminal import render_difference
from peelaudit.reports.wording.difference import changed_words, part_lines, so_far
from tests.factories import make_estimate
from tests.reports.differences import difference


def rows_of(text: str) -> dict[str, list[str]]:
    return {line[:16].strip(): line[16:].split() for line in text.splitlines()}


def test_the_page_says_what_was_found_and_adds_up() -> None:
    text = render_difference(difference([0.01, 0.4, -0.02]))
    assert "NEW's loss is above BASE's." in text
    assert "! o_proj.weight of block 2: BASE's, transposed." in text
    rows = rows_of(text)
    assert rows["BASE's loss"][0] == "3.0000"
    assert rows["+ single swaps"][0] == "+0.3900"
    assert rows["= NEW's loss"][0] == "3.3900"
    assert rows["block 2"][:7] == ["+0.4000", "+0.3900..+0.4090", "+0.8000", "0.4000", "12", "%", "━━━━━━━━"]
    assert rows["block 1"][-1] == "%"  # its interval isn't clear of 0
    assert rows["embedding, head"] == ["same"]
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 26


def test_where_some_sequences_were_taken_it_says_so() -> None:
    swapped = Swapped(4, 16, 4, make_estimate(0.5), make_estimate(0.3), make_estimate(0.2))
    text = render_difference(difference([0.01, 0.4, -0.02], swapped=swapped))
    rows = rows_of(text)
    assert rows["+ difference"][0] == "+0.3900"
    assert rows["= single swaps"][0] == "+0.3000"
    assert rows["+ left over"][0] == "+0.2000"
    assert [line[:18] for line in text.splitlines() if line.endswith("on 4 of 16 sequences")] == ["  difference there"]


def test_tensors_that_differ_all_over_are_counted() -> None:
    tensors = tuple(
        TensorChange(f"{size}.weight", 1, "x.weight", kind, size)
        for size, kind in ((0.02, ChangeKind.CHANGED), (0.3, ChangeKind.CHANGED), (1.0, ChangeKind.TRANSPOSED))
    )
    some = changed_words(difference([0.1], tensors=tensors))
    assert some == "3 tensors are the same; 2 differ all over, as by rounding or training, by 2.0% to 30.0%."
    assert changed_words(difference([0.1], tensors=tensors[:1])).endswith(
        "1 differ all over, as by rounding or training, by 2.0%."
    )
    assert changed_words(difference([0.1])) == "3 tensors are the same."


def test_the_same_network_has_no_table() -> None:
    found = difference([None, None], named=(), findings=(), headline="the same network")
    text = render_difference(found)
    assert "The same network." in text
    assert "block" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_a_deep_network_has_rows_for_what_matters_and_a_line_for_the_rest(width: int) -> None:
    costs: list[float | None] = [None] * 4 + [0.01 + 0.001 * layer for layer in range(36)]
    costs[20] = 0.7
    text = render_difference(difference(costs, named=(21,)), width=width)
    shown = [line for line in text.splitlines() if line.startswith("block ")]
    assert len(shown) == 8
    assert any(line.startswith("block 21 ") for line in shown)
    assert "28 more parts cost +0.0100 to +0.0380 each; 6 others are the same." in text
    assert max(map(len, text.splitlines())) <= width


def test_one_block_of_many_that_differs() -> None:
    costs: list[float | None] = [None] * 40
    costs[11] = 0.3
    found = difference(costs, named=(12,))
    lines = part_lines(found)
    assert [line.label for line in lines.lines] == ["block 12"]
    assert lines.rest == "41 parts are the same."
    assert so_far(found, 80) == ()


def test_the_way_up_is_shown_at_eight_depths_at_most_the_last_among_them() -> None:
    words = " ".join(so_far(difference([0.1] * 20), 200))
    assert "20 +2.0000" in words
    assert words.count("+") <= 8


def test_ascii_alone_where_that_is_all_there_is() -> None:
    render_difference(difference([0.1, 0.4]), encoding="ascii").encode("ascii")
