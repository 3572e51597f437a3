"""What `peelaudit inspect` says."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.escape import printable
from peelaudit.records import CheckpointInfo
from peelaudit.reports.terminal.page import WholeTable, draw, pairs, prose, table
from peelaudit.reports.wording.text import count, size

__all__ = ["render"]

_FILES_LISTED = 8
_LONGEST_NAME = 120
"""Characters of a tensor's name on one line: all rows are as wide as the longest."""


def render(info: CheckpointInfo, *, tensors: bool, width: int, colour: bool, encoding: str) -> str:
    """The facts as text; see `peelaudit.reports.terminal.render_checkpoint`."""
    return draw(_parts(info, tensors), width=width, colour=colour, encoding=encoding)


def _parts(info: CheckpointInfo, tensors: bool) -> Iterator[RenderableType]:
    yield pairs(((label, prose(text)) for label, text in _facts(info)), label_width=13)
    if tensors:
        yield Text("")
        yield _tensors(info)


def _facts(info: CheckpointInfo) -> Iterator[tuple[str, str]]:
    yield "checkpoint", info.path
    yield "format", info.format
    yield "family", f"{info.family} ({info.architecture})"
    yield "layers", count(info.layers)
    yield "width", count(info.width)
    yield "heads", f"{count(info.heads)} ({count(info.kv_heads)} for keys and values)"
    yield "MLP width", count(info.mlp_width)
    yield "vocabulary", count(info.vocabulary) + (", head tied to the embedding" if info.tied_head else "")
    yield "context", f"{count(info.context)} tokens" if info.context else "not known"
    yield "dtype", info.dtype
    yield "parameters", f"{count(info.parameters)} ({size(info.parameters, '')})"
    yield "bytes", f"{count(info.bytes)} ({size(info.bytes, 'B')})"
    yield "tokenizer", info.tokenizer or "none found"
    yield "training step", "not recorded" if info.training_step is None else count(info.training_step)
    yield "sha256", info.sha256
    more = len(info.files) - _FILES_LISTED
    yield "files", ", ".join(info.files[:_FILES_LISTED]) + (f" and {count(more)} more" if more > 0 else "")


def _tensors(info: CheckpointInfo) -> Table:
    grid = table(WholeTable)
    grid.add_column("tensor", overflow="fold", max_width=_LONGEST_NAME)
    grid.add_column("shape", no_wrap=True)
    grid.add_column("dtype", no_wrap=True)
    grid.add_column("bytes", justify="right", no_wrap=True)
    low_bit = any(tensor.grid for tensor in info.tensors)
    if low_bit:
        grid.add_column("grid", no_wrap=True)
        grid.add_column("zeros", justify="right", no_wrap=True)
    for tensor in info.tensors:
        shape = "×".join(map(str, tensor.shape)) or "scalar"
        cells = [printable(tensor.name), shape, printable(tensor.dtype), count(tensor.bytes)]
        if tensor.grid is not None:
            cells += [tensor.grid.name, f"{tensor.grid.zero_fraction:.1%}"]
        grid.add_row(*cells)
    return grid
