"""What an audit found: frozen records without torch, so that a saved report is read, gated or drawn without it.

All losses and gaps are in nats/token. The JSON report has the names of the fields here (`exports/json.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "SCHEMA_VERSION",
    "AuditReport",
    "BaselineLosses",
    "BlockFit",
    "CheckpointInfo",
    "ClusterSums",
    "DataInfo",
    "Estimate",
    "FaultKind",
    "FaultResult",
    "GateCheck",
    "Grid",
    "GridKind",
    "LayerRow",
    "LowBit",
    "LowBitSet",
    "NetworkRow",
    "Outcome",
    "RepairInfo",
    "ScaleLayout",
    "ScheduleBounds",
    "ScheduleResult",
    "ScheduleSearch",
    "Score",
    "Selftest",
    "SplitFigures",
    "SplitInfo",
    "TaskFigures",
    "TaskRow",
    "TaskState",
    "TensorInfo",
    "Unaudited",
    "Verdict",
    "YesBound",
    "ZeroPoint",
]

SCHEMA_VERSION = 1
"""Raised whenever a field of the JSON report is removed, renamed, or changes its meaning. A new field has a default,
which is what a report of an earlier version is taken to say.
"""


class Verdict(StrEnum):
    """The trained network (or its first k layers) against the bounds, same tokens and same readout kind."""

    RED = "red"
    """Ineffective: the trained loss is above YES-0."""
    YELLOW = "yellow"
    """Caution: between YES* and YES-0."""
    GREEN = "green"
    """Effective: at or below YES*. A certificate against these baselines, not a proof of optimality."""
    GREY = "grey"
    """Inconclusive: the interval straddles a line."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval, `low` and `high`, from a bootstrap over clusters."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SplitFigures:
    """The figures of one network, or of its first k layers, on one split. All in nats/token.

    `bound` and `yes0` are losses of the reference states under the row's readout; `trained_loss` is that of the trained
    states under the model's *own* norm and head, and `trained_readout_loss` is that of the trained states under the
    row's readout, the like-for-like partner of the bounds. So

        gap_total = trained_loss - bound = gap_head + gap_layers
        gap_head = trained_loss - trained_readout_loss
        gap_layers = trained_readout_loss - bound

    and `verdict` compares `trained_readout_loss` with `yes0` and `bound`.

    Where float references were fitted beside the low-bit ones, `float_bound` is the loss of the best of them and
    `distortion` = bound - float_bound what the bits cost a reference; None elsewhere. What a low-bit network loses to a
    float reference is gap_layers + distortion: what training missed, and the bits.
    """

    trained_loss: Estimate
    trained_readout_loss: Estimate
    yes0: Estimate
    bound: Estimate
    gap_total: Estimate
    gap_head: Estimate
    gap_layers: Estimate
    verdict: Verdict
    float_bound: Estimate | None = None
    distortion: Estimate | None = None


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """A row's held-out losses summed over each cluster, in nats, not per token, so that two reports on the same tokens
    can be compared cluster by cluster. All are [clusters], in the order of `AuditReport.held_out_predictions`.

    `own` is of the trained states under the model's own head, `trained` of the same under the row's readout; `yes0` and
    `bound` are of the reference states.
    """

    own: tuple[float, ...]
    trained: tuple[float, ...]
    yes0: tuple[float, ...]
    bound: tuple[float, ...]


class Symptom(StrEnum):
    """What is wrong with a layer by its own looks."""

    UNTRAINED = "untrained"
    """None of its matrices can be told from random ones."""
    ATTENTION_SILENT = "attention silent"
    """Its attention adds next to nothing to the residual stream, compared with the other layers'."""
    MLP_SILENT = "MLP silent"
    """Its MLP adds next to nothing to the residual stream, compared with the other layers'."""


@dataclass(frozen=True, slots=True)
class LayerSigns:
    """What a layer's symptoms are told from.

    `attention_rms` and `mlp_rms` are root mean squares of what each adds to the residual stream, over *held-out*.
    `spectral_excess` is the most of the block's matrices: how far the largest eigenvalue of W'W is above what random
    entries of the same spread give, in the unit of its law (Tracy and Widom): up to 8, it may be chance.
    """

    attention_rms: float
    mlp_rms: float
    spectral_excess: float


@dataclass(frozen=True, slots=True)
class LayerRow:
    """The audit's row for peel depth `layer`: blocks 1 to `layer` alone, read out directly. The last is the
    network's own.

    `gap` is `held_out.gap_layers`: trained states minus best reference states, same tokens, same readout.
    `best_schedule` was chosen on *select*; `best_target` is what it fits this block to. `redundancy` is the
    normalised mean squared error (held-out) of skipping the block, `projection_error[i]` that of the best block
    `layer` from the trained input to the trained state after block `layer + i`: the row of the peel map. Errors are
    ratios without unit: 0 is exact, 1 no better than the target's mean. `reading` says the row in plain words.
    `held_out_sums` is what `held_out` was taken from. `weights_sha256` is of block `layer`'s weights in the dtype that
    they were computed in, whatever the file's format.
    """

    layer: int
    readout: str
    fit: SplitFigures
    held_out: SplitFigures
    gap: Estimate
    best_schedule: str
    best_target: int
    redundancy: Estimate
    projection_error: tuple[Estimate, ...]
    reading: str
    held_out_sums: ClusterSums
    weights_sha256: str
    repair_gap: Estimate | None = None
    """By how much the network's held-out loss falls, nats/token, when block `layer` alone is repaired; None where no
    repair was asked for.
    """
    signs: LayerSigns | None = None
    symptoms: tuple[Symptom, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """The whole network. `paper_verdict` is the paper's: point values on fit tokens, own head against refitted heads.

    `best_schedule`, the one behind `bound`, was chosen on *select* for `held_out` and is the least on fit tokens
    (`best_schedule_fit`) for `fit`, as in the paper.

    The schedule `direct`, from trained weights, is the trained network itself, so that a gap can be 0 by definition.
    `rival` is the best on *select* of the references that are another network, and `margin` its held-out loss minus
    the trained states' (same readout, nats/token): how far behind it is. Both are None where there is no other.
    """

    readout: str
    fit: SplitFigures
    held_out: SplitFigures
    best_schedule: str
    best_schedule_fit: str
    paper_verdict: Verdict
    rival: str | None
    margin: Estimate | None


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
class DataInfo:
    """The calibration data as used. `sha256` is of the source's bytes, `tokens_sha256` of the token ids in the three
    splits.

    `unit` is `document` or `sequence`: what the splits and the bootstrap keep together.
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


class GridKind(StrEnum):
    """What a low-bit tensor's weights are."""

    BINARY = "binary"
    """-s and s."""
    TERNARY = "ternary"
    """-s, 0 and s."""
    INTEGER = "int"
    """At most 2^b evenly spaced values."""


class ScaleLayout(StrEnum):
    """Which weights share a scale."""

    TENSOR = "tensor"
    ROW = "row"
    """An output channel."""
    GROUP = "group"
    """So many neighbouring inputs of an output channel."""


class ZeroPoint(StrEnum):
    """Where 0 lies among the values of an integer grid."""

    SYMMETRIC = "symmetric"
    """In the middle: a scale times -2^(b-1) … 2^(b-1) - 1."""
    INTEGER = "integer"
    """On one of the values, each group's own."""
    FREE = "free"
    """Anywhere: each group has a minimum."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The low-bit grid that a tensor's weights lie on. `bits` a weight, scales aside: 1, log2(3), or b. `group` is the
    length of a group, in inputs, None where the layout isn't by group. `zero_fraction` is the share of zeros.
    """

    kind: GridKind
    bits: float
    layout: ScaleLayout
    group: int | None
    zero_fraction: float
    zero: ZeroPoint = ZeroPoint.SYMMETRIC

    @property
    def name(self) -> str:
        """`ternary per tensor`, `4-bit in groups of 32`."""
        kind = f"{self.bits:g}-bit" if self.kind is GridKind.INTEGER else str(self.kind)
        return f"{kind} per {self.layout}" if self.group is None else f"{kind} in groups of {self.group}"


@dataclass(frozen=True, slots=True)
class LowBitSet:
    """So many matrices of one low-bit set, by its name: `ternary per tensor`."""

    name: str
    matrices: int


@dataclass(frozen=True, slots=True)
class LowBit:
    """The low-bit matrices among the `matrices` of a network's blocks, the set of most of them first.

    `held` says whether reference blocks are of the same sets; float ones, of a low-bit network, are no network that it
    could have been.
    """

    sets: tuple[LowBitSet, ...]
    matrices: int
    held: bool


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor, as its file names it. `bytes` is its size in the file. `grid` is None where the weights lie on
    none, and where only headers were read.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    grid: Grid | None = None


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What a checkpoint is, from its headers and configuration alone.

    `parameters` counts each shared (tied) weight once. `bytes` is the size of the weight files. `sha256` is of the
    weight files and the configuration. `files` are relative to `path`. `dtype` is the stored one, or several joined
    by `+`, most bytes first. `training_step` is None where none is recorded.
    """

    path: str
    format: str
    family: str
    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp_width: int
    vocabulary: int
    context: int
    dtype: str
    parameters: int
    bytes: int
    tied_head: bool
    tokenizer: str | None
    training_step: int | None
    files: tuple[str, ...]
    sha256: str
    tensors: tuple[TensorInfo, ...]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """A finished audit. `settings` are the resolved ones, `versions` those of the tool and the libraries that computed,
    `timings` are seconds by stage (the one part that differs between equal runs). `held_out_predictions` is the number
    of predicted tokens of each held-out cluster. `low_bit` is None where all blocks are float.
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
    advice: str
    timings: tuple[tuple[str, float], ...]
    repair: RepairInfo | None = None
    low_bit: LowBit | None = None


@dataclass(frozen=True, slots=True)
class RepairInfo:
    """How blocks were repaired for `LayerRow.repair_gap`, and which of them stand out.

    `steps` are those that each block's repair took, `passes` the cost of all in forward passes over the calibration
    tokens. `named` are the layers whose gap stands out from the others', the largest first.
    """

    mode: str
    steps: tuple[int, ...]
    passes: float
    named: tuple[int, ...]


class Outcome(StrEnum):
    """What became of one rule of a gate on one row of a report."""

    PASSED = "passed"
    """Within the limit, and the interval agrees."""
    FAILED = "failed"
    """Beyond the limit, the whole interval."""
    INCONCLUSIVE = "inconclusive"
    """The interval straddles the limit."""
    SUPPRESSED = "suppressed"
    """Not passed, but excused by a suppression in the configuration that has not expired."""


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One rule of a gate applied to one row of one report.

    `checkpoint` is the report's `checkpoint.path`. `rule` is as it was written (`layer.gap=0.02`, `red`). `layer` is
    None for the network. `metric` is the field that was looked at, `limit` what it must not pass, both in nats/token;
    `limit` and `figure` are None where the rule is about a verdict. `suppressed` says what a SUPPRESSED check would
    have been, and None for any other. `fails` says whether this check makes the gate fail. `reason` is one sentence.
    """

    checkpoint: str
    rule: str
    layer: int | None
    metric: str
    limit: float | None
    figure: Estimate | None
    outcome: Outcome
    suppressed: Outcome | None
    fails: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Unaudited:
    """A checkpoint of a batch that has no report: its audit ended in an error.

    `error` is the error's class (`MalformedCheckpoint`), `reason` its sentence.
    """

    checkpoint: str
    error: str
    reason: str


class TaskState(StrEnum):
    """How far a checkpoint of a batch is."""

    DONE = "done"
    """Audited, its report in the results directory."""
    KEPT = "kept"
    """Found done by this run: the same content, data and settings were audited before."""
    FAILED = "failed"
    RUNNING = "running"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """What a table of many audits shows of one: the network's held-out figures, nats/token."""

    training_step: int | None
    trained_loss: Estimate
    bound: Estimate
    gap_layers: Estimate
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class TaskRow:
    """What became of one checkpoint of a batch.

    `checkpoint` is its path as it was given or found. `exit_code` is what `peelaudit run` returns in such a case, None
    while it isn't over. `reason` is one sentence: why it failed, or whose report was kept. `report` is the report's
    file, relative to the results directory.
    """

    checkpoint: str
    state: TaskState
    exit_code: int | None = None
    reason: str | None = None
    report: str | None = None
    figures: TaskFigures | None = None


class FaultKind(StrEnum):
    """What `selftest` does to a block."""

    REINITIALISED = "reinitialised"
    """Matrices drawn anew, with the spread that they had."""
    NOISED = "noised"
    """Noise of 0.3 of each matrix' spread is added."""
    MLP_ZEROED = "mlp-zeroed"
    """The MLP's output matrix is zero."""
    ATTENTION_ZEROED = "attention-zeroed"
    """The attention's output matrix is zero."""
    HEAD_SCRAMBLED = "head-scrambled"
    """One head's part of the attention's output matrix is shuffled."""
    ONE_BIT = "one-bit"
    """Matrices rounded to their signs, times a scale for each output."""
    ROLLED_BACK = "rolled-back"
    """The block of an earlier checkpoint."""


class Score(StrEnum):
    """What might tell which layer is damaged: a figure of each, or what the audit makes of them.

    AUDIT is the order of suspicion: layers with a symptom before all others, then the repair gap.
    """

    AUDIT = "audit"
    REPAIR = "repair gap"
    DEPTH_GAP = "depth gap"
    PROJECTION = "projection error"
    REDUNDANCY = "redundancy"
    INFLUENCE = "block influence"
    NORM = "weight norm"


@dataclass(frozen=True, slots=True)
class FaultResult:
    """What an audit made of one planted fault.

    `rise` is by how much the held-out loss rose with it, nats/token. `ranks` are the damaged layer's, 1 the first, by
    score. `named` are the layers that the audit named.
    """

    kind: FaultKind
    layer: int
    rise: float
    ranks: tuple[tuple[str, int], ...]
    named: tuple[int, ...]

    @property
    def found(self) -> bool:
        """Whether the damaged layer was named."""
        return self.layer in self.named


@dataclass(frozen=True, slots=True)
class Selftest:
    """What the audit sees of planted faults on this checkpoint with this text.

    `loss` is the undamaged network's on *held-out*, nats/token. `undamaged` are the layers that were named without any
    fault, for each draw of the text; the first is the draw that the faults were audited on.
    """

    checkpoint: str
    source: str
    fit_tokens: int
    layers: int
    loss: float
    faults: tuple[FaultResult, ...]
    undamaged: tuple[tuple[int, ...], ...]
