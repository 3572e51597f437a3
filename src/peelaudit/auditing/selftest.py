"""Planted faults: does the audit name the layer that was damaged, on this checkpoint and with this text?

One block at a time is damaged in memory and the network audited. For every score that a layer has, the damaged layer's
rank among all is noted, and whether the advice names it. Draws of the text on the undamaged network tell how often a
layer is named for nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from peelaudit.auditing.conclude import conclude
from peelaudit.auditing.faults import damaged
from peelaudit.auditing.feeding import fed
from peelaudit.auditing.measure import Measurer
from peelaudit.auditing.measurements import Measurements
from peelaudit.auditing.prepare import Prepared, held_decoder, prepared
from peelaudit.checkpoints import Checkpoint, open_checkpoint
from peelaudit.errors import ConfigError
from peelaudit.method.diagnosis.influence import influence
from peelaudit.method.diagnosis.naming import Naming, name_layers, naming_warnings
from peelaudit.method.linalg.moments import accumulation_dtype
from peelaudit.method.references.distances import sequence_errors, squared_deviation
from peelaudit.method.references.schedules import parse_schedules
from peelaudit.network.block import Block
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import StateStore, TokenRows, trained_states
from peelaudit.progress import SILENT, Progress
from peelaudit.records import FaultKind, FaultResult, LayerRow, Said, Score, Selftest, Symptom, Verdict
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.rules import Selector

__all__ = ["Plan", "selftest"]

_SEEDS = 2**32
"""How many seeds a generator has."""

Scores = Mapping[Score, NDArray[np.float64]]


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is planted, and how it is looked for.

    Attributes:
        kinds: of faults; ROLLED_BACK only with `earlier`.
        layers: that are damaged; None for all.
        redraws: of the text, on the undamaged network.
        earlier: an earlier checkpoint of the same run.
        references: whether references are fitted; without, a deep network takes a fraction of the time, and there are
            no depth gaps and projection errors. What is named needs none.
    """

    kinds: tuple[FaultKind, ...]
    layers: Selector | None = None
    redraws: int = 10
    earlier: Path | None = None
    references: bool = True


def selftest(config: AuditConfig, plan: Plan, *, progress: Progress = SILENT) -> Selftest:
    """Audit the checkpoint with one fault after another.

    The references are `refined` and that of the schedule `final` alone, of a quick one none: the other figures need no
    more.

    Raises:
        PeelauditError: as `audit_config`.
    """
    schedules = ("direct",) if config.effort == "quick" else ("refined", "final")
    config = dataclasses.replace(config, schedules=schedules, parent=None)
    with prepared(config) as audit, ExitStack() as stack:
        bench = _Bench(audit)
        n_layers = bench.decoder.n_layers
        if plan.layers is not None and (missing := plan.layers.beyond(n_layers)):
            raise ConfigError(f"--layers has {', '.join(missing)}: the network has {n_layers} layers")
        chosen = [layer for layer in range(1, n_layers + 1) if plan.layers is None or layer in plan.layers]
        earlier = None if plan.earlier is None else bench.decoder_of(plan.earlier, stack)
        if plan.kinds:
            progress.stage("planted faults", len(plan.kinds) * len(chosen))
        healthy = bench.audit(bench.decoder, references=plan.references)
        faults = []
        for kind in plan.kinds:
            for layer in chosen:
                if (block := bench.damaged(kind, layer, earlier)) is not None:
                    faults.append(bench.planted(kind, block, healthy.loss, references=plan.references))
                progress.advance()
        undamaged = [healthy.said]
        info, data = audit.checkpoint.info, audit.calibration.info
        warnings = (*audit.calibration.warnings, *naming_warnings(data))
    progress.stage("draws of the text", plan.redraws)
    for draw in range(plan.redraws):
        with prepared(dataclasses.replace(config, seed=(config.seed + 1 + draw) % _SEEDS)) as audit:
            again = _Bench(audit)
            undamaged.append(again.audit(again.decoder, references=plan.references).said)
        progress.advance()
    return Selftest(
        info.path, data.source, data.fit.tokens, info.layers, healthy.loss, tuple(faults), tuple(undamaged), warnings
    )


class _Audit(NamedTuple):
    """A network's: its held-out loss, what is said of its layers, and if references were fitted their rows and the
    verdict.
    """

    loss: float
    naming: Naming
    rows: tuple[LayerRow, ...] = ()
    verdict: Verdict | None = None

    @property
    def said(self) -> Said:
        how = self.naming.refinement
        return Said(self.naming.named, () if how is None else how.leading, self.verdict)


class _Bench:
    """A checkpoint open for audits of damaged copies."""

    def __init__(self, audit: Prepared) -> None:
        self._audit, self._config = audit, audit.config
        self._info = audit.checkpoint.info
        self._dtype = getattr(torch, audit.config.dtype)
        self.decoder = _decoder(audit)
        store = StateStore.of(self.decoder)
        self._calibration = fed(audit.calibration, self.decoder, audit.config.bos, store)

    def decoder_of(self, path: Path, stack: ExitStack) -> Decoder:
        """Another checkpoint's network, open as long as `stack`. Raises ConfigError where it isn't alike."""
        checkpoint = stack.enter_context(
            open_checkpoint(path, config=self._config.config, adapter=self._config.adapter)
        )
        if _shape(checkpoint) != _shape(self._audit.checkpoint):
            raise ConfigError(f"--earlier is {path}: not a checkpoint of the same network")
        return _decoder(dataclasses.replace(self._audit, checkpoint=checkpoint))

    def damaged(self, kind: FaultKind, layer: int, earlier: Decoder | None) -> Block | None:
        """The block with a fault; None where that changes nothing, such as one bit for what has no more."""
        healthy = self.decoder.block(layer)
        if kind is FaultKind.ROLLED_BACK and earlier is not None:
            block = earlier.block(layer)
        else:
            block = damaged(healthy, kind, heads=self._info.heads, seed=self._config.seed + layer)
        return None if _alike(block, healthy) else block

    def planted(self, kind: FaultKind, block: Block, loss: float, *, references: bool) -> FaultResult:
        """What the audit makes of a fault; `loss` is the undamaged network's."""
        layer, decoder = block.layer, self.decoder.replacing(block)
        audit = self.audit(decoder, references=references)
        ranks = tuple((str(score), _rank(values, layer)) for score, values in self._scores(decoder, audit).items())
        return FaultResult(kind, layer, audit.loss - loss, ranks, audit.said)

    def audit(self, decoder: Decoder, *, references: bool = False) -> _Audit:
        """The figures of this network."""
        config = self._config
        measurer = Measurer(decoder, self._calibration, config, store=StateStore.of(decoder))
        examiner, wanted = measurer.examiner(), self._audit.extent
        examined = examiner.examination(measurer.gaps(examiner, wanted.alone) if wanted.alone is not None else None)
        if not references:
            return _Audit(measurer.panel.mean(measurer.own, "held_out"), name_layers(examined))
        trained, plan = measurer.trained(), parse_schedules(config.schedules, decoder.n_layers)
        refined = measurer.refined(wanted.whole, half=False) if plan.refined else None
        measured = Measurements(trained, measurer.references(trained, plan, map_reach=1), refined, examined)
        findings = conclude(measured, config, self._info.vocabulary)
        held_out = findings.network.held_out
        return _Audit(held_out.trained_loss.value, findings.naming, findings.layers, held_out.verdict)

    def _scores(self, decoder: Decoder, audit: _Audit) -> Scores:
        """Of each layer, what is largest where damage is thought to be."""
        naming, layers = audit.naming, range(1, decoder.n_layers + 1)
        redundancies, influences = zip(*self._changes(decoder), strict=True)
        slopes = naming.slopes if all(naming.slopes) else ()
        errors = [row.projection_error[1].value if len(row.projection_error) > 1 else 0.0 for row in audit.rows]
        scores = {
            Score.AUDIT: naming.suspicion,
            Score.GAP: np.array([gap.value for gap in naming.gaps if gap]),
            Score.SCALE_SLOPE: np.abs([found[Symptom.MISSCALED].value for found in slopes]),
            Score.BULK_SLOPE: np.array([found[Symptom.NOISY].value for found in slopes]),
            Score.ROUTING: _lost_by_routing(naming),
            Score.DEPTH_GAP: np.array([row.depth_gap.value for row in audit.rows]),
            Score.PROJECTION: np.array(errors),
            Score.REDUNDANCY: _oddity(redundancies),
            Score.INFLUENCE: _oddity(influences),
            Score.NORM: _oddity([_norm(decoder.block(layer)) for layer in layers]),
        }
        return {score: values for score, values in scores.items() if len(values)}

    def _changes(self, decoder: Decoder) -> Iterator[tuple[float, float]]:
        """Of each block, over *held-out*: the normalised error of leaving it out, and its influence."""
        data = TokenRows.of(self._calibration)
        states = trained_states(decoder, data.tokens[data.rows.held_out], StateStore.of(decoder))
        for before, after in pairwise(states):
            change, spread = sequence_errors(before, after, slice(None)).sum(), squared_deviation(after, slice(None))
            yield float(change) / spread, float(influence(before, after).mean())


def _lost_by_routing(naming: Naming) -> NDArray[np.float64]:
    """[L] what each router loses by its own choice, less than any where a layer has none; empty without a mixture."""
    lost = [-np.inf if one is None else one for one in naming.lost_by_routing]
    return np.array(lost if any(np.isfinite(lost)) else [])


def _shape(checkpoint: Checkpoint) -> tuple[object, ...]:
    """What two checkpoints of one run have in common."""
    info = checkpoint.info
    return info.family, info.layers, info.width, info.heads, info.kv_heads, info.mlp_width, info.vocabulary


def _decoder(audit: Prepared) -> Decoder:
    decoder, _ = held_decoder(audit, audit.checked())
    return decoder


def _alike(one: Block, other: Block) -> bool:
    """Whether the weights are the same but for rounding."""
    mine, theirs = one.present(), other.present()
    return all(torch.allclose(tensor, theirs[name]) for name, tensor in mine.items())


def _norm(block: Block) -> float:
    """The root mean square of the block's matrices."""
    weights = [
        weight.to(accumulation_dtype(weight.device))
        for name, weight in block.module.named_parameters()
        if weight.ndim == 2
    ]
    count = sum(weight.numel() for weight in weights)
    return math.sqrt(sum(float(weight.square().sum()) for weight in weights) / count)


def _oddity(values: Sequence[float]) -> NDArray[np.float64]:
    """How many times over or under the layers' median: damage moves such a figure either way."""
    logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    oddity: NDArray[np.float64] = np.abs(logs - np.median(logs))
    return oddity


def _rank(values: NDArray[np.float64], layer: int) -> int:
    """1 for the largest; a tie counts against the layer."""
    return int((values >= values[layer - 1]).sum())
