"""Measurements as text: what was written is read back to the last bit, what isn't of its kind is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from peelaudit.auditing.encoding import decoded, encoded
from peelaudit.auditing.measurements import NodeLosses, RefinedLosses
from peelaudit.method.diagnosis.examine import Examination
from peelaudit.method.references.peel import ProjectionRow
from peelaudit.method.refinement.downstream import BlockSlopes
from peelaudit.method.statistics.panel import Losses
from peelaudit.records import BlockFit, LayerSigns

LOSSES = np.random.default_rng(0).normal(size=5) * 1e-3
FITS = (BlockFit(1, 2, 0.1, 0.2, 1 / 3, "ridge", None), BlockFit(2, 2, 0.0, 1e-300, 0.1, "adam", 1e-7, 3, 2, 1e9))
NODE = NodeLosses((1, 2), LOSSES, None, FITS)


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other) and encoded(one) == encoded(other)


def test_a_node_comes_back_to_the_last_bit() -> None:
    with np.printoptions(precision=20):
        assert same(decoded(NodeLosses, encoded(NODE)), NODE)
        whole = NodeLosses((1, 2), LOSSES, LOSSES * np.pi, ())
        assert same(decoded(NodeLosses, encoded(whole)), whole)


def test_arrays_of_more_axes_come_back_and_can_be_written_to() -> None:
    row = ProjectionRow(np.arange(6.0).reshape(2, 3).T, np.array([]), LOSSES, 4)
    found = decoded(ProjectionRow, encoded(row))
    np.testing.assert_array_equal(found.held_out, row.held_out)
    assert found.select.shape == (0,)
    found.skipped[0] += 1


def test_fields_that_are_known_are_left_out() -> None:
    signs = LayerSigns(1.0, 2.0, 3.0, None, 4, (1, 2))
    slopes = (BlockSlopes(LOSSES, LOSSES + 1), None)
    given: Any = {"panel": object(), "losses": LOSSES, "gains": None}
    found = Examination(digests=("a", "b"), signs=(signs, signs), slopes=slopes, influences=(), loads=(None,),
                        routings=(LOSSES,), **given)  # fmt: skip
    text = encoded(found, given)
    assert json.loads(text).keys() == {"digests", "signs", "slopes", "influences", "loads", "routings"}
    again = decoded(Examination, text, **given)
    assert again.panel is given["panel"]
    assert again.signs == found.signs
    assert isinstance(again.slopes[0], BlockSlopes)
    assert same(again.slopes, slopes)


@pytest.mark.parametrize("value", [None, LOSSES])
def test_what_may_be_none_may(value: Losses | None) -> None:
    assert same(decoded(Losses | None, encoded(value)), value)


def test_what_has_no_saved_form_is_not_written() -> None:
    with pytest.raises(TypeError, match="set has no saved form"):
        encoded((1, {2}))


def changed(**fields: object) -> str:
    return json.dumps(json.loads(encoded(NODE)) | fields)


ARRAY = {"dtype": "<f8", "shape": [1], "base64": "AAAAAAAAAAA="}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        changed(more=1),
        changed(prefix=["1"]),
        changed(prefix=[True]),
        changed(prefix=1),
        changed(readout=None),
        changed(readout=[0.0]),
        changed(readout=ARRAY | {"shape": [2]}),
        changed(readout=ARRAY | {"shape": [-1]}),
        changed(readout=ARRAY | {"shape": 1}),
        changed(readout=ARRAY | {"dtype": "<f4"}),
        changed(readout=ARRAY | {"base64": 1}),
        changed(readout=ARRAY | {"base64": "AAAA"}),
        changed(readout=ARRAY | {"base64": "!"}),
        changed(blocks=[{}]),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decoded(NodeLosses, text)


def test_a_float_may_be_whole() -> None:
    plain = RefinedLosses(LOSSES, LOSSES, None, 1, 2, 3, held=True)
    assert type(decoded(RefinedLosses, encoded(plain)).passes) is float
