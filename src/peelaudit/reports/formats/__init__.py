"""One module per format, each with `export(content) -> str`. Torch-free: a saved report is exported anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import assert_never

from peelaudit.errors import ConfigError
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
        match self:
            case Format.TABLE:
                return (".txt",)
            case Format.JSON:
                return (".json",)
            case Format.CSV:
                return (".csv",)
            case Format.MARKDOWN:
                return (".md", ".markdown")
            case Format.HTML:
                return (".html", ".htm")
            case Format.JUNIT:
                return (".xml",)
            case Format.GITHUB:
                return ()
            case _:
                assert_never(self)


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
    content = Content(tuple(reports), tuple(checks), tuple(failures))
    # Imported here, so that `json` doesn't wait for rich.
    match format:
        case Format.JSON:
            return _json(content)
        case Format.TABLE:
            from peelaudit.reports.formats import table as exporter
        case Format.CSV:
            from peelaudit.reports.formats import csv as exporter  # type: ignore[no-redef]
        case Format.MARKDOWN:
            from peelaudit.reports.formats import markdown as exporter  # type: ignore[no-redef]
        case Format.HTML:
            from peelaudit.reports.formats import html as exporter  # type: ignore[no-redef]
        case Format.JUNIT:
            from peelaudit.reports.formats import junit as exporter  # type: ignore[no-redef]
        case Format.GITHUB:
            from peelaudit.reports.formats import github as exporter  # type: ignore[no-redef]
        case _:
            assert_never(format)
    return exporter.export(content)


def _json(content: Content) -> str:
    from peelaudit.records.json import export as export_one

    if len(content.reports) != 1:
        raise ConfigError(f"json holds one report, not {len(content.reports)}")
    return export_one(content.reports[0])
