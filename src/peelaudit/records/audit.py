"""The report of one audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from peelaudit.records.checkpoints import CheckpointInfo, LowBit
from peelaudit.records.figures import Estimate, SplitFigures, Verdict
from peelaudit.records.layers import LayerRow, Symptom
from peelaudit.records.parents import Parent

__all__ = [
    "SCHEMA_VERSION",
    "AuditReport",
    "BaselineLosses",
    "BlockFit",
    "DataInfo",
    "DataShare",
    "LayerRefinement",
    "NetworkRow",
    "Refinement",
    "ScheduleBounds",
    "ScheduleResult",
    "ScheduleSearch",
    "SplitInfo",
    "YesBound",
    "named_layers",
]

SCHEMA_VERSION = 2
"""Raised whenever a field of the JSON report is removed, renamed, or changes its meaning. A new field has a default,
which is what a report of an earlier version is taken to say.
"""


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """The whole network. `paper_verdict` is the paper's: point values on fit tokens, own head against refitted heads,
    and peeled references alone.

    `best_schedule`, the one behind `bound`, was chosen on *select* for `held_out` and is the least on fit tokens
    (`best_schedule_fit`) for `fit`, as in the paper: of peeled references, for `refined` is fitted to those tokens.

    The schedule `direct`, from trained weights, is the trained network itself, so that a gap can be 0 by definition.
    `rival` is the best on *select* of the references that are another network, and `margin` its held-out loss minus
    the trained states' (same readout, nats/token): how far behind it is. Both are None where there is no other.

    `refinement` is how the reference `refined` was made, None where it wasn't run. `temperature` is what the trained
    head's logits want to be divided by, by *select*, and `temperature_gain` what that gains on *held-out*.
    `estimated_gain` is what a step of all blocks, as floats, is estimated to gain on *held-out*, where `refined` isn't
    run with little effort: no network that has it was built.
    """

    readout: str
    fit: SplitFigures
    held_out: SplitFigures
    best_schedule: str
    best_schedule_fit: str
    paper_verdict: Verdict | None
    rival: str | None
    margin: Estimate | None
    temperature: float
    temperature_gain: Estimate
    refinement: Refinement | None = None
    estimated_gain: Estimate | None = None

    @property
    def gap_layers(self) -> Estimate | None:
        """That of *held-out*; None where the network was compared with itself alone, so that it is 0 by definition."""
        return None if self.rival is None and self.refinement is None else self.held_out.gap_layers


@dataclass(frozen=True, slots=True)
class Refinement:
    """How the reference `refined` was made: all blocks moved along the loss's own gradient.

    `steps` are natural-gradient steps, `products` those with the exact curvature, `passes` the cost in forward passes
    over the calibration tokens. `gain` is by how much held-out loss it is below the trained states' (same readout,
    nats/token), `half` the same with the first half of the fit tokens: where the first is clearly above the second,
    more text would find more. `held` says whether its weights were held to low-bit sets.
    """

    steps: int
    products: int
    passes: float
    gain: Estimate
    half: Estimate | None
    held: bool = False


@dataclass(frozen=True, slots=True)
class BlockFit:
    """How one reference block was fitted. Errors are normalised mean squared errors of the block's output, without
    unit.
    """

    layer: int
    target: int
    fit_error: float
    select_error: float
    trained_error: float
    """The error on *select* with the trained weights left as they are."""
    method: str
    """`trained` (nothing better found or nothing to do), `ridge` or `adam`."""
    penalty: float | None
    """The ridge penalty chosen on *select*, relative to the mean eigenvalue of the Gram matrix."""
    unknowns: int | None = None
    """Of the ridge regression, for each output; None where there was none."""
    rank: int | None = None
    """Of its Gram matrix. Below `unknowns`, the fit tokens leave directions undetermined, which stay as trained."""
    condition: float | None = None
    """Largest over least eigenvalue of its Gram matrix, of the directions that were kept."""


@dataclass(frozen=True, slots=True)
class ScheduleBounds:
    """A schedule's loss on one split, nats/token: under the model's own head, and under the network row's readout."""

    own: Estimate
    bound: Estimate


@dataclass(frozen=True, slots=True)
class ScheduleResult:
    """One schedule that was run. `targets[k-1]` is the state that block k was fitted to; `waypoints` is None where the
    targets are not a staircase.
    """

    name: str
    targets: tuple[int, ...]
    waypoints: tuple[int, ...] | None
    fit: ScheduleBounds
    select: ScheduleBounds
    held_out: ScheduleBounds
    blocks: tuple[BlockFit, ...]


@dataclass(frozen=True, slots=True)
class YesBound:
    """YES-k: the least bound over the schedules run with at most `waypoints` waypoints.

    `fit` and `select` are least on their own tokens, so they never rise with k. `held_out` is the held-out loss of the
    schedule that is best on *select* (`schedule`), an unbiased estimate that may rise.
    """

    waypoints: int
    schedule: str
    fit: float
    select: float
    held_out: Estimate


@dataclass(frozen=True, slots=True)
class ScheduleSearch:
    """How the schedules were found: `possible` staircases exist, `searched` were compared by estimate, `run` were
    run.
    """

    requested: tuple[str, ...]
    possible: int
    searched: int
    run: int


@dataclass(frozen=True, slots=True)
class BaselineLosses:
    """What needs no model: guessing uniformly, ln(vocabulary), and the fit tokens' add-one unigram frequencies
    (held-out).
    """

    uniform: float
    unigram: Estimate


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """The size of one split. A cluster is a document, or a group of short ones, or a sequence where there are no
    documents.
    """

    sequences: int
    tokens: int
    predicted_tokens: int
    clusters: int
    documents: int | None


@dataclass(frozen=True, slots=True)
class Front:
    """The tokens that the tokenizer puts in front, and where they stand: `sequence` for before each, else `document`.

    Where both were tried, `without` and `within` are the trained network's losses on the same tokens of *select*, in
    nats/token, without and with them before each sequence. `fed_only` are those of them that the network was never
    trained to predict: it sees them, and they are no targets.
    """

    tokens: tuple[int, ...]
    placement: str
    without: float | None
    within: float | None
    fed_only: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DataShare:
    """What one path gave that was named with a weight: `share` is what it was to give of all sequences, `documents` are
    those read (None where its text is undivided), `fit`, `select` and `held_out` the sequences drawn for each.
    """

    source: str
    share: float
    documents: int | None
    fit: int
    select: int
    held_out: int


@dataclass(frozen=True, slots=True)
class DataInfo:
    """The calibration data as used. `sha256` is of the source's bytes, `tokens_sha256` of the token ids in the three
    splits; `drawn_sha256` is that before anything was put before each sequence, empty where nothing was.

    `unit` is `document` or `sequence`: what the splits and the bootstrap keep together. `front` is None where the
    tokenizer puts nothing in front, or there is none. `shares` is empty where no weights were given.
    """

    source: str
    kind: str
    sha256: str
    tokens_sha256: str
    tokenizer: str | None
    unit: str
    documents: int | None
    duplicate_documents: int
    available_tokens: int | None
    seq_len: int
    fit: SplitInfo
    select: SplitInfo
    held_out: SplitInfo
    front: Front | None = None
    drawn_sha256: str = ""
    shares: tuple[DataShare, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditReport:
    """A finished audit. `settings` are the resolved ones, `versions` those of the tool and the libraries that computed,
    `timings` are seconds by stage (the one part that differs between equal runs). `held_out_predictions` is the number
    of predicted tokens of each held-out cluster. `headline` is the verdict in words. `low_bit` is None where all blocks
    are float. `passes` is what the blocks computed, by stage, in forward passes of all of them over all calibration
    tokens: a backward pass counts as two, and readouts as none.
    """

    schema_version: int
    versions: tuple[tuple[str, str], ...]
    checkpoint: CheckpointInfo
    data: DataInfo
    held_out_predictions: tuple[int, ...]
    settings: tuple[tuple[str, object], ...]
    baselines: BaselineLosses
    network: NetworkRow
    layers: tuple[LayerRow, ...]
    schedules: tuple[ScheduleResult, ...]
    yes: tuple[YesBound, ...]
    search: ScheduleSearch
    warnings: tuple[str, ...]
    headline: str
    advice: str
    timings: tuple[tuple[str, float], ...]
    refinement: LayerRefinement | None = None
    low_bit: LowBit | None = None
    passes: tuple[tuple[str, float], ...] = ()
    parent: Parent | None = None
    """None where the layers were held against no other checkpoint's."""

    def __repr__(self) -> str:
        """The verdict in words: the figures fill pages."""
        name = repr(PurePath(self.checkpoint.path).name)[1:-1]  # without control characters
        return f"<AuditReport {name}: {self.verdict}, {self.headline}>"

    @property
    def verdict(self) -> Verdict:
        """The network's, on *held-out*."""
        return self.network.held_out.verdict

    @property
    def named(self) -> tuple[int, ...]:
        """See `named_layers`."""
        return named_layers([row.symptoms for row in self.layers], self.refinement)


@dataclass(frozen=True, slots=True)
class LayerRefinement:
    """How each block was refined alone for `LayerRow.gap`, and which of them stand out.

    `steps` are the natural-gradient steps that each block took, `products` those with the exact curvature, `passes` the
    cost of all in forward passes over the calibration tokens. `named` are the layers whose gap stands out from the
    others', the largest first. `judged` says whether any could be: one step doesn't tell low-bit layers apart, little
    text tells none, and where layers have the same weights their gaps don't. `leading` is the layer with the largest
    gap, with those that tie with it, where these are few: it says where the most is to be gained, nothing of damage.
    """

    steps: tuple[int, ...]
    products: tuple[int, ...]
    passes: float
    named: tuple[int, ...]
    judged: bool = True
    leading: tuple[int, ...] = ()


def named_layers(symptoms: Sequence[Sequence[Symptom]], refinement: LayerRefinement | None) -> tuple[int, ...]:
    """The layers to look at, 1 … L: those with a symptom, then those whose gap stands out.

    Args:
        symptoms: [L] of each layer.
        refinement: how blocks were refined, if they were.
    """
    sick = tuple(layer for layer, found in enumerate(symptoms, 1) if found)
    return (*sick, *(refinement.named if refinement else ()))
