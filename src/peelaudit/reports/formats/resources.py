"""The style sheets and the script that lie beside the modules."""

from __future__ import annotations

from importlib.resources import files

from markupsafe import Markup

__all__ = ["text_of"]


def text_of(name: str) -> Markup:
    """The text of a file of this package: our own, so markup as it is."""
    return Markup(files("peelaudit.reports.formats").joinpath(name).read_text(encoding="utf-8"))  # noqa: S704
