"""The style sheets and the script that lie beside the modules."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["text_of"]


def text_of(name: str) -> str:
    """The text of a file of this package."""
    return files("peelaudit.reports.formats").joinpath(name).read_text(encoding="utf-8")
