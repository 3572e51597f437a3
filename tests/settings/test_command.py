"""The command that repeats an audit: a shell and `resolve` read the same settings out of it."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.settings import SETTINGS, resolve
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.command import NETWORK, TEXT, next_command, repeat_command

PRINTABLE = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
PATHS = st.text(PRINTABLE, min_size=1, max_size=12)


def pairs(config: AuditConfig) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))


def read_back(words: list[str]) -> AuditConfig:
    """As the command line takes them: switches, flags with a value each, the checkpoint last."""
    assert words[:2] == ["peelaudit", "run"]
    flags: dict[str, Any] = {}
    rest = words[2:]
    while len(rest) > 1 and rest[0] != "--":
        flag, equals, value = rest.pop(0).partition("=")
        if flag.endswith("float-reference"):
            flags["float_reference"] = flag == "--float-reference"
            continue
        flags.setdefault(flag.removeprefix("--").replace("-", "_"), []).append(value if equals else rest.pop(0))
    return resolve(rest[-1], flags, environ={}, directory=Path("/"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"data": ("a b.txt", "-x.txt", "it's.txt"), "seq_len": 64, "split": (0.5, 0.25, 0.25)},
        {
            "schedules": ("direct", "1,1,1,4", "prefix:2"),
            "separator": "--- ",
            "tokenizer": "t.json",
            "config": "c.json",
        },
        {"bits": "int4:g32:free", "bits_on": "mlp-and-output", "float_reference": True},
        {"max_memory": "1.5 GB"},
        {"solver": "adam", "init": "random", "steps": 7, "seed": 3, "split": (1 / 3, 1 / 3, 1 / 3)},
    ],
)
@pytest.mark.parametrize("checkpoint", ["runs/a.pt", "-c.pt", '$(touch x); `y` "z" \''])
def test_the_same_settings_come_back(settings: dict[str, Any], checkpoint: str) -> None:
    config = AuditConfig(checkpoint=checkpoint, **settings)
    assert read_back(shlex.split(repeat_command(pairs(config)))) == config


@given(checkpoint=PATHS, data=st.lists(PATHS, max_size=2))
def test_printable_paths_come_back(checkpoint: str, data: list[str]) -> None:
    config = AuditConfig(checkpoint=checkpoint, data=tuple(data))
    assert read_back(shlex.split(repeat_command(pairs(config)))) == config


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("path", ["a\nb", "\x1b[31m9", "it's\t\\n", "\udcff8", "日本\x07"])
def test_a_shell_gives_the_bytes_of_any_name_back(path: str) -> None:
    command = repeat_command((("checkpoint", path),))
    assert command.isprintable()
    done = subprocess.run(["bash", "-c", f'set -- {command}; printf %s "$3"'], capture_output=True, check=True)
    assert done.stdout == path.encode("utf-8", "surrogateescape")


def test_every_setting_is_spelt_out() -> None:
    values = dict.fromkeys(SETTINGS, "x") | {"data": ("x",), "schedules": ("x",), "split": (0.5, 0.3, 0.2)}
    command = repeat_command((*values.items(), ("checkpoint", "c")))
    assert all(f" --{name.replace('_', '-')} " in command for name in SETTINGS)


def test_the_next_command_is_of_the_same_network_and_text() -> None:
    config = AuditConfig(
        checkpoint="my run/a.pt",
        data=("it's.txt", "b.txt=2"),
        bits="int4:g32",
        parent="b.pt",
        adapter="lora",
        tokens=999,
        seq_len=8,
    )
    said = "--data 'it'\"'\"'s.txt' --data b.txt=2 --adapter lora"
    keep = (*NETWORK, *TEXT)
    assert next_command("run", config, "--save-repairs", "DIR", keep=keep) == (
        f"peelaudit run 'my run/a.pt' {said} --tokens 999 --bits int4:g32 --parent b.pt --save-repairs DIR"
    )
    assert next_command("run", config, "--tokens", "4000", keep=keep) == (
        f"peelaudit run 'my run/a.pt' {said} --bits int4:g32 --parent b.pt --tokens 4000"
    )
    assert next_command("diff", AuditConfig(checkpoint="a.pt"), paths=("-b.pt", "a.pt"), keep=keep) == (
        "peelaudit diff -- -b.pt a.pt"
    )
