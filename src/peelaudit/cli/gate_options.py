"""The gate's flags, which several commands share. Texts alone, as for all settings: `settings` reads them."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Baseline", "FailOn", "FailOver", "FailRegression", "OnInconclusive"]

_GATE = "Gate"

FailOver = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-over",
        metavar="RULE",
        help="Fail where a held-out figure is over its limit, interval and all: gap_layers=0.05, layer.gap=0.02, "
        "layer[1-3,7].gap=0.02. In nats/token. Repeatable.",
        rich_help_panel=_GATE,
    ),
]
FailOn = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="COLOUR",
        help="Fail where the held-out verdict is red, yellow (or worse) or grey. Repeatable.",
        rich_help_panel=_GATE,
    ),
]
FailRegression = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-regression",
        metavar="RULE",
        help="Fail where a figure has risen since the baseline by more than trained_loss=1% of it, or =0.01 "
        "nats/token, paired on the same tokens. Repeatable.",
        rich_help_panel=_GATE,
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="REPORT",
        help="The JSON report that --fail-regression compares with.",
        rich_help_panel=_GATE,
    ),
]
OnInconclusive = Annotated[
    str | None,
    typer.Option(
        "--on-inconclusive",
        metavar="WHAT",
        help="What becomes of a check whose interval straddles its limit: warn, pass or fail. Default: warn.",
        rich_help_panel=_GATE,
    ),
]
