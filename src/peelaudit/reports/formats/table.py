"""The terminal's report as a text file: in full, 140 columns, without colour.

Several reports stand below one another.
"""

from __future__ import annotations

import contextlib
from typing import Any

from peelaudit.errors import ConfigError
from peelaudit.escape import printable
from peelaudit.reports.formats.content import Content
from peelaudit.reports.terminal import render_gate, render_report, render_trajectory
from peelaudit.reports.trajectory import trace
from peelaudit.reports.wording.text import encodable

__all__ = ["export"]


def export(
    content: Content, *, full: bool = True, width: int = 140, colour: bool = False, encoding: str = "utf-8"
) -> str:
    """The reports as plain text, and the trajectory where they are one training run's.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    content.check_finite()
    sheet: dict[str, Any] = {"width": width, "colour": colour, "encoding": encoding}
    pages = [
        render_report(report, full=full, **sheet)
        + (render_gate(checks, **sheet) if (checks := content.checks_of(report)) else "")
        for report in content.reports
    ]
    if len(pages) > 1:
        with contextlib.suppress(ConfigError):  # checkpoints that have nothing to do with one another
            trajectory = trace(content.reports)
            pages.append(render_trajectory(trajectory, **sheet))
    if failures := [printable(f"not audited: {f.checkpoint}: {f.error}: {f.reason}") for f in content.failures]:
        pages.append(encodable("\n".join(failures) + "\n", encoding))
    return "\n\n".join(pages)
