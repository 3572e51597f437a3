"""The version, of which the package's metadata is made: it stands in the source, and needs no installation."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
