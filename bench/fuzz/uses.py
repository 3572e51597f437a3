"""What the commands do with a file, through the library: opened, read, proven, printed."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from bench.fuzz.judging import sentences
from peelaudit.calibration import check_given, load_calibration
from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import PeelauditError
from peelaudit.fleet.results import Results
from peelaudit.fleet.status import read_status
from peelaudit.network.decoder import prove_whole
from peelaudit.network.families import admit
from peelaudit.network.weights import check_weights
from peelaudit.progress import SILENT
from peelaudit.records import AuditReport, CheckpointInfo, Verdict
from peelaudit.records.json import checkpoint_json, read_report
from peelaudit.reports.compare import compare
from peelaudit.reports.formats import Format, export
from peelaudit.reports.gate import gate
from peelaudit.reports.terminal import (
    render_checkpoint,
    render_comparison,
    render_gate,
    render_report,
    render_tasks,
    render_trajectory,
)
from peelaudit.reports.trajectory import trace
from peelaudit.settings import resolve, resolve_gate
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.gate import GatePolicy
from peelaudit.settings.rules import parse_rule
from tests.factories import make_checkpoint, make_report

__all__ = [
    "Unfit",
    "load_data",
    "open_adapted",
    "open_directory",
    "open_file",
    "read_settings",
    "show_report",
    "show_results",
]

VOCABULARY, CONTEXT = 128, 64


class Unfit(Exception):
    """What was printed isn't fit for a terminal, a table or a build server's log."""


def open_directory(folder: Path) -> None:
    """`inspect --tensors --prove`."""
    open_file(folder)


def open_adapted(folder: Path) -> None:
    """The same with an adapter."""
    open_file(folder / "base", adapter=folder / "adapter")


def open_file(path: Path, adapter: Path | None = None) -> None:
    """The same of a file."""
    with open_checkpoint(path, adapter=adapter, admit=admit) as checkpoint:
        info = check_weights(checkpoint).info()
        for note in checkpoint.notes:
            _plain("a note", note)
        _plain("the table", render_checkpoint(info, tensors=True), "\n")
        json.loads(checkpoint_json(info, tensors=True))
        prove_whole(checkpoint, SILENT)


def load_data(*data: Path, tokenizer: Path | None, beside: Path) -> None:
    """What `run` does before it computes; `beside` is where the checkpoint would be."""
    given = None if tokenizer is None else str(tokenizer)
    config = AuditConfig(
        checkpoint=str(beside), data=tuple(map(str, data)), tokenizer=given, tokens=512, seq_len=32, seed=1
    )
    check_given(config)
    found = load_calibration(config, _checkpoint(str(beside)))
    for warning in found.warnings:
        _plain("a warning", warning)


@cache
def _checkpoint(path: str) -> CheckpointInfo:
    return dataclasses.replace(make_checkpoint(path=path), vocabulary=VOCABULARY, context=CONTEXT)


@cache
def _sound() -> AuditReport:
    return make_report()


def show_report(folder: Path) -> None:
    """`convert` to each format, `compare` to a sound one and back, `check`, and a line in a trajectory."""
    report = read_report(folder / "report.json")
    for form in Format:
        _fit(form, export([report], form))
    _plain("the whole page", render_report(report, full=True), "\n")
    for pair in ((_sound(), report), (report, _sound())):
        for comparison in _refusable(partial(compare, *pair)):
            _plain("the comparison", render_comparison(comparison), "\n")
    policy = GatePolicy(fail_over=(parse_rule("gap_layers=0.01"), parse_rule("layer.gap=0.01")), fail_on=(Verdict.RED,))
    for result in _refusable(lambda: gate(report, policy, today=date(2026, 1, 1))):
        _plain("the gate", render_gate(result.checks, title=result.checkpoint), "\n")
        _fit(Format.JUNIT, export([report], Format.JUNIT, checks=result.checks))
        _fit(Format.GITHUB, export([report], Format.GITHUB, checks=result.checks))
    for found in _refusable(lambda: trace([_sound(), report])):
        _plain("the trajectory", render_trajectory(found), "\n")


T = TypeVar("T")


def _refusable(make: Callable[[], T]) -> list[T]:
    """What is made, unless it is refused in a sentence."""
    try:
        return [make()]
    except PeelauditError as error:
        for sentence in sentences(error):
            _plain("a refusal", sentence)
        return []


def show_results(folder: Path) -> None:
    """`status`, and `check` of all that is done."""
    results = Results(folder)
    results.check()
    _plain("the status", render_tasks(read_status(results)), "\n")
    for path in results.reports():
        for report in _refusable(partial(read_report, path)):
            _fit(Format.HTML, export([report], Format.HTML))


def read_settings(folder: Path) -> None:
    """The settings of a run, and a gate's."""
    for _ in _refusable(lambda: resolve("x.pt", {}, environ={}, directory=folder)):
        pass
    resolve_gate({}, environ={}, directory=folder)


def _fit(form: Format, text: str) -> None:
    _plain(f"the {form}", text, "\n")
    if form is Format.JSON:
        json.loads(text)
    elif form is Format.JUNIT:
        ET.fromstring(text)
    elif form is Format.GITHUB and (other := next((line for line in text.splitlines() if line[:2] != "::"), None)):
        raise Unfit(f"a line for a build server that is none: {other[:200]!r}")
    elif form is Format.CSV:
        for cell in _cells(text):
            if cell.startswith(("=", "+", "-", "@")) and not _is_number(cell):
                raise Unfit(f"a cell that is a formula: {cell[:200]!r}")


def _cells(text: str) -> Iterator[str]:
    for row in csv.reader(io.StringIO(text)):
        yield from row


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plain(what: str, text: str, allowed: str = "") -> None:
    """Raise Unfit where a sign is neither printable nor allowed."""
    wrong = next((sign for sign in text if not sign.isprintable() and sign not in allowed), None)
    if wrong is not None:
        at = text.index(wrong)
        raise Unfit(f"{what} holds {wrong!r}: {text[max(0, at - 60) : at + 60]!r}")
