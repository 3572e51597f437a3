"""One module per format, each with `export(content) -> str`. Torch-free: a saved report is exported anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module

from peelaudit.records import AuditReport, GateCheck, Unaudited
from peelaudit.reports.formats.content import Content

__all__ = ["Format", "export"]


class Format(StrEnum):
    """A report's format, by the name that flags have for it."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"
    HTML = "html"
    JUNIT = "junit"
    GITHUB = "github"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The file suffixes that stand for the format."""
        return _EXPORTERS[self].suffixes


@dataclass(frozen=True, slots=True)
class Exporter:
    """A format's name, which is its module's too, and the file suffixes that stand for it."""

    name: Format
    suffixes: tuple[str, ...] = ()

    def export(self, content: Content) -> str:
        """The content in this format, whose module is imported here: `json` doesn't wait for rich."""
        text: str = import_module(f"{__name__}.{self.name}").export(content)
        return text


_EXPORTERS: Mapping[Format, Exporter] = {
    exporter.name: exporter
    for exporter in (
        Exporter(Format.TABLE, (".txt",)),
        Exporter(Format.JSON, (".json",)),
        Exporter(Format.CSV, (".csv",)),
        Exporter(Format.MARKDOWN, (".md", ".markdown")),
        Exporter(Format.HTML, (".html", ".htm")),
        Exporter(Format.JUNIT, (".xml",)),
        Exporter(Format.GITHUB),
    )
}


def export(
    reports: Sequence[AuditReport],
    format: Format,  # noqa: A002  # the flag's own name
    *,
    checks: Sequence[GateCheck] = (),
    failures: Sequence[Unaudited] = (),
) -> str:
    """The reports as one text, ending in a newline; to be written as UTF-8.

    Args:
        reports: one or several; JSON takes one.
        format: the text's.
        checks: what a gate said of them. JSON and CSV, which hold measurements, leave them out.
        failures: the checkpoints of the same batch that have no report.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
        ConfigError: several reports for JSON.
    """
    return _EXPORTERS[format].export(Content(tuple(reports), tuple(checks), tuple(failures)))
