"""JSON of strangers: what is refused, and that refusing it is quick."""

from __future__ import annotations

import pytest

from peelaudit import json_text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' occurs twice"),
        ('{"\\ud800\\n": 1, "\\ud800\\n": 2}', r"the key '\\ud800\\n' occurs twice"),
        ("{" + ",".join(f'"k{number}": 1' for number in range(200_000)) + ', "k199999": 2}', "'k199999' occurs twice"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + ",".join(["[[]]"] * 2_000_000) + "]", "more than 4000000 values"),
        ('{"a": ', "Expecting value"),
        ("9" * 5000, "Exceeds the limit"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        json_text.parse(text)


def test_what_is_read() -> None:
    assert json_text.parse('{"a": [1, {"a": null}], "b": "x"}') == {"a": [1, {"a": None}], "b": "x"}


def test_numbers_that_are_none_are_its_readers_choice() -> None:
    assert json_text.parse("[NaN]", constant=lambda name: name) == ["NaN"]
    assert json_text.parse("[Infinity]") == [float("inf")]
