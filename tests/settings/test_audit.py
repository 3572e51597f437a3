"""The settings as a library's user writes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import peelaudit
import peelaudit.config
from peelaudit.config import AuditConfig
from peelaudit.errors import ConfigError
from peelaudit.settings.audit import SETTINGS

NUMBERS = {name: one.least for name, one in SETTINGS.items() if one.least is not None}
CHOICES = {name: one.choices for name, one in SETTINGS.items() if one.choices}


def config(**changes: Any) -> AuditConfig:
    return AuditConfig(checkpoint="c", **changes)


def problems(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    return caught.value.problems


def test_every_field_but_the_checkpoint_is_a_setting() -> None:
    assert {"checkpoint", *SETTINGS} == {field.name for field in dataclasses.fields(AuditConfig)}


def test_the_public_names_are_the_settings_own() -> None:
    own = vars(peelaudit.settings.audit)
    assert peelaudit.config.__all__
    assert all(getattr(peelaudit.config, name) is own[name] for name in peelaudit.config.__all__)


def test_the_least_of_every_number_are_those_that_make_sense() -> None:
    assert NUMBERS == {"tokens": 1, "seq_len": 2, "steps": 1, "tolerance": 0, "seed": 0, "resamples": 100}


@pytest.mark.parametrize(("name", "least"), NUMBERS.items())
def test_every_number_has_its_bounds(name: str, least: int) -> None:
    key = name.replace("_", "-")
    for value in (least, 2**32 - 1):
        assert getattr(config(**{name: value}), name) == value
    assert problems(**{name: least - 1}) == (f"{key} is {least - 1}: expected {least} or more",)
    assert problems(**{name: 2**32}) == (f"{key} is {2**32}: expected {2**32 - 1} or less",)


@pytest.mark.parametrize(("name", "choices"), CHOICES.items())
def test_every_choice_is_one_of_its_own(name: str, choices: tuple[str, ...]) -> None:
    others = {"solver": "adam"} if name == "init" else {}
    for value in choices:
        assert getattr(config(**{**others, name: value}), name) == value
    for value in ("", "nonsense", choices[0].upper()):
        (problem,) = problems(**{name: value})
        assert problem == f"{name.replace('_', '-')} is {value!r}: expected {' | '.join(choices)}"


@pytest.mark.parametrize(
    "split", [(0.5, 0.5), (0.5, 0.3, 0.2, 0.0), (0.5, 0.5, 0.0), (1.2, -0.4, 0.2), (0.5, 0.3, 0.1)]
)
def test_shares_are_three_above_nothing_that_add_up_to_one(split: tuple[float, ...]) -> None:
    (problem,) = problems(split=split)
    assert problem == f"split is {split}: expected three shares above 0 that add up to 1"


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 99))
def test_any_three_shares_of_a_whole_are_taken(fit: int, select: int, held_out: int) -> None:
    total = fit + select + held_out
    split = (fit / total, select / total, held_out / total)
    assert config(split=split).split == split


@pytest.mark.parametrize("solver", ["ridge", "ridge+adam"])
def test_a_random_start_is_for_adam_alone(solver: str) -> None:
    (problem,) = problems(init="random", solver=solver)
    assert problem.startswith("init random needs solver adam")
    assert config(init="random", solver="adam").init == "random"


def test_an_unknown_set_of_bits_is_told_with_those_that_there_are() -> None:
    (problem,) = problems(bits="int5")
    assert problem.startswith("bits is 'int5': expected auto | float")
    assert config(bits="int4:g32:free").bits == "int4:g32:free"


def test_all_that_is_wrong_is_told_at_once() -> None:
    found = problems(tokens=0, seq_len=1, split=(1.0,), bits="x", init="random", device="tpu", schedules=())
    assert [problem.split()[0] for problem in found] == [
        "tokens", "seq-len", "device", "split", "schedules", "bits", "init"
    ]  # fmt: skip


def test_settings_are_what_they_were_made_with() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().tokens = 3  # type: ignore[misc]
    assert hash(config(data=["a"])) == hash(config(data="a"))


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
