"""Two reports against each other: what pairs, what became of each row, where a change begins."""

from __future__ import annotations

import dataclasses
import re

import pytest

from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.records import Verdict
from peelaudit.reports.compare import Comparison, Status, compare
from peelaudit.reports.terminal import render_comparison
from tests.factories import make_report, with_parent
from tests.variants import judged, moved, reweighted, with_settings

BASE = make_report(4, seed=1)


def status(comparison: Comparison, layer: int | None) -> Status:
    return next(row.status for row in comparison.rows if row.layer == layer)


def test_a_report_is_unchanged_against_itself() -> None:
    comparison = compare(BASE, BASE)
    assert [row.layer for row in comparison.rows] == [None, 1, 2, 3, 4]
    assert {row.status for row in comparison.rows} == {Status.UNCHANGED}
    assert comparison.origin.layer is None
    assert comparison.warnings == ("both reports are of the same checkpoint",)


@pytest.mark.parametrize(
    ("by", "spread", "expected"),
    [
        (0.01, 0.0, Status.WORSE),
        (-0.01, 0.0, Status.BETTER),
        (0.0009, 0.0, Status.UNCHANGED),
        (-0.0009, 0.0, Status.UNCHANGED),
        (0.01, 0.1, Status.UNCHANGED),  # the interval is wide: no change is shown
    ],
)
def test_worse_and_better_are_for_the_whole_interval(by: float, spread: float, expected: Status) -> None:
    comparison = compare(BASE, moved(BASE, 2, by, spread=spread))
    assert status(comparison, 2) is expected
    assert status(comparison, 1) is Status.UNCHANGED


def test_the_tolerance_is_the_callers() -> None:
    new = moved(BASE, 2, 0.01)
    assert status(compare(BASE, new, tolerance=0.02), 2) is Status.UNCHANGED
    assert status(compare(BASE, new, tolerance=0.0), 2) is Status.WORSE


@pytest.mark.parametrize(
    ("was", "now", "by", "expected"),
    [
        (Verdict.GREEN, Verdict.YELLOW, 0.1, Status.NEW),
        (Verdict.GREY, Verdict.RED, 0.1, Status.NEW),
        (Verdict.GREEN, Verdict.YELLOW, 0.0005, Status.UNCHANGED),  # the verdict tipped over, the gap hardly moved
        (Verdict.YELLOW, Verdict.RED, 0.1, Status.UNCHANGED),  # it lost before; the loss is the same
        (Verdict.RED, Verdict.GREEN, -0.1, Status.FIXED),
        (Verdict.YELLOW, Verdict.GREY, -0.1, Status.FIXED),
        (Verdict.YELLOW, Verdict.GREY, -0.0005, Status.UNCHANGED),
        (Verdict.GREEN, Verdict.GREEN, 0.1, Status.UNCHANGED),
    ],
)
def test_new_and_fixed_are_for_rows_that_begin_or_cease_to_lose(
    was: Verdict, now: Verdict, by: float, expected: Status
) -> None:
    base = judged(BASE, 2, was)
    new = judged(moved(BASE, 2, by, losses=("trained",)), 2, now)
    assert status(compare(base, new), 2) is expected


def test_layers_that_one_report_is_without() -> None:
    short = dataclasses.replace(BASE, layers=BASE.layers[1:])
    short = dataclasses.replace(
        short, layers=tuple(dataclasses.replace(row, layer=layer) for layer, row in enumerate(short.layers, 1))
    )
    shrunk, grown = compare(BASE, short), compare(short, BASE)
    assert status(shrunk, 4) is Status.MISSING
    assert status(grown, 4) is Status.NEW
    # Row 3 of the short one is its last, read out by another readout than the base's row 3.
    assert status(shrunk, 3) is Status.MISSING
    assert shrunk.rows[0].trained_loss is not None
    assert shrunk.origin.layer is None


def test_the_layer_whose_weights_alone_differ_is_named() -> None:
    origin = compare(BASE, moved(moved(reweighted(BASE, 3), 3, 0.1), 4, 0.1)).origin
    assert origin.layer == 3
    assert origin.words == "The change begins at layer 3. Only layer 3 has other weights than in the base."


def test_the_first_of_several_layers_is_named() -> None:
    origin = compare(BASE, moved(reweighted(BASE, 2, 4), 4, 0.1)).origin
    assert origin.layer == 2
    assert "Only layers 2, 4 have" in origin.words


def test_where_all_weights_differ_the_losses_tell() -> None:
    new = reweighted(BASE, 1, 2, 3, 4)
    for layer, by in ((1, 0.002), (2, 0.003), (3, 0.09), (4, 0.1)):
        new = moved(new, layer, by)
    assert compare(BASE, new).origin.layer == 3


def test_a_depth_that_is_better_here_and_worse_there_has_moved() -> None:
    new = moved(moved(reweighted(BASE, 1, 2, 3, 4), 2, 0.0, spread=0.2), 4, 0.1)
    assert compare(BASE, new).origin.layer == 2


def test_what_no_layer_did() -> None:
    embedding = compare(BASE, moved(BASE, 4, 0.1)).origin
    assert (embedding.layer, "the embedding" in embedding.words) == (None, True)
    same = compare(BASE, reweighted(moved(BASE, 4, RESOLUTION / 2), 1, 2, 3, 4)).origin
    assert (same.layer, "the predictions are the same" in same.words) == (None, True)


def test_what_may_differ_is_warned_of() -> None:
    new = with_settings(make_report(4, seed=1, path="other/ckpt.pt"), device="cuda", data=("moved.txt",))
    info = dataclasses.replace(new.checkpoint, sha256="00" * 32)
    new = dataclasses.replace(new, checkpoint=info, versions=(("peelaudit", "0.1.0"), ("torch", "2.14.0")))
    assert compare(BASE, new).warnings == (
        "torch is 2.13.0 in the base, 2.14.0 in the new",
        "python is 3.11.7 in the base, None in the new",
        "device is auto in the base, cuda in the new",
    )


def test_layers_against_the_same_parent_are_compared_and_another_one_is_warned_of() -> None:
    base, new = (with_parent(make_report(), *gaps) for gaps in ((0.1, 0.0, 0.2, 0.0), (0.1, 0.05, 0.5, 0.0)))
    found = compare(base, new)
    differences = [row.parent_gap and round(row.parent_gap.difference.value, 9) for row in found.rows]
    assert differences == [None, 0.0, 0.05, 0.3, 0.0]
    assert not any("parent" in words for words in found.warnings)
    text = render_comparison(found)
    assert re.search(r"3 +\+0.500 +\+0.200 +\+0.300", text)
    assert max(map(len, text.splitlines())) <= 80
    alone = compare(make_report(), new)
    assert "the parent is none in the base, runs/float in the new, another one" in alone.warnings
    assert {row.parent_gap for row in alone.rows} == {None}
    assert "parent" not in render_comparison(compare(make_report(), make_report()))
