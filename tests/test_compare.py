"""Two reports against each other: what pairs, what became of each row, where a change begins."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from peelaudit.compare import Change, Comparison, Pairing, Status, check_settings, compare
from peelaudit.errors import IncomparableReports, NonFiniteResult, ReportError
from peelaudit.records import AuditReport, Verdict
from peelaudit.stats import HELD_OUT, RESOLUTION, ClusterBootstrap
from tests.factories import make_report
from tests.variants import judged, moved, reweighted, with_row, with_settings

BASE = make_report(4, seed=1)


def change(base: AuditReport, new: AuditReport, layer: int | None, metric: str) -> Change:
    found = Pairing(base, new).change(layer, metric)
    assert found is not None
    return found


def status(comparison: Comparison, layer: int | None) -> Status:
    return next(row.status for row in comparison.rows if row.layer == layer)


def test_a_report_is_unchanged_against_itself() -> None:
    comparison = compare(BASE, BASE)
    assert [row.layer for row in comparison.rows] == [None, 1, 2, 3, 4]
    assert {row.status for row in comparison.rows} == {Status.UNCHANGED}
    assert comparison.origin.layer is None
    assert comparison.warnings == ("both reports are of the same checkpoint",)


def test_differences_are_paired() -> None:
    found = change(BASE, moved(BASE, 2, 0.3), 2, "trained_loss")
    assert found.difference.value == pytest.approx(0.3)
    assert found.difference.high - found.difference.low < 1e-9  # each loss alone varies by 0.3 between clusters
    assert (found.base, found.new) == (BASE.layers[1].held_out.trained_loss,) * 2


def test_every_figure_is_the_difference_that_the_records_say() -> None:
    new = BASE
    for name, by in (("own", 0.4), ("trained", 0.3), ("yes0", 0.2), ("bound", 0.05)):
        new = moved(new, 3, by, losses=(name,))
    expected = {"trained_loss": 0.4, "trained_readout_loss": 0.3, "yes0": 0.2, "bound": 0.05}
    expected |= {"gap_total": 0.35, "gap_head": 0.1, "gap_layers": 0.25}
    for metric, value in expected.items():
        assert change(BASE, new, 3, metric).difference.value == pytest.approx(value)


def test_the_draws_are_those_of_the_audit() -> None:
    new = moved(BASE, 1, 0.1, spread=0.05)
    settings = dict(BASE.settings)
    bootstrap = ClusterBootstrap(
        np.arange(15), resamples=int(str(settings["resamples"])), seed=int(str(settings["seed"])) + HELD_OUT
    )
    sums = np.array(new.layers[0].held_out_sums.own) - np.array(BASE.layers[0].held_out_sums.own)
    assert change(BASE, new, 1, "trained_loss").difference == bootstrap.ratio(sums, BASE.held_out_predictions)


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


def test_all_that_keeps_reports_apart_is_told() -> None:
    new = with_settings(BASE, seed=1, solver="adam", depth_readout="own")
    new = dataclasses.replace(new, data=dataclasses.replace(BASE.data, tokens_sha256="d4" * 32))
    with pytest.raises(IncomparableReports) as caught:
        compare(BASE, new)
    assert caught.value.exit_code == 2
    starts = [
        "the calibration tokens",
        "solver is 'ridge' in the base, 'adam'",
        "depth-readout",
        "seed is 0 in the base",
    ]
    assert len(caught.value.problems) == len(starts)
    for problem, start in zip(caught.value.problems, starts, strict=True):
        assert problem.startswith(start)


def test_a_setting_that_one_report_is_without_keeps_them_apart() -> None:
    with pytest.raises(IncomparableReports, match="bits is None in the base, 4"):
        compare(BASE, with_settings(BASE, bits=4))


def test_other_clusters_keep_reports_apart() -> None:
    with pytest.raises(IncomparableReports, match="held-out clusters"):
        compare(BASE, dataclasses.replace(BASE, held_out_predictions=(255,) * 16))


def test_what_may_differ_is_warned_of() -> None:
    new = with_settings(make_report(4, seed=1, path="other/ckpt.pt"), device="cuda", data=("moved.txt",))
    info = dataclasses.replace(new.checkpoint, sha256="00" * 32)
    new = dataclasses.replace(new, checkpoint=info, versions=(("peelaudit", "0.1.0"), ("torch", "2.14.0")))
    assert compare(BASE, new).warnings == (
        "torch is 2.13.0 in the base, 2.14.0 in the new",
        "python is 3.11.7 in the base, None in the new",
        "device is auto in the base, cuda in the new",
    )


def test_settings_of_an_audit_to_come() -> None:
    check_settings(BASE, {"seed": 0, "checkpoint": "another", "device": "cuda"})
    with pytest.raises(IncomparableReports, match="seed is 0 in the base, 7"):
        check_settings(BASE, {"seed": 7})


@pytest.mark.parametrize("name", ["own", "trained", "yes0", "bound"])
def test_sums_that_do_not_fit_are_refused(name: str) -> None:
    sums = BASE.layers[1].held_out_sums
    short = dataclasses.replace(sums, **{name: getattr(sums, name)[:-1]})
    with pytest.raises(ReportError, match="don't fit"):
        compare(BASE, with_row(BASE, 2, held_out_sums=short))


def test_rows_that_are_no_layers_are_refused() -> None:
    for layers in ((), BASE.layers[:2] + BASE.layers[3:], BASE.layers[::-1]):
        with pytest.raises(ReportError, match="aren't those of layers"):
            compare(BASE, dataclasses.replace(BASE, layers=layers))


def test_nothing_non_finite_is_compared() -> None:
    sums = BASE.layers[1].held_out_sums
    for value in (math.nan, math.inf):
        own = (value, *sums.own[1:])
        with pytest.raises(NonFiniteResult, match="trained_loss of layer 2"):
            compare(BASE, with_row(BASE, 2, held_out_sums=dataclasses.replace(sums, own=own)))
