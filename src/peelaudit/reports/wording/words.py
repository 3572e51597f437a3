"""What the verdicts and the words of a report mean, in sentences. No rich here: exports use it too."""

from __future__ import annotations

from peelaudit.records import AuditReport, DataInfo, Verdict
from peelaudit.reports.wording.text import count, interval, number, signed

__all__ = [
    "CLOUD_LEGEND",
    "FIT_CLOUD_WORDS",
    "HEAD_WORDS",
    "LEGEND",
    "VERDICT_MEANING",
    "baseline_warning",
    "bits_words",
    "front_words",
    "parent_words",
    "share_words",
]

VERDICT_MEANING: dict[Verdict, str] = {
    Verdict.RED: "it loses to YES-0, whose blocks were each fitted on their own, or to guessing, or a layer is "
    "untrained or silent.",
    Verdict.YELLOW: "a reference is better by more than the tolerance, or a layer stands out from the others.",
    Verdict.GREEN: "no reference that was run is better by more than the tolerance. A certificate against these, not a "
    "proof of optimality.",
    Verdict.GREY: "the interval of gap_layers straddles the tolerance, or the reference refined was not run.",
}
HEAD_WORDS = {"own": "own head", "refit": "refitted head", "lens": "lens"}
LEGEND = (
    "Peeling fits reference blocks to this checkpoint's own hidden states, one after another, without end-to-end "
    "training. YES-0: the loss of the reference whose every block is fitted to the last state. YES*: the least of all "
    "references run; one of them, refined, is the checkpoint itself with all blocks moved along the loss on the fit "
    "text. gap = trained loss - YES*: above 0, a reference does better; gap_head is the readout's part, "
    "gap_layers the layers' part. A peeled reference is called by its waypoints, trained states: each of its layers is "
    "fitted to the next one, or to the last state. direct has all, final none, via:2,3 two, prefix:3 the first three, "
    "every:2 each second, without:4 all but that of layer 4."
)


CLOUD_LEGEND = (
    "The least YES-0 and the least YES* so far are the staircases of the YES cloud. Region: where the trained loss, "
    "under the readout of the bounds, lies by point values: red above both, yellow between, green at most the "
    "tolerance above the least YES*. Verdict: of the checkpoint by itself, with intervals and what is known of its "
    "layers."
)
FIT_CLOUD_WORDS = (
    "This cloud differs from the held-out one because it judges references on the very text that they and their heads "
    "were fitted to, refined by its labels, so that they are better there than on any other; and, as in the paper, the "
    "trained loss is under the model's own head."
)


def front_words(data: DataInfo) -> str:
    """What stands before sequences or documents, and why; empty where nothing does."""
    front = data.front
    if front is None:
        return ""
    tokens = f"token{'' if len(front.tokens) == 1 else 's'} {', '.join(map(str, front.tokens))}"
    alone = "documents alone" if data.documents is not None else "documents alone, of which the text has none"
    text = f"{tokens} before {'each sequence' if front.placement == 'sequence' else alone}"
    if front.without is not None and front.within is not None:
        text += (
            f" (loss on select {number(front.within)} with it before each sequence, {number(front.without)} without)"
        )
    return f"{text}, never a target" if front.fed_only else text


def share_words(data: DataInfo) -> str:
    """What was drawn from where; empty where no weights were given."""
    total = sum(split.sequences for split in (data.fit, data.select, data.held_out))
    words = []
    for share in data.shares:
        given, asked = share.fit + share.select + share.held_out, 100 * share.share
        documents = "undivided" if share.documents is None else f"{count(share.documents)} documents"
        words.append(f"{share.source} ({documents}) gave {given} of {total} sequences, {asked:.3g} % asked for")
    return "; ".join(words)


def parent_words(report: AuditReport) -> str:
    """What the layers were held against, and how the two compare; empty where they were held against none."""
    if (parent := report.parent) is None:
        return ""
    info, difference = parent.checkpoint, parent.difference
    step = "" if info.training_step is None else f", step {count(info.training_step)}"
    facts = f"{info.path} ({info.format}, {info.dtype}{step}, SHA-256 {info.sha256[:16]}…)"
    less = f"{signed(difference.value)} ({interval(difference, sign=True)})"
    return f"{facts}; its loss is {number(parent.loss.value)}, the network's less it {less}"


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
