"""What the verdicts and the words of a report mean, in sentences. No rich here: exports use it too."""

from __future__ import annotations

from peelaudit.records import AuditReport, Verdict
from peelaudit.reports.trajectory import Trajectory
from peelaudit.reports.wording.text import count, number

__all__ = [
    "CLOUD_LEGEND",
    "HEAD_WORDS",
    "LEGEND",
    "VERDICT_MEANING",
    "baseline_warning",
    "bits_words",
    "series_words",
]

VERDICT_MEANING: dict[Verdict, str] = {
    Verdict.RED: "it loses to YES-0, a reference whose blocks were each fitted on their own, none trained end to end.",
    Verdict.YELLOW: "it beats YES-0 but not the best reference, YES*: some layers could do more on this data.",
    Verdict.GREEN: "no reference that was run beats it. A certificate against these, not a proof of optimality.",
    Verdict.GREY: "an interval straddles YES-0 or YES*: more held-out text would tell.",
}
HEAD_WORDS = {"own": "own head", "refit": "refitted head", "lens": "lens"}
LEGEND = (
    "Peeling fits reference blocks to this checkpoint's own hidden states, one after another, without end-to-end "
    "training. YES-0: the loss of the reference whose every block is fitted to the last state. YES*: the least of all "
    "references run. gap = trained loss - YES*: above 0, a reference does better; gap_head is the readout's part, "
    "gap_layers the layers' part."
)


CLOUD_LEGEND = (
    "The least YES-0 and the least YES* so far are the staircases of the YES cloud. Region: where the trained loss, "
    "under the readout of the bounds, lies by point values: red above both, yellow between, green at or below the "
    "least YES*. Verdict: against the checkpoint's own bounds, with intervals."
)


def bits_words(report: AuditReport) -> str:
    """The low-bit sets of the blocks, and whether references are of them too; empty for a float network."""
    if (low_bit := report.low_bit) is None:
        return ""
    sets = ", ".join(f"{found.matrices} {found.name}" for found in low_bit.sets)
    references = "references too" if low_bit.held else "references are float"
    return f"{sets}, of {low_bit.matrices} matrices; {references}"


def baseline_warning(report: AuditReport) -> str:
    """What to say of a model that is worse than the baselines on held-out tokens; empty for any other."""
    trained, uniform, unigram = (
        report.network.held_out.trained_loss.value,
        report.baselines.uniform,
        report.baselines.unigram,
    )
    if trained <= unigram.value and trained <= uniform:
        return ""
    if trained > uniform:
        beaten = f"guessing all tokens alike ({number(uniform)})"
    else:
        beaten = f"guessing by word counts alone ({number(unigram.value)})"
    return (
        f"The trained network's held-out loss, {number(trained)}, is above that of {beaten}. Is it the right "
        "tokenizer, the right text, a trained checkpoint? Until that is settled, read nothing into the verdicts below."
    )


def series_words(trajectory: Trajectory) -> tuple[str, ...]:
    """What a training run shows, in sentences."""
    steady = trajectory.green_from
    network = (
        "The network is not green at its last step."
        if steady is None
        else f"The network is green from step {count(steady)} on."
    )
    if trajectory.met_so_far is None:
        return network, "No checkpoint is at or below the least YES* so far with a green verdict of its own."
    met = f"Step {count(trajectory.met_so_far)} is the first at or below the least YES* so far"
    if trajectory.met is None:
        return network, f"{met}; none is at or below the least YES* of the whole series."
    return network, f"{met}, step {count(trajectory.met)} the first at or below the least YES* of the whole series."
