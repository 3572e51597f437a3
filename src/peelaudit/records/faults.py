"""What an audit sees of planted faults."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from peelaudit.records.figures import Verdict

__all__ = ["FaultKind", "FaultResult", "Said", "Score", "Selftest"]


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
    EXPERT_REINITIALISED = "expert-reinitialised"
    """The matrices of one of a mixture's experts drawn anew."""
    ROUTER_REINITIALISED = "router-reinitialised"
    """What decides on the experts of each token drawn anew."""
    ROLLED_BACK = "rolled-back"
    """The block of an earlier checkpoint."""


class Score(StrEnum):
    """What might tell which layer is damaged: a figure of each, or what the audit makes of them.

    AUDIT is the order of suspicion: layers that look untrained or silent before all others, then by how far the gap
    or a slope stands out, whichever does furthest.
    """

    AUDIT = "audit"
    GAP = "gap"
    SCALE_SLOPE = "scale slope"
    BULK_SLOPE = "bulk slope"
    ROUTING = "routing"
    DEPTH_GAP = "depth gap"
    PROJECTION = "projection error"
    REDUNDANCY = "redundancy"
    INFLUENCE = "block influence"
    NORM = "weight norm"


@dataclass(frozen=True, slots=True)
class Said:
    """What an audit said of a network: the layers that it named, those whose gap is the largest where it needn't stand
    out, and the verdict, None without references.
    """

    named: tuple[int, ...]
    leading: tuple[int, ...] = ()
    verdict: Verdict | None = None

    @property
    def headline(self) -> tuple[int, ...]:
        """The layers in the headline: the named ones, else those that gain most where the layers can do better."""
        return self.named or (self.leading if self.verdict is Verdict.YELLOW else ())


@dataclass(frozen=True, slots=True)
class FaultResult:
    """What an audit made of one planted fault.

    `rise` is by how much the held-out loss rose with it, nats/token. `ranks` are the damaged layer's, 1 the first, by
    score; there is none by what wasn't measured: repairs, references, slopes that no gradient reaches.
    """

    kind: FaultKind
    layer: int
    rise: float
    ranks: tuple[tuple[str, int], ...]
    said: Said

    @property
    def found(self) -> bool:
        """Whether the damaged layer was named."""
        return self.layer in self.said.named


@dataclass(frozen=True, slots=True)
class Selftest:
    """What the audit sees of planted faults on this checkpoint with this text.

    `loss` is the undamaged network's on *held-out*, nats/token. `undamaged` is what was said without any fault, for
    each draw of the text; the first is the draw that the faults were audited on. `warnings` are those of the first
    draw's text.
    """

    checkpoint: str
    source: str
    fit_tokens: int
    layers: int
    loss: float
    faults: tuple[FaultResult, ...]
    undamaged: tuple[Said, ...]
    warnings: tuple[str, ...] = ()
