"""Realistic reports without an audit, for the tests of exports, rendering and the command line."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Sequence
from functools import cache
from typing import Any

from peelaudit.records import (
    SCHEMA_VERSION,
    AuditReport,
    BaselineLosses,
    BlockFit,
    CheckpointInfo,
    ClusterSums,
    DataInfo,
    Estimate,
    LayerRefinement,
    LayerRow,
    NetworkRow,
    Parent,
    Refinement,
    ScheduleBounds,
    ScheduleResult,
    ScheduleSearch,
    SplitFigures,
    SplitInfo,
    TaskFigures,
    TensorInfo,
    Verdict,
    YesBound,
)
from peelaudit.records.budget import Alone, Budget, BudgetRow, Rounded
from peelaudit.records.quantities import quantities_of
from peelaudit.settings.audit import AuditConfig


def make_estimate(value: float, half: float = 0.05) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + 0.9 * half)


def make_figures(
    trained: float, gap_layers: float, *, head: float = -0.03, verdict: Verdict = Verdict.YELLOW
) -> SplitFigures:
    readout = trained - head
    bound = readout - gap_layers
    return SplitFigures(
        trained_loss=make_estimate(trained),
        trained_readout_loss=make_estimate(readout),
        yes0=make_estimate(bound + gap_layers / 2 if verdict is Verdict.RED else bound + abs(gap_layers) + 0.2),
        bound=make_estimate(bound),
        gap_total=make_estimate(head + gap_layers, 0.02),
        gap_head=make_estimate(head, 0.01),
        gap_layers=make_estimate(gap_layers, 0.02),
        verdict=verdict,
    )


HELD_OUT_PREDICTIONS = (272,) * 15
TASK_FIGURES = TaskFigures(1200, Estimate(3.9, 3.8, 4.0), Estimate(3.7, 3.6, 3.8), Estimate(0.2, 0.1, 0.3), Verdict.RED)


def make_sums(figures: SplitFigures) -> ClusterSums:
    """Sums that the figures' values could be of: clusters differ, but in the same way for all four losses."""
    spread = [math.sin(index) for index in range(len(HELD_OUT_PREDICTIONS))]
    centred = [0.3 * (part - statistics.fmean(spread)) for part in spread]

    def sums(loss: Estimate) -> tuple[float, ...]:
        return tuple(n * (loss.value + part) for n, part in zip(HELD_OUT_PREDICTIONS, centred, strict=True))

    return ClusterSums(*map(sums, (figures.trained_loss, figures.trained_readout_loss, figures.yes0, figures.bound)))


def make_layer(layer: int, n_layers: int, schedule: str, verdict: Verdict, draw: random.Random) -> LayerRow:
    loss = 10.8 - 5.5 * layer / n_layers
    gap = {Verdict.RED: 0.3, Verdict.YELLOW: 0.12, Verdict.GREY: 0.01, Verdict.GREEN: -0.04}[verdict] * (
        0.7 + draw.random()
    )
    last = layer == n_layers
    held_out = make_figures(loss, gap, head=-0.03 if last else 1.1, verdict=verdict)
    return LayerRow(
        layer=layer,
        readout="refit" if last else "lens",
        fit=make_figures(loss - 1.2, gap + 0.2, head=0.2 if last else 1.0, verdict=Verdict.RED),
        held_out=held_out,
        gap=make_estimate(0.03 + 0.01 * draw.random(), 0.02),
        depth_gap=make_estimate(gap, 0.02),
        best_schedule=schedule,
        best_target=n_layers,
        redundancy=make_estimate(draw.random(), 0.01),
        projection_error=tuple(make_estimate(0.01 + 0.05 * step, 0.004) for step in range(n_layers - layer + 1)),
        reading=f"Layer {layer} falls short: a block fitted alone to state {n_layers} would predict better.",
        held_out_sums=make_sums(held_out),
        weights_sha256=f"{layer:064x}",
    )


def make_schedule(name: str, targets: Sequence[int], waypoints: tuple[int, ...] | None, loss: float) -> ScheduleResult:
    bounds = ScheduleBounds(own=make_estimate(loss + 0.1), bound=make_estimate(loss))
    return ScheduleResult(
        name=name,
        targets=tuple(targets),
        waypoints=waypoints,
        fit=ScheduleBounds(own=make_estimate(loss - 1.3), bound=make_estimate(loss - 1.4)),
        select=bounds,
        held_out=bounds,
        blocks=tuple(
            BlockFit(layer, target, 0.01, 0.012, 0.02, "ridge", 0.1 if layer % 2 else None)
            for layer, target in enumerate(targets, 1)
        ),
    )


def staircase(waypoints: Sequence[int], n_layers: int) -> tuple[int, ...]:
    return tuple(min(w for w in (*waypoints, n_layers) if w >= layer) for layer in range(1, n_layers + 1))


def make_schedules(n_layers: int) -> tuple[ScheduleResult, ...]:
    late = (n_layers - 2, n_layers - 1)
    sets: list[tuple[str, tuple[int, ...]]] = [
        ("direct", tuple(range(1, n_layers))),
        ("final", ()),
        (f"prefix:{n_layers - 2}", tuple(range(1, n_layers - 1))),
        ("every:2", tuple(range(2, n_layers, 2))),
        ("{" + ",".join(map(str, late)) + "}", late),
    ]
    runs = [make_schedule(name, staircase(w, n_layers), w, 5.4 + 0.02 * i) for i, (name, w) in enumerate(sets)]
    mapping = [1 + (layer * 7) % n_layers for layer in range(n_layers)]
    return (*runs, make_schedule(",".join(map(str, mapping)), mapping, None, 5.9))


def make_checkpoint(n_layers: int = 4, *, path: str = "runs/tiny/ckpt.pt", tensors: int = 2) -> CheckpointInfo:
    return CheckpointInfo(
        path=path,
        format="nanogpt",
        family="gpt2",
        architecture="GPT",
        layers=n_layers,
        width=128,
        heads=4,
        kv_heads=4,
        mlp_width=512,
        vocabulary=50304,
        context=256,
        dtype="float32",
        parameters=7_232_000,
        bytes=28_950_123,
        tied_head=True,
        tokenizer=None,
        training_step=2000,
        files=("ckpt.pt",),
        sha256="a1" * 32,
        tensors=tuple(
            TensorInfo(f"transformer.h.{i}.attn.c_attn.weight", (384, 128), "float32", 196_608) for i in range(tensors)
        ),
    )


def make_data(*, source: str = "wikitext.txt") -> DataInfo:
    return DataInfo(
        source=source,
        kind="text",
        sha256="b2" * 32,
        tokens_sha256="c3" * 32,
        tokenizer="tokenizer.json",
        unit="document",
        documents=412,
        duplicate_documents=3,
        available_tokens=241_211,
        seq_len=256,
        fit=SplitInfo(38, 9728, 9690, 31, 247),
        select=SplitInfo(10, 2560, 2550, 9, 62),
        held_out=SplitInfo(16, 4096, 4080, 15, 103),
    )


def make_report(
    n_layers: int = 4,
    *,
    verdict: Verdict = Verdict.RED,
    paper_verdict: Verdict = Verdict.GREEN,
    path: str = "runs/tiny/ckpt.pt",
    seed: int = 0,
    **changes: Any,
) -> AuditReport:
    """A report of a network with `n_layers` layers; `changes` replaces fields of the report."""
    return dataclasses.replace(_report(n_layers, verdict, paper_verdict, path, seed), **changes)


@cache  # properties are tried on hundreds of reports
def _report(n_layers: int, verdict: Verdict, paper_verdict: Verdict, path: str, seed: int) -> AuditReport:
    draw = random.Random(seed)
    schedules = make_schedules(n_layers)
    names = [schedule.name for schedule in schedules]
    rows = [make_layer(k, n_layers, draw.choice(names), draw.choice(list(Verdict)), draw) for k in range(1, n_layers)]
    network = NetworkRow(
        readout="refit",
        fit=make_figures(3.962, -0.001, head=0.197, verdict=Verdict.GREEN),
        held_out=make_figures(5.270, 0.042, verdict=verdict),
        best_schedule="direct",
        best_schedule_fit="final",
        paper_verdict=paper_verdict,
        rival="every:2",
        margin=make_estimate(0.12, 0.01),
        temperature=1.12,
        temperature_gain=make_estimate(0.004, 0.002),
        refinement=Refinement(4, 6, 35.2, make_estimate(0.042, 0.02), make_estimate(0.031, 0.02)),
    )
    last = dataclasses.replace(
        make_layer(n_layers, n_layers, "direct", verdict, draw),
        fit=network.fit,
        held_out=network.held_out,
        depth_gap=network.held_out.gap_layers,
        held_out_sums=make_sums(network.held_out),
    )
    return AuditReport(
        schema_version=SCHEMA_VERSION,
        versions=(("peelaudit", "0.1.0"), ("torch", "2.13.0"), ("python", "3.11.7")),
        checkpoint=make_checkpoint(n_layers, path=path),
        data=make_data(),
        low_bit=None,
        held_out_predictions=HELD_OUT_PREDICTIONS,
        settings=make_settings(path),
        baselines=BaselineLosses(uniform=10.826, unigram=make_estimate(7.214)),
        network=network,
        layers=(*rows, last),
        schedules=schedules,
        yes=tuple(
            YesBound(k, names[k % len(names)], 3.9 - 0.01 * k, 5.5 - 0.02 * k, make_estimate(5.45 - 0.01 * k))
            for k in range(min(n_layers, 4))
        ),
        search=ScheduleSearch(("default",), 2 ** (n_layers - 1), 8, len(schedules)),
        warnings=(
            "9,690 fit tokens for 640 unknowns per output: about 6,400 would do, 64,000 would be safe.",
            "15 clusters on held-out: intervals are rough under 20.",
        ),
        headline="can do better: its layers by 0.042 nats/token (0.022 to 0.060), shared by all layers",
        advice="Train on: the layers from 3 up lose to references that were never trained end to end.",
        timings=(("load", 0.4), ("fit", 5.25), ("bootstrap", 0.5)),
        refinement=LayerRefinement((2,) * n_layers, (3,) * n_layers, 41.3, ()),
    )


def make_settings(path: str) -> tuple[tuple[str, object], ...]:
    config = AuditConfig(checkpoint=path, data=("wikitext.txt",))
    return tuple((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))


def with_gaps(report: AuditReport, *gaps: float, named: tuple[int, ...] = ()) -> AuditReport:
    """The report with these layers' gaps, some of which stand out."""
    rows = tuple(
        dataclasses.replace(row, gap=make_estimate(gap, 0.02)) for row, gap in zip(report.layers, gaps, strict=True)
    )
    info = LayerRefinement(tuple(range(1, len(gaps) + 1)), (3,) * len(gaps), 41.3, named)
    return dataclasses.replace(report, layers=rows, refinement=info)


def with_parent(
    report: AuditReport, *gaps: float, better: tuple[int, ...] = (), path: str = "runs/float"
) -> AuditReport:
    """The report against a parent, to whose blocks its layers lose these gaps."""
    info = dataclasses.replace(make_checkpoint(len(gaps), path=path), tensors=(), sha256="d4" * 32)
    parent = Parent(info, make_estimate(5.1), make_estimate(0.17, 0.02), better)
    rows = tuple(
        dataclasses.replace(
            row, parent_gap=make_estimate(gap, 0.02), parent_sums=tuple(n * gap for n in HELD_OUT_PREDICTIONS)
        )
        for row, gap in zip(report.layers, gaps, strict=True)
    )
    return dataclasses.replace(report, layers=rows, parent=parent)


def with_every_figure(report: AuditReport) -> AuditReport:
    """The report with each figure that its rows may have and haven't."""

    def filled(record: Any) -> Any:
        missing = [key for key in quantities_of(type(record)) if getattr(record, key) is None]
        return dataclasses.replace(record, **{key: make_estimate(0.1 + 0.01 * i) for i, key in enumerate(missing)})

    rows = [
        filled(dataclasses.replace(row, held_out=filled(row.held_out), fit=filled(row.fit))) for row in report.layers
    ]
    network = dataclasses.replace(
        report.network, held_out=filled(report.network.held_out), fit=filled(report.network.fit)
    )
    return dataclasses.replace(report, layers=tuple(rows), network=network)


LLAMA_MATRICES = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def make_alone(bits: int) -> Alone:
    moved = 0.8 / 4**bits
    return Alone(bits, make_estimate(moved, 0.01), Estimate(moved, moved, moved))


def make_budget(layers: int = 5, names: tuple[str, ...] = LLAMA_MATRICES, **changes: object) -> Budget:
    """One in three layers has more bits, the last matrix fewer."""
    rows = tuple(
        BudgetRow(
            layer=layer,
            name=name,
            weights=4096,
            groups=(32,),
            gguf=(f"blk.{layer - 1}.{name.rpartition('.')[2]}.weight",),
            bits=2 if name == names[-1] else 4 if layer % 3 == 1 else 3,
            spread=3,
            alone=tuple(make_alone(bits) for bits in (2, 3, 4)),
        )
        for layer in range(1, layers + 1)
        for name in names
    )
    found = Budget(
        versions=(("peelaudit", "0"),),
        checkpoint=make_checkpoint(layers, path="models/small"),
        data=make_data(),
        settings=(("tokens", 4096),),
        average=3.0,
        widths=(2, 3, 4),
        group=32,
        sequences=12,
        of=40,
        rows=rows,
        float_loss=make_estimate(1.8),
        chosen=Rounded(3.0, 3.5, make_estimate(2.0), make_estimate(0.2, 0.02), make_estimate(0.2, 0.02)),
        spread=Rounded(3.0, 3.5, make_estimate(2.1), make_estimate(0.3, 0.02), make_estimate(0.3, 0.02)),
        gain=make_estimate(0.1, 0.02),
        kl_gain=make_estimate(0.1, 0.02),
        headline="3.00 bits a weight cost +0.2000 nats/token",
        warnings=(),
        passes=(("round each matrix alone", 20.0),),
        timings=(("round each matrix alone", 3.0),),
    )
    return dataclasses.replace(found, **changes)  # type: ignore[arg-type]
