"""The settings as a library's user writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

import peelaudit
from peelaudit.config import AuditConfig
from peelaudit.errors import ConfigError


def test_one_text_is_one_item_and_never_its_letters() -> None:
    config = AuditConfig(checkpoint="c", data="text/a.txt", schedules="final")  # type: ignore[arg-type]
    assert (config.data, config.schedules) == (("text/a.txt",), ("final",))
    assert config == AuditConfig(checkpoint="c", data=("text/a.txt",), schedules=("final",))


def test_a_list_is_a_tuple_and_a_path_its_text() -> None:
    config = AuditConfig(checkpoint="c", data=["a.txt", Path("b.txt")], schedules=["final"])  # type: ignore[arg-type]
    assert (config.data, config.schedules) == (("a.txt", "b.txt"), ("final",))
    assert AuditConfig(checkpoint="c", data=Path("a.txt")).data == ("a.txt",)  # type: ignore[arg-type]
    paths = AuditConfig(checkpoint=Path("c"), config=Path("d"), tokenizer=Path("e"))  # type: ignore[arg-type]
    assert (paths.checkpoint, paths.config, paths.tokenizer) == ("c", "d", "e")


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("data", 3, "data is 3: expected a path or a list of paths"),
        ("data", None, "data is None: expected"),
        ("data", b"a.txt", "data is b'a.txt': expected"),
        ("data", ["a.txt", 3], "data has 3: expected a path"),
        ("data", "", "data has an empty path"),
        ("data", ("a.txt", ""), "data has an empty path"),
        ("schedules", 1, "schedules is 1: expected a schedule or a list of schedules"),
        ("schedules", ("final", None), "schedules has None: expected a schedule"),
        ("schedules", (), "schedules is empty"),
        ("schedules", Path("final"), "schedules is .*: expected a schedule"),
        ("tokenizer", 3, "tokenizer is 3: expected a path"),
        ("config", ["a", "b"], "config is .*: expected a path"),
    ],
)
def test_wrong_types_are_named(setting: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}"):
        AuditConfig(checkpoint="c", **{setting: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"^{words}"):
        peelaudit.audit("c", **{setting: value})  # type: ignore[arg-type]


def test_a_wrong_type_keeps_no_other_mistake_back() -> None:
    with pytest.raises(ConfigError) as caught:
        AuditConfig(checkpoint="c", data=3, schedules=4, tokens=0)  # type: ignore[arg-type]
    assert [problem.split()[0] for problem in caught.value.problems] == ["data", "schedules", "tokens"]
