"""What the README names is there: commands, flags, targets, formats, exit codes, files."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from peelaudit import errors
from peelaudit.cli.app import app
from peelaudit.reports.formats import Format
from tests.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = set(get_command(app).commands)
FOREIGN = {"--array", "--gres", "--cpus-per-task"}  # sbatch's


def helps() -> str:
    runner = CliRunner()
    return "\n".join(runner.invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output for command in COMMANDS)


def test_every_flag_is_one_of_a_command() -> None:
    known = set(re.findall(r"--[a-z][a-z-]*", helps()))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README)) - FOREIGN
    assert named
    assert named <= known, named - known


def test_every_command_is_one_and_all_are_named() -> None:
    named = set(re.findall(r"\bpeelaudit (run|[a-z]+)(?= [A-Z\w./'\"-])", README))
    assert named | {"inspect", "schema"} >= COMMANDS
    assert set(re.findall(r"`peelaudit ([a-z]+)", README)) <= COMMANDS


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z][a-z-]+)`", README))))
def test_every_make_target_is_one(target: str) -> None:
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_format_has_its_row() -> None:
    for form in Format:
        row = re.search(rf"^\| `{form}` \| (.*?) \|", README, re.MULTILINE)
        assert row, form
        assert set(form.suffixes[:1]) <= set(re.findall(r"\.\w+", row[1]))


def test_every_exit_code_has_its_row() -> None:
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    rows = set(map(int, re.findall(r"^\| (\d+) \|", README, re.MULTILINE)))
    assert codes <= rows


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_every_linked_file_is_there(path: str) -> None:
    assert (ROOT / path).is_file()
