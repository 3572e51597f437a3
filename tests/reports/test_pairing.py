"""What can be paired, what is refused, and the differences."""

from __future__ import annotations

import dataclasses
import math

import pytest

from peelaudit.errors import IncomparableReports, NonFiniteResult, ReportError
from peelaudit.records import AuditReport, Front
from peelaudit.reports.compare import compare
from peelaudit.reports.pairing import Change, Pairing, check_settings
from tests.factories import make_report, with_parent
from tests.variants import moved, with_row, with_settings

BASE = make_report(4, seed=1)


def change(base: AuditReport, new: AuditReport, layer: int | None, metric: str) -> Change:
    found = Pairing(base, new).change(layer, metric)
    assert found is not None
    return found


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


def test_tokens_that_differ_by_what_sequences_begin_with_are_told_so() -> None:
    document, sequence = (Front((1,), placement, 3.0, 2.0, ()) for placement in ("document", "sequence"))
    base = dataclasses.replace(BASE, data=dataclasses.replace(BASE.data, front=document))
    new = dataclasses.replace(BASE, data=dataclasses.replace(BASE.data, front=sequence, tokens_sha256="d4" * 32))
    with pytest.raises(IncomparableReports, match="before every sequence in some alone: give --bos"):
        compare(base, new)
    compare(BASE, with_settings(base, bos="document"))


def test_a_setting_that_one_report_is_without_keeps_them_apart() -> None:
    with pytest.raises(IncomparableReports, match="colour is None in the base, 4"):
        compare(BASE, with_settings(BASE, colour=4))


def test_other_clusters_keep_reports_apart() -> None:
    with pytest.raises(IncomparableReports, match="held-out clusters"):
        compare(BASE, dataclasses.replace(BASE, held_out_predictions=(255,) * 16))


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


@pytest.mark.parametrize(
    "changes",
    [{"seed": -1}, {"seed": True}, {"resamples": 0}, {"resamples": 5 * 10**6}, {"resamples": 10**9}, {"seed": "0"}],
)
def test_draws_that_can_not_be_repeated_are_refused(changes: dict[str, object]) -> None:
    report = with_settings(BASE, **changes)
    with pytest.raises(ReportError, match="can't be drawn again"):
        compare(report, report)


def test_hostile_counts_and_sums_are_refused() -> None:
    for count in (0, -1, 10**400):
        report = dataclasses.replace(BASE, held_out_predictions=(count,) * 15)
        with pytest.raises(ReportError, match="don't fit"):
            compare(report, report)


def test_sums_that_overflow_are_refused_and_large_ones_are_not() -> None:
    def enormous(value: float) -> AuditReport:
        sums = dataclasses.replace(BASE.layers[1].held_out_sums, own=(value,) * 15)
        return with_row(BASE, 2, held_out_sums=sums)

    with pytest.raises(NonFiniteResult):
        compare(enormous(1e308), enormous(-1e308))
    row = compare(enormous(1e200), enormous(-1e200)).rows[2]
    assert row.trained_loss is not None
    assert row.trained_loss.difference.high < -1e190


def test_nothing_non_finite_is_compared() -> None:
    sums = BASE.layers[1].held_out_sums
    for value in (math.nan, math.inf):
        own = (value, *sums.own[1:])
        with pytest.raises(NonFiniteResult, match="trained_loss of layer 2"):
            compare(BASE, with_row(BASE, 2, held_out_sums=dataclasses.replace(sums, own=own)))


def test_what_layers_lose_to_the_same_parents_is_paired_and_to_others_is_not() -> None:
    base, new = (with_parent(make_report(), *gaps) for gaps in ((0.1, 0.0, 0.2, 0.0), (0.1, 0.05, 0.5, 0.0)))
    changes = [Pairing(base, new).change(layer, "parent_gap") for layer in range(1, 5)]
    assert [round(change.difference.value, 9) for change in changes if change] == [0.0, 0.05, 0.3, 0.0]
    assert changes[2] is not None
    assert (changes[2].base, changes[2].new) == (base.layers[2].parent_gap, new.layers[2].parent_gap)
    assert new.parent is not None
    info = dataclasses.replace(new.parent.checkpoint, sha256="e5" * 32)
    other = dataclasses.replace(new, parent=dataclasses.replace(new.parent, checkpoint=info))
    for pair in ((base, other), (base, make_report()), (make_report(), new), (make_report(), make_report())):
        assert Pairing(*pair).change(3, "parent_gap") is None


def test_sums_of_a_parent_that_do_not_fit_are_refused() -> None:
    report = with_parent(make_report(), 0.1, 0.0, 0.2, 0.0)
    with pytest.raises(ReportError, match="don't fit"):
        Pairing(report, with_row(report, 2, parent_sums=(1.0, 2.0)))
