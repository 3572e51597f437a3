"""Sizes of memory, as they are written and as they are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.errors import ConfigError
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.sizes import parse_size, written_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("2 gib", 2 << 30),
        ("2G", 2 << 30),
        ("2GB", 2_000_000_000),
        ("1.5MiB", 3 << 19),
        ("800M", 800 << 20),
        (" 4096 ", 4096),
        ("4096B", 4096),
        ("68719476736", 1 << 36),
        ("1T", 1 << 40),
    ],
)
def test_what_a_size_says(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "0", "-1G", "2PB", "1e9", "nan", "2 G i B", "2GiB or so", "1" * 5000, "١G"]
)
def test_what_says_no_size_is_refused_by_the_setting(text: str) -> None:
    with pytest.raises(ConfigError, match=r"max-memory is .*: expected a size such as 2GiB or 800MB"):
        AuditConfig(checkpoint="c", max_memory=text)


def test_a_number_is_no_size() -> None:
    with pytest.raises(ConfigError, match="max-memory is 5"):
        AuditConfig(checkpoint="c", max_memory=5)  # type: ignore[arg-type]


@given(st.integers(1, 1 << 50))
def test_a_size_that_is_told_is_enough(size: int) -> None:
    told = parse_size(written_size(size))
    assert size <= told <= max(1.11 * size, size + (1 << 20))
