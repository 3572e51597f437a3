"""The checkpoints of one training run as tables: the YES cloud, and each step against its own references."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.escape import printable
from peelaudit.records import Verdict
from peelaudit.records.quantities import Form
from peelaudit.reports.terminal.page import STYLES, draw, heading, prose, table
from peelaudit.reports.trajectory import CloudPoint, Trajectory
from peelaudit.reports.wording.series import defect_words, series_words
from peelaudit.reports.wording.tables import figure_text
from peelaudit.reports.wording.text import VERDICT_WORDS, abbreviate, count, interval, number, signed
from peelaudit.reports.wording.words import CLOUD_LEGEND

__all__ = ["render"]


def render(trajectory: Trajectory, *, width: int, colour: bool, encoding: str) -> str:
    """The trajectory as text; see `peelaudit.reports.terminal.render_trajectory`."""
    return draw(_parts(trajectory), width=width, colour=colour, encoding=encoding)


def _parts(trajectory: Trajectory) -> Iterator[RenderableType]:
    many = len(trajectory.steps)
    yield heading(f"The YES cloud over {count(many)} checkpoint{'s' * (many != 1)}, held-out tokens, nats/token")
    yield _cloud(trajectory)
    yield prose((CLOUD_LEGEND, "dim"))
    yield heading("Each step against its own references, and the layers that are named")
    yield _steps(trajectory)
    yield Text("")
    yield from (prose(words) for words in series_words(trajectory))
    if trajectory.defects:
        yield heading("Series integrity: these steps are not what they should be")
        yield from (prose(defect_words(finding)) for finding in trajectory.defects)


def _cloud(trajectory: Trajectory) -> Table:
    grid = table()
    for name in ("step", "trained", "YES-0", "YES*", "least YES-0", "least YES*"):
        grid.add_column(name, justify="right", no_wrap=True, min_width=7)
    grid.add_column("region", no_wrap=True)
    grid.add_column("verdict", no_wrap=True)
    for point, report in zip(trajectory.held_out.points, trajectory.reports, strict=True):
        grid.add_row(*_cells(point), _verdict(point.region), _verdict(report.network.held_out.verdict))
    return grid


def _steps(trajectory: Trajectory) -> Table:
    grid = table()
    for name in ("step", "gap_layers", "95 %"):
        grid.add_column(name, justify="right", no_wrap=True)
    for name in ("best", "rival"):
        grid.add_column(name, no_wrap=True)
    grid.add_column("margin", justify="right", no_wrap=True)
    grid.add_column("named", overflow="fold", max_width=12)
    for step, report in zip(trajectory.steps, trajectory.reports, strict=True):
        network, gap = report.network, report.network.gap_layers
        rival, margin = ("", "") if network.rival is None else (network.rival, figure_text(network.margin, Form.GAP))
        grid.add_row(
            count(step),
            "" if gap is None else signed(gap.value),
            "" if gap is None else interval(gap, sign=True),
            *(abbreviate(printable(name), 10) for name in (network.best_schedule, rival)),
            margin,
            ", ".join(map(str, sorted(set(report.named)))) or "none",
        )
    return grid


def _cells(point: CloudPoint) -> Iterator[str]:
    yield count(point.step)
    losses = (point.trained, point.yes0, point.yes_star, point.least_yes0, point.least_yes_star)
    yield from ("" if loss is None else number(loss) for loss in losses)


def _verdict(verdict: Verdict) -> Text:
    sign, _ = VERDICT_WORDS[verdict]
    return Text(f" {sign} {verdict}", STYLES[verdict])
