"""A tiny network's tokens as calibration data, without a text."""

from __future__ import annotations

import numpy as np

from peelaudit.calibration import Calibration
from peelaudit.calibration.splits import Split
from tests.factories import make_data
from tests.networks import Network


def calibration_of(network: Network) -> Calibration:
    """Its tokens in their splits, every sequence a cluster; what is told of them is of another text."""
    rows = network.rows
    fit, select, held_out = (
        Split(network.tokens[part].numpy(), np.arange(part.stop - part.start))
        for part in (rows.fit, rows.select, rows.held_out)
    )
    return Calibration(fit, select, held_out, make_data(), ())
