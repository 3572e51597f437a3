"""One declaration makes a setting whole: its field, its flag with the default in --help, its key, its variable."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from peelaudit.cli.app import app
from peelaudit.errors import ConfigError
from peelaudit.settings import GATE_SETTINGS, SETTINGS, resolve, resolve_gate
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.declared import Group, Setting, declared, in_groups, out_of_range, setting
from peelaudit.settings.gate import GatePolicy
from peelaudit.settings.kinds import NUMBER, PATH, TEXT, WHOLE

COMMANDS = ("run", "batch", "selftest", "check", "compare")
ALL = (*SETTINGS.values(), *GATE_SETTINGS.values())
OTHERS = {
    "data": "/a.txt",
    "split": "50,25,25",
    "schedules": "final",
    "bits": "ternary",
    "max_memory": "2GiB",
    "float_reference": "on",
    "fail_over": "gap=1",
    "fail_on": "red",
    "fail_regression": "gap=2",
}
"""Values that aren't the default, where no choice, number, text or path would do."""


def other(one: Setting) -> str:
    """A value of the setting that isn't its default."""
    if one.choices:
        return next(choice for choice in one.choices if choice != one.default)
    return (
        OTHERS[one.name]
        if one.name in OTHERS
        else {WHOLE: "123", NUMBER: "0.25", TEXT: "other", PATH: "/other"}[one.kind]
    )


def read(one: Setting, folder: Path, environ: dict[str, str], flags: dict[str, Any]) -> object:
    """The setting's value, with those beside it that some need."""
    if one.name in GATE_SETTINGS:
        beside = {} if one.name == "baseline" else {"baseline": "/base.json"}
        return getattr(resolve_gate(beside | flags, environ=environ, directory=folder), one.name)
    beside = {} if one.name == "solver" else {"solver": "adam"}
    return getattr(resolve("c", beside | flags, environ=environ, directory=folder), one.name)


@pytest.fixture(scope="module")
def helps() -> dict[str, dict[str, str]]:
    """What --help of each command that has settings says of each flag."""
    runner = CliRunner()
    return {name: flags_of(runner.invoke(app, [name, "--help"]).output) for name in COMMANDS}


def flags_of(text: str) -> dict[str, str]:
    """A flag's line begins with it, and the lines that go on are indented further."""
    lines = re.sub(r"\n {3,}", " ", text).splitlines()
    found = (re.match(r"  (?:-\w, )?(--[a-z-]+)(.*)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_setting_is_read_from_flag_file_and_variable(one: Setting, tmp_path: Path) -> None:
    expected = one.kind.from_text([other(one)])
    assert expected != one.default
    assert read(one, tmp_path, {}, {one.name: other(one)}) == expected
    assert read(one, tmp_path, {one.variable: other(one)}, {}) == expected
    value = {"123": "123", "0.25": "0.25", "on": "true"}.get(other(one), f'"{other(one)}"')
    table = "[gate]\n" if one.name in GATE_SETTINGS else ""
    (tmp_path / "peelaudit.toml").write_text(f"{table}{one.key} = {value}\n")
    assert read(one, tmp_path, {}, {}) == expected


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_setting_has_a_flag_with_its_default_in_help(one: Setting, helps: dict[str, dict[str, str]]) -> None:
    words = helps["run"][one.flag]
    config = GatePolicy() if one.name in GATE_SETTINGS else AuditConfig(checkpoint="c")
    shown = re.search(r"Default: (.*)\.$", words)
    default = one.kind.from_text([shown[1]]) if shown else ()
    assert (default or None) == (getattr(config, one.name) or None)


def test_each_command_has_the_flags_of_its_groups(helps: dict[str, dict[str, str]]) -> None:
    audit, gate = ({one.flag for one in group.values()} for group in (SETTINGS, GATE_SETTINGS))
    found = {command: flags.keys() & (audit | gate) for command, flags in helps.items()}
    assert found == {
        "run": audit | gate,
        "batch": audit | gate,
        "selftest": audit - {"--parent"},
        "check": gate,
        "compare": {"--fail-regression", "--on-inconclusive", "--tolerance"},  # its own, of what has changed
    }


def test_what_is_seldom_needed_stands_last_in_its_group() -> None:
    names = [one.name for one in in_groups(SETTINGS.values())]
    assert names[:7] == ["data", "tokens", "seq_len", "split", "field", "separator", "tokenizer"]
    assert names[-7:] == ["resamples", "seed", "config", "device", "dtype", "adapter", "max_memory"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    plain: int
    mode: str = setting("a", TEXT, Group.METHOD, "NAME", "How.", choices=("a", "b"))
    most_rows: int | None = setting(None, WHOLE, Group.METHOD, "N", "How many.", least=3)


def test_a_declaration_takes_name_and_default_from_its_field() -> None:
    settings = declared(Example)
    assert list(settings) == ["mode", "most_rows"]
    rows = settings["most_rows"]
    assert (rows.key, rows.flag, rows.variable) == ("most-rows", "--most-rows", "PEELAUDIT_MOST_ROWS")
    assert (settings["mode"].help, rows.help) == ("How. Default: a.", "How many.")


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"most_rows": 3}, []),
        ({"most_rows": 2}, ["most-rows is 2: expected 3 or more"]),
        (
            {"mode": "c", "most_rows": 2**32},
            ["mode is 'c': expected a | b", f"most-rows is {2**32}: expected {2**32 - 1} or less"],
        ),
    ],
)
def test_every_value_out_of_range_is_told(changes: dict[str, Any], problems: list[str]) -> None:
    assert out_of_range(Example(plain=1, **changes), declared(Example).values()) == problems


def test_a_configuration_is_an_ordinary_frozen_dataclass() -> None:
    config = AuditConfig(checkpoint="c", tokens=5)
    assert dataclasses.replace(config, tokens=16_384) == AuditConfig(checkpoint="c")
    assert dataclasses.asdict(config)["tokens"] == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.tokens = 6  # type: ignore[misc]
    with pytest.raises(ConfigError, match="tokens is 0: expected 1 or more"):
        dataclasses.replace(config, tokens=0)
