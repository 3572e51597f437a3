"""Completion by the shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import COMMAND, call, real


def completed(words: str, count: int) -> list[str]:
    told = {"_PEELAUDIT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    done = real(env=told)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes_commands_and_flags() -> None:
    assert completed("peelaudit ru", 1) == ["run"]
    assert completed("peelaudit run --see", 2) == ["--seed"]
    assert completed("peelaudit check nothing.json", 2) == []  # the shell's own: files


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_what_a_command_is_for(shell: str) -> None:
    words = {"_PEELAUDIT_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "peelaudit conv"}
    done = real(env=words | {"_TYPER_COMPLETE_FISH_ACTION": "get-args"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "convert" in done.stdout
    assert "saved reports" in done.stdout


def test_completion_is_shown_and_installed_for_the_shell_that_asks(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("alias ll='ls -l'\n")
    script = '"$@"; exit $?'  # bash stays, as the process that asks
    for flag, words in (("--show-completion", "complete -o default -F"), ("--install-completion", "installed in")):
        done = call(["bash", "-c", script, "bash", *COMMAND, flag], cwd=tmp_path, env={"HOME": str(tmp_path)})
        assert (done.returncode, done.stderr) == (0, "")
        assert words in done.stdout
    assert (tmp_path / ".bashrc").read_text().startswith("alias ll='ls -l'\n")
    assert "peelaudit" in (tmp_path / ".bash_completions/peelaudit.sh").read_text()


def test_an_unknown_shell_is_said_so() -> None:
    done = real(env={"_PEELAUDIT_COMPLETE": "complete_csh"})
    assert (done.returncode, done.stdout) == (3, "")
    assert "csh not supported" in done.stderr
