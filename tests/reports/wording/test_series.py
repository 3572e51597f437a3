"""What a training run shows, and what is wrong with it, in sentences."""

from __future__ import annotations

import dataclasses

from peelaudit.records import Estimate, Verdict
from peelaudit.reports.formats import Format, export
from peelaudit.reports.integrity.finding import Defect, Finding
from peelaudit.reports.trajectory import trace
from peelaudit.reports.wording.series import defect_words, series_words, watched_words
from tests.reports.formats.support import make_series, make_step


def test_what_a_run_shows_is_said() -> None:
    network, met = series_words(trace(make_series()))
    assert network == (
        "Every verdict is green from step 200 on, which says little before step 400: later checkpoints are better than "
        "the bounds there. From step 400 on, no later checkpoint is better than its bound."
    )
    assert met.startswith("Step 200 is the first to meet the least YES* so far, step ")


def test_green_is_said_from_where_no_later_checkpoint_is_better_than_its_bound() -> None:
    losses = [(4.0, Verdict.RED), (3.0, Verdict.GREEN), (2.995, Verdict.GREEN)]
    steps = [make_step(1000 * k, loss, 3.5, loss, verdict=verdict) for k, (loss, verdict) in enumerate(losses)]
    assert series_words(trace(steps))[0] == "The network is green from step 1,000 on."


def test_a_run_that_ends_above_its_bounds_is_said_to() -> None:
    steps = [make_step(step, 4.0, 3.9, 3.0, verdict=Verdict.RED) for step in (1000, 2000)]
    assert series_words(trace(steps)) == (
        "The network is not green at its last step.",
        "No checkpoint meets the least YES* so far with a green verdict of its own.",
    )


def test_a_bound_that_a_later_step_lowers_is_met_so_far_alone() -> None:
    steps = [make_step(1000, 3.0, 3.5, 3.0), make_step(2000, 2.9, 3.5, 2.5, verdict=Verdict.YELLOW)]
    _, met = series_words(trace(steps))
    assert met == "Step 1,000 is the first to meet the least YES* so far; none meets that of the whole series."


def test_a_step_that_meets_both_is_told_once() -> None:
    _, met = series_words(trace([make_step(1000, 4.0, 3.9, 3.0, verdict=Verdict.RED), make_step(2000, 2.9, 3.5, 2.9)]))
    assert met == "Step 2,000 is the first to meet the least YES* so far, and that of the whole series."


TWO, PATHS = (100, 2000), ("run/a-100.pt", "run/a-\x1b2000.pt")
RISE = Estimate(0.3, 0.2, 0.41)


THREE = ((1, 2, 3), ("1.pt", "2.pt", "3.pt"))
SENTENCES = {
    Finding(Defect.SAME_WEIGHTS, TWO, PATHS): r"""
        Step 100 (a-100.pt) and step 2,000 (a-\x1b2000.pt) have the same weights and the same loss: one checkpoint under
        several names.
    """,
    Finding(Defect.SHARED_LAYERS, TWO, PATHS, layers=(2, 3, 5), neighbours=True): r"""
        Step 100 (a-100.pt) and step 2,000 (a-\x1b2000.pt) have the weights of layers 2, 3 and 5 in common, and no
        others: one holds a shard of the other, unless those were not trained in between.
    """,
    Finding(Defect.OUT_OF_LINE, *THREE, distance=0.8, times=7.91): """
        Step 2 (2.pt) is out of line: it lies 0.800 nats/token or more from step 1 (1.pt) and from step 3 (3.pt), 7.91
        times what is usual around it.
    """,
    Finding(Defect.JUMP, (1, 2), ("1.pt", "2.pt"), distance=0.8): """
        The run jumps at step 2 (2.pt): it lies 0.800 nats/token from step 1 (1.pt), and is no better.
    """,
    Finding(Defect.LOSS_BACK, *THREE, rise=RISE, highest=2, exchanged=True): """
        The held-out loss goes back: step 2 (2.pt) is above step 1 (1.pt) by +0.300 (+0.200..+0.410), the highest of the
        2 from step 2 (2.pt) to step 3 (3.pt). With step 1 (1.pt) and step 3 (3.pt) exchanged, it would fall throughout.
    """,
    Finding(Defect.MISNAMED, (3, 1), ("1.pt", "3.pt")): """
        1.pt records step 3 and 3.pt records step 1: the names are those of other steps.
    """,
}


def test_every_defect_has_its_sentence() -> None:
    assert {finding.defect for finding in SENTENCES} == set(Defect)
    for finding, words in SENTENCES.items():
        assert defect_words(finding) == " ".join(words.split())


def test_of_many_steps_the_first_are_named() -> None:
    steps = tuple(range(1, 21))
    words = defect_words(Finding(Defect.SAME_WEIGHTS, steps, tuple(f"{step}.pt" for step in steps)))
    assert words.startswith("Step 1 (1.pt), step 2 (2.pt), ")
    assert "step 5 (5.pt) and 15 more have" in words


def test_what_is_wrong_is_in_every_text_and_nothing_where_nothing_is() -> None:
    series = make_series()
    info = dataclasses.replace(series[2].checkpoint, path="run/ckpt-300.pt")
    copy = dataclasses.replace(series[2], checkpoint=info)
    for form in (Format.HTML, Format.MARKDOWN, Format.TABLE):
        assert "have the same weights" not in export(series, form)
        words = " ".join(export([*series, copy], form).split())
        assert "Step 200 (ckpt-200.pt) and step 300 (ckpt-300.pt) have the same weights" in words.replace("\\", "")


def test_a_step_is_one_line() -> None:
    report = make_step(1200, verdict=Verdict.GREEN)
    assert watched_words("run/x.pt", report) == f"step 1,200  ✓ green  run/x.pt: {report.headline}"
    assert watched_words("run/x-7.pt", make_step(None)).startswith("step 7  ")
    assert watched_words("run/x.pt", make_step(None)).startswith("no step recorded  ")
