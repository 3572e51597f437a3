"""One module per format, each with `export(report) -> str`. Torch-free: a saved report is exported anywhere."""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

from peelaudit.records import AuditReport

__all__ = ["Format", "export"]


class Format(StrEnum):
    """A report's format, by the name that flags have for it."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"

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
            case _:
                assert_never(self)


def export(report: AuditReport, format: Format) -> str:  # noqa: A002  # the flag's own name
    """The report as text, ending in a newline; to be written as UTF-8.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    # Imported here, so that `json` doesn't wait for rich.
    match format:
        case Format.TABLE:
            from peelaudit.exports import table as exporter
        case Format.JSON:
            from peelaudit.exports import json as exporter  # type: ignore[no-redef]
        case Format.CSV:
            from peelaudit.exports import csv as exporter  # type: ignore[no-redef]
        case Format.MARKDOWN:
            from peelaudit.exports import markdown as exporter  # type: ignore[no-redef]
        case _:
            assert_never(format)
    return exporter.export(report)
