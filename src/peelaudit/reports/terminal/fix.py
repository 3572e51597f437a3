"""What `peelaudit fix` says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from peelaudit.filenames import FIX_RECORD
from peelaudit.records import Estimate, Fix, FixKind
from peelaudit.reports.terminal.page import draw, pairs, prose, table
from peelaudit.reports.wording.text import count, interval, number, signed

__all__ = ["render"]


def render(found: Fix, *, width: int, colour: bool, encoding: str) -> str:
    """What was mended as text; see `peelaudit.reports.terminal.render_fix`."""
    return draw(_parts(found), width=width, colour=colour, encoding=encoding)


def _parts(found: Fix) -> Iterator[RenderableType]:
    held = f"{count(found.data.held_out.predicted_tokens)} tokens held out of {found.data.source}"
    yield pairs(
        (
            ("checkpoint", prose(found.checkpoint)),
            ("written", prose(f"{found.out}, {_files(found)}")),
            ("changed", prose(_changed(found))),
            ("proof", prose(f"read back, the same {held}")),
        )
    )
    yield ""
    grid = table()
    for justify in ("left", "right", "left", "left"):
        grid.add_column("", justify=justify, no_wrap=True)
    grid.show_header = False
    grid.add_row("  loss before ", number(found.before.value), f"  {interval(found.before)} ", "nats/token, 95 %")
    grid.add_row("  loss after ", number(found.after.value), f"  {interval(found.after)}", "")
    grid.add_row("  gain ", signed(found.gain.value), f"  {_signed(found.gain)}", "")
    yield grid
    yield ""
    yield prose(f"{FIX_RECORD} beside it says what was changed, and by which text.")


def _signed(estimate: Estimate) -> str:
    return interval(estimate, sign=True)


def _files(found: Fix) -> str:
    if found.rank is not None:
        return f"a LoRA adapter of rank {found.rank}"
    return "the same files" if found.same_files else "a directory for transformers"


def _layers(numbers: Sequence[int]) -> str:
    return f"{'layer' if len(numbers) == 1 else 'layers'} {', '.join(map(str, numbers))}"


def _changed(found: Fix) -> str:
    """Which blocks, and how."""
    blocks = _layers(found.layers) if found.layers else "no layer"
    how = "together" if found.kind is not FixKind.LAYERS and len(found.layers) > 1 else ""
    how = "one after another" if found.kind is FixKind.LAYERS and len(found.layers) > 1 else how
    left = f"without {_layers(found.dropped)}, " if found.dropped else ""
    return f"{left}{blocks} refined {how}".rstrip() + (", and the head refitted" if found.head else "")
