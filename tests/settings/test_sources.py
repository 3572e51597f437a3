"""Settings: who wins, and every mistake told with where it came from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from peelaudit.errors import ConfigError
from peelaudit.settings import SETTINGS, resolve
from peelaudit.settings.audit import AuditConfig


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    return tmp_path


def config(directory: Path, environ: dict[str, str] | None = None, **flags: Any) -> AuditConfig:
    return resolve("ckpt.pt", flags, environ=environ or {}, directory=directory)


def problems(directory: Path, environ: dict[str, str] | None = None, **flags: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        config(directory, environ, **flags)
    return caught.value.problems


def test_every_field_is_a_setting() -> None:
    assert {"checkpoint", *SETTINGS} == {field.name for field in dataclasses.fields(AuditConfig)}


def test_defaults(project: Path) -> None:
    assert config(project) == AuditConfig(checkpoint="ckpt.pt")
    assert tuple(SETTINGS[name].default_text for name in ("split", "tokens", "data")) == ("60,15,25", "16384", "")


def test_flag_over_file_over_variable_over_default(project: Path) -> None:
    (project / "peelaudit.toml").write_text("tokens = 2000\nseed = 2\n")
    environ = {"PEELAUDIT_TOKENS": "1000", "PEELAUDIT_SEED": "1", "PEELAUDIT_STEPS": "10"}
    found = config(project, environ, tokens="3000")
    assert (found.tokens, found.seed, found.steps, found.resamples) == (3000, 2, 10, 2000)


def test_every_kind_from_every_source(project: Path) -> None:
    (project / "peelaudit.toml").write_text(
        'data = ["a.txt", "/b"]\nconfig = "c.json"\nsplit = [50, 25, 25]\nschedules = ["direct", "1, 1,4"]\n'
        'seq-len = 64\nsolver = "adam"\nfield = "body"\n'
    )
    found = config(project)
    assert found.data == (str(project / "a.txt"), "/b")
    assert found.config == str(project / "c.json")
    assert found.split == (0.5, 0.25, 0.25)
    assert found.schedules == ("direct", "1,1,4")
    assert (found.seq_len, found.solver, found.field) == (64, "adam", "body")
    flags = config(project, data=["x", "y"], schedules=["a;b c", "1,2 , 3"], split="0.5,0.2,0.3", separator="\n\n")
    assert (flags.data, flags.schedules) == (("x", "y"), ("a", "b", "c", "1,2,3"))
    assert (flags.split, flags.separator) == ((0.5, 0.2, 0.3), "\n\n")


def test_data_variable_holds_several_paths(tmp_path: Path) -> None:
    assert config(tmp_path, {"PEELAUDIT_DATA": "a.txt:/b/c"}).data == ("a.txt", "/b/c")


def test_empty_variable_is_unset_and_strangers_are_left_alone(tmp_path: Path) -> None:
    environ = {"PEELAUDIT_TOKENS": "", "PEELAUDIT_HOMEPAGE_URL": "x", "TOKENS": "y"}
    assert config(tmp_path, environ) == AuditConfig(checkpoint="ckpt.pt")


def test_pyproject_table_and_nearest_folder(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.peelaudit]\ntokens = 5\n[tool.other]\nx = 1\n")
    inner = project / "a" / "b"
    inner.mkdir(parents=True)
    assert config(inner).tokens == 5
    (inner / "peelaudit.toml").write_text("tokens = 6\n")
    assert config(inner).tokens == 6


def test_search_ends_at_the_repository(tmp_path: Path) -> None:
    (tmp_path / "peelaudit.toml").write_text("tokens = 5\n")
    inner = tmp_path / "repository" / "a"
    inner.mkdir(parents=True)
    assert config(inner).tokens == 16_384  # no repository: the current directory alone
    (tmp_path / "repository" / ".git").touch()
    assert config(inner).tokens == 16_384
    (tmp_path / ".git").touch()
    (tmp_path / "repository" / ".git").unlink()
    assert config(inner).tokens == 5


def test_two_files_in_one_folder_are_a_mistake(project: Path) -> None:
    (project / "peelaudit.toml").write_text("")
    (project / "pyproject.toml").write_text("[tool.peelaudit]\n")
    assert "keep one" in problems(project)[0]


def test_all_mistakes_at_once_with_their_origins(project: Path) -> None:
    toml = project / "peelaudit.toml"
    toml.write_text('sead = 1\ntokens = "9"\nsteps = true\nformat = "json"\nresamples = 5\nseq_len = 8\nseq-len = 8\n')
    environ = {"PEELAUDIT_SOLVER": "rigde", "PEELAUDIT_SEQLEN": "1"}
    found = problems(project, environ, seed="-1", split="60,15,15", device="gpu", field="")
    expected = [
        "PEELAUDIT_SEQLEN: no such setting; did you mean PEELAUDIT_SEQ_LEN?",
        f"sead in {toml}: no such setting; did you mean seed?",
        f"tokens in {toml} is '9': expected a whole number",
        f"steps in {toml} is True: expected a whole number",
        f"format in {toml}: belongs on the command line, not in a file",
        f"seq-len in {toml} is given twice, as seq_len too",
        "--split is '60,15,15': expected three shares above 0",
        "--field is empty",
        "PEELAUDIT_SOLVER is 'rigde': expected ridge | adam | ridge+adam",
        "--device is 'gpu': expected auto | cpu | cuda | mps",
        "--seed is -1: expected 0 or more",
        f"resamples in {toml} is 5: expected 100 or more",
    ]
    assert len(found) == len(expected)
    for problem, start in zip(found, expected, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", "1.5"),
        ("tokens", "ten"),
        ("tokens", "1" * 5000),
        ("seed", "0x1"),
        ("seed", str(2**32)),
        ("split", "60,40"),
        ("split", "nan,1,1"),
        ("split", "inf,1,1"),
        ("split", "100,-10,10"),
        ("split", "a,b,c"),
        ("config", "a\0b"),
        ("data", ["ok", ""]),
        ("schedules", [" ; "]),
    ],
)
def test_unusable_flags(name: str, value: object, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, **{name: value})
    assert problem.startswith(f"--{name} is ")
    assert len(problem) < 250


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"tokens = ", "is not TOML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"a = " + b"[" * 100_000, "is not TOML"),
        (b"tokens = " + b"1" * 5000, "is not TOML"),
        (b"#" * (1 << 20) + b"#", "no file of settings"),
        (b"[tool.peelaudit]\ntokens = 1", "stand at the top"),
        (b"tokens = 1.0", "expected a whole number"),
        (b"split = [60, 15, true]", "expected three shares"),
        (b"split = [nan, 1, 1]", "expected three shares"),
        (b"data = [1]", "expected a path or a list of paths"),
        (b'config = "a\\u0000b"', "expected a path"),
        (b'config = "~nobody-has-this-name/x"', "expected a path"),
        (b"schedules = []", "is empty"),
        (b"[field]\na = 1", "expected a text"),
    ],
)
def test_unusable_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "peelaudit.toml").write_bytes(content)
    (problem,) = problems(tmp_path)
    assert message in problem
    assert "peelaudit.toml" in problem
    assert len(problem) < 400


def test_unreadable_file_and_odd_table(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("tool = {peelaudit = 3}")
    assert "expected a table" in problems(tmp_path)[0]
    (tmp_path / "peelaudit.toml").mkdir()
    assert "can't be read" in problems(tmp_path)[0]


def test_a_bad_flag_is_told_though_the_file_is_fine(project: Path) -> None:
    (project / "peelaudit.toml").write_text("tokens = 5\n")
    assert problems(project, tokens="x") == ("--tokens is 'x': expected a whole number",)


def test_checkpoint_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="path is empty"):
        resolve("", {}, environ={}, directory=tmp_path)
