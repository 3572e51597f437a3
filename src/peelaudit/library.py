"""What `peelaudit.audit` does, and the report that it returns."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peelaudit.errors import ConfigError, OutputError
from peelaudit.progress import Progress
from peelaudit.records import AuditReport
from peelaudit.settings.audit import AuditConfig

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Report", "audit_checkpoint", "audit_model"]

_FRAME = 640
"""Pixels of the report's height in a notebook."""


class Report(AuditReport):
    """A report that can be written and shown."""

    __slots__ = ()

    @classmethod
    def of(cls, report: AuditReport) -> Report:
        """The same figures."""
        return cls(**{field.name: getattr(report, field.name) for field in dataclasses.fields(report)})

    def __eq__(self, other: object) -> bool:
        """Whether the figures are the same: those of a saved report are no `Report`."""
        if not isinstance(other, AuditReport):
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in dataclasses.fields(self))

    __hash__ = AuditReport.__hash__

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, whose suffix says how: .json, .html, .md, .csv, .xml (JUnit) or .txt.

        Raises:
            OutputError: it can't be written, or the suffix is none of these.
        """
        from peelaudit.reports.formats import Format, export
        from peelaudit.reports.writing import write_whole

        where = Path(path)
        form = next((form for form in Format if where.suffix.lower() in form.suffixes), None)
        if form is None:
            known = ", ".join(suffix for form in Format for suffix in form.suffixes)
            raise OutputError(f"{where} can't be written: expected a name that ends in one of {known}")
        write_whole(where, export((self,), form))

    def to_frame(self) -> Any:
        """The rows of its CSV as pandas has them, one for each layer; the last is the network's own.

        Raises:
            ImportError: pandas isn't installed.
        """
        import pandas as pd  # type: ignore[import-untyped, unused-ignore]

        from peelaudit.reports.formats import Format, export

        return pd.read_csv(io.StringIO(export((self,), Format.CSV)))

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that neither the notebook's style nor its own reaches the other."""
        from peelaudit.reports.formats import Format, export

        page = escape(export((self,), Format.HTML))
        return f'<iframe srcdoc="{page}" sandbox width="100%" height="{_FRAME}" style="border:0"></iframe>'


def audit_checkpoint(
    checkpoint: str | os.PathLike[str],
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    settings: dict[str, Any],
    progress: Progress,
) -> Report:
    """Audit a saved checkpoint; see `peelaudit.audit`."""
    from peelaudit.auditing.run import audit_config

    given: dict[str, Any] = {"checkpoint": checkpoint, "data": data, **settings}  # it makes texts of paths
    return Report.of(audit_config(AuditConfig(**given), progress=progress))


def audit_model(
    model: Module, data: Any, settings: dict[str, Any], progress: Progress, state: Mapping[str, Tensor] | None = None
) -> Report:
    """Audit a module in memory; see `peelaudit.audit`."""
    from peelaudit.auditing.live import audit_live
    from peelaudit.auditing.prepare import Live
    from peelaudit.calibration import Held

    problems = [f"{name} is for a saved checkpoint" for name in ("config", "adapter") if settings.get(name) is not None]
    if problems:
        raise ConfigError(*problems)
    tokenizer = settings.pop("tokenizer", None)
    is_path = tokenizer is None or isinstance(tokenizer, str | os.PathLike)
    given: dict[str, Any] = {"checkpoint": type(model).__name__, **settings}
    if is_path:
        given["tokenizer"] = tokenizer
    if _are_paths(data):
        if not is_path:
            raise ConfigError("tokenizer: with files as data, name its file or directory")
        return Report.of(audit_live(AuditConfig(data=data, **given), Live(model, None, state), progress=progress))
    held = Held(data, None if is_path else tokenizer)
    return Report.of(audit_live(AuditConfig(**given), Live(model, held, state), progress=progress))


def _are_paths(data: Any) -> bool:
    """Whether files are named: a text alone is the name of one, among several it is a document."""
    if isinstance(data, str | os.PathLike):
        return True
    return isinstance(data, Sequence) and bool(data) and all(isinstance(one, os.PathLike) for one in data)
