"""JSON: the one report, in the records' own form."""

from __future__ import annotations

from peelaudit.errors import ConfigError
from peelaudit.records import json as records_json
from peelaudit.reports.formats.content import Content

__all__ = ["export"]


def export(content: Content) -> str:
    """The report as JSON text.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
        ConfigError: it isn't one report.
    """
    if len(content.reports) != 1:
        raise ConfigError(f"json holds one report, not {len(content.reports)}")
    return records_json.export(content.reports[0])
