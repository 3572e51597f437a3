"""Hostile text: on one line, without control characters, and readable text left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.escape import printable


@given(st.text(st.characters()))
def test_anything_is_printable_after_it(text: str) -> None:
    found = printable(text)
    assert found.isprintable()
    assert found.encode("utf-8").decode() == found
    assert printable(found) == found


@given(st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" ")))
def test_readable_text_is_left_alone(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),  # which turns what follows round
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("Größe, 日本", "Größe, 日本"),
    ],
)
def test_what_is_not_is_spelt_out(text: str, shown: str) -> None:
    assert printable(text) == shown
