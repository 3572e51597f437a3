"""What a reader is warned of."""

from __future__ import annotations

import dataclasses

from peelaudit.auditing.cautions import calibration_warnings, experts_warnings
from peelaudit.records import LayerSigns
from tests.factories import make_data, make_report


def test_too_little_text_is_warned_of_with_how_much_would_do() -> None:
    data = make_data()
    assert calibration_warnings(data, data.fit.tokens // 10) == ()
    (words,) = calibration_warnings(data, data.fit.tokens // 5)
    total = data.fit.tokens + data.select.tokens + data.held_out.tokens
    assert str(-(-10 * (data.fit.tokens // 5) * total // data.fit.tokens)) in words


def test_experts_that_no_token_reaches_are_numbered() -> None:
    row = make_report().layers[0]
    signs = LayerSigns(1.0, 1.0, 99.0, experts=8, dead=(3,))
    sick = [dataclasses.replace(row, layer=layer, signs=signs if layer == 2 else None) for layer in (1, 2, 3)]
    (warning,) = experts_warnings(sick)
    assert warning.startswith("no calibration token is given to some experts (layer 2: expert 3 (of 0 to 7)): they are")
    assert experts_warnings([dataclasses.replace(row, signs=None)]) == ()
