"""Copies, shards of other steps and wrong names; and what looks like them in a healthy run."""

from __future__ import annotations

from peelaudit.reports.integrity.finding import Defect
from tests.reports.integrity.support import called, found, run, with_weights_of


def test_of_a_healthy_run_nothing_is_said() -> None:
    assert found(run()) == ()


def test_a_copy_under_another_step_is_named_whatever_it_records() -> None:
    steps = run()
    steps[4] = called(steps[3], "run/ckpt-400.pt", 400, "another file")
    (finding,) = found(steps)
    assert (finding.defect, finding.steps) == (Defect.SAME_WEIGHTS, (300, 400))
    steps[4] = called(steps[3], "run/ckpt-400.pt", 300)  # byte for byte
    assert [(one.defect, one.steps) for one in found(steps)] == [
        (Defect.SAME_WEIGHTS, (300, 400)),
        (Defect.MISNAMED, (300,)),
    ]
    steps[4] = called(steps[3], "run/step-400", None)
    bare = [called(report, f"run/step-{100 * k}", None) for k, report in enumerate(steps)]
    assert [(one.defect, one.steps) for one in found(bare)] == [(Defect.SAME_WEIGHTS, (300, 400))]


def test_a_copy_that_claims_no_other_step_is_none() -> None:
    steps = run()
    assert found([*steps, called(steps[-1], "run/last.pt", 700), called(steps[3], "run/best-1.pt", 300)]) == ()


def test_exchanged_files_are_named_by_what_they_record() -> None:
    steps = run()
    steps[2], steps[5] = called(steps[2], "run/ckpt-500.pt", 200), called(steps[5], "run/ckpt-200.pt", 500)
    (finding,) = found(steps)
    assert (finding.defect, finding.checkpoints) == (Defect.MISNAMED, ("run/ckpt-200.pt", "run/ckpt-500.pt"))
    assert finding.steps == (500, 200)


def test_names_that_count_epochs_are_no_wrong_names() -> None:
    epochs = [called(report, f"run/epoch-{50 * k}.pt", 100 * k) for k, report in enumerate(run())]
    assert found(epochs) == ()


def test_a_shard_of_another_step_is_named_with_its_layers() -> None:
    steps = run()
    steps[5] = with_weights_of(steps[5], steps[2], (2, 3))
    (finding,) = found(steps)
    assert (finding.defect, finding.steps, finding.layers) == (Defect.SHARED_LAYERS, (200, 500), (2, 3))
    assert not finding.neighbours
    steps[5] = with_weights_of(run()[5], steps[4], (1,))
    (finding,) = found(steps)
    assert (finding.steps, finding.neighbours) == ((400, 500), True)


def test_blocks_alone_may_be_another_steps() -> None:
    steps = run()
    steps[5] = with_weights_of(steps[5], steps[2], (1, 2, 3, 4))
    (finding,) = found(steps)
    assert (finding.defect, finding.layers) == (Defect.SHARED_LAYERS, (1, 2, 3, 4))


def test_layers_that_are_not_trained_are_no_shards() -> None:
    steps = run()
    frozen = [with_weights_of(report, steps[0], (1, 2)) for report in steps]
    assert found(frozen) == ()
    thawed = [with_weights_of(report, steps[0], (1, 2) if k < 4 else ()) for k, report in enumerate(steps)]
    assert found(thawed) == ()
