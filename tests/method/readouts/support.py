"""The splits of the sequences that readouts are tried on."""

from __future__ import annotations

from peelaudit.network.states import Rows

ROWS = Rows(slice(0, 24), slice(24, 32), slice(32, 44))
