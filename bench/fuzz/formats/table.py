"""All formats."""

from __future__ import annotations

from bench.fuzz.case import Format
from bench.fuzz.formats.calibration import CALIBRATION
from bench.fuzz.formats.checkpoints import CHECKPOINTS
from bench.fuzz.formats.saved import SAVED

__all__ = ["FORMATS"]

FORMATS: dict[str, Format] = {form.name: form for form in (*CHECKPOINTS, *CALIBRATION, *SAVED)}
