"""The study's one table, as CSV with every interval and as Markdown: a row a checkpoint."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from bench.studies.auditing import Audited
from peelaudit.records import Estimate, SplitFigures

ESTIMATES = ("trained_loss", "yes0", "bound", "gap_head", "gap_layers")
"""Fields of `SplitFigures`, in nats/token; `bound` is YES*."""

_HEADS = ("trained", "YES-0", "YES\\*", "gap_head", "gap_layers", "best")


def table_csv(audited: Sequence[Audited]) -> str:
    """Every figure with its 95 % interval; a header line, a line a checkpoint."""
    rows = [_cells(row) for row in audited]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cells(row: Audited) -> dict[str, object]:
    network = row.report.network
    cells: dict[str, object] = {
        "architecture": row.run.architecture,
        "bits": row.run.bits,
        "learning_rate": row.run.learning_rate,
        "epoch": row.epoch,
    }
    for split, figures in (("fit", network.fit), ("held_out", network.held_out)):
        for name in ESTIMATES:
            estimate: Estimate = getattr(figures, name)
            for part in ("value", "low", "high"):
                cells[f"{split}.{name}.{part}"] = getattr(estimate, part)
    return cells | {
        "fit.best_schedule": network.best_schedule_fit,
        "fit.verdict": network.paper_verdict,
        "held_out.best_schedule": network.best_schedule,
        "held_out.verdict": network.held_out.verdict,
        "held_out.rival": network.rival,
        "held_out.margin.value": network.margin and network.margin.value,
        "held_out.margin.low": network.margin and network.margin.low,
        "held_out.margin.high": network.margin and network.margin.high,
    }


def table_markdown(audited: Sequence[Audited]) -> str:
    """Point values, and on held-out tokens the intervals that verdicts rest on."""
    heads = ["network", "bits", "rate", "epoch"]
    heads += [f"fit: {_HEADS[0]}", *_HEADS[1:], "the paper's"]
    heads += [f"held-out: {_HEADS[0]}", *_HEADS[1:3], "gap_head (95 %)", "gap_layers (95 %)", "best"]
    heads += ["nearest rival behind", "verdict"]
    right = {"rate", "epoch", *(head for head in heads if "trained" in head or head in _HEADS[1:5])}
    lines = [_line(heads), _line(["---:" if head in right else "---" for head in heads])]
    lines += [_line(_words(row)) for row in audited]
    return "\n".join(lines) + "\n"


def _words(row: Audited) -> list[str]:
    network = row.report.network
    fit, held_out = network.fit, network.held_out
    return [
        str(row.run.architecture),
        str(row.run.bits),
        f"{row.run.learning_rate:g}",
        str(row.epoch),
        *_losses(fit),
        f"{fit.gap_head.value:+.3f}",
        f"{fit.gap_layers.value:+.3f}",
        network.best_schedule_fit,
        str(network.paper_verdict),
        *_losses(held_out),
        _gap(held_out.gap_head),
        _gap(held_out.gap_layers),
        network.best_schedule,
        "" if network.margin is None else f"{network.rival} {_gap(network.margin)}",
        str(held_out.verdict),
    ]


def _losses(figures: SplitFigures) -> list[str]:
    return [f"{getattr(figures, name).value:.3f}" for name in ESTIMATES[:3]]


def _gap(gap: Estimate) -> str:
    return f"{gap.value:+.3f} ({gap.low:+.3f}..{gap.high:+.3f})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
