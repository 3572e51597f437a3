"""The command as a process: exit codes, what goes where, closed and full pipes, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from peelaudit.records.json import read_report
from peelaudit.reports.formats import Format
from tests.cli.support import COMMAND, MODULE, STUB, call, environ, real, stubbed
from tests.places import ROOT


@pytest.mark.parametrize(
    ("mode", "code", "message"),
    [
        ("unreadable", 3, r"error: no file \x1b[31m[bold]x"),
        ("calibration", 3, "error: too few tokens"),
        ("non-finite", 3, "error: layer 3 became NaN"),
        ("nan", 3, "baselines.unigram.value is nan"),
        ("nothing", 5, "error: no layer"),
        ("config", 2, "no such family"),
        ("memory", 3, "not enough memory"),
        ("torch memory", 3, "not enough memory"),
        ("disk", 3, "No space left on device"),
        ("exit", 3, ""),
    ],
)
def test_failures(mode: str, code: int, message: str) -> None:
    done = stubbed(mode, "run", "ckpt.pt")
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr


def test_a_bug_is_a_traceback_but_never_a_failed_gate() -> None:
    done = stubbed("bug", "run", "ckpt.pt")
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" in done.stderr
    assert "this is a bug in peelaudit" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing argument"),
        (["run", "a", "--tokns", "3"], "No such option"),
        (["rnu"], "No such command"),
        (["run", "a", "-f", "xml", "--seed", "x"], "--seed is 'x'"),
        (["run", "a", "--init", "random"], "--init random needs solver adam"),
        (["run", ""], "path is empty"),
        (["run", "a", "-o", "report.pdf"], "--output is 'report.pdf'"),
        (["inspect", "a", "-f", "csv"], "--format is 'csv': expected table | json"),
    ],
)
def test_usage(arguments: list[str], message: str) -> None:
    done = real(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_all_mistakes_at_once() -> None:
    done = real("run", "a", "-f", "jsn", "-o", "a.foo", "-o", "jsn=b", "--tokens", "x", env={"PEELAUDIT_SEED": "-1"})
    assert done.returncode == 2
    first, *lines = done.stderr.splitlines()
    assert first == "peelaudit: error: 5 mistakes in the settings"
    assert [line.split()[0] for line in lines] == ["--format", "--output", "--output", "--tokens", "PEELAUDIT_SEED"]
    assert "did you mean json=?" in lines[2]


def test_nothing_but_the_table_on_stdout() -> None:
    done = stubbed("ok", "run", "ckpt.pt", env={"COLUMNS": "100"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("peelaudit 0.1.0, all losses and gaps in nats/token\n\ncheckpoint   ckpt.pt\n")
    assert "\x1b" not in done.stdout


def test_ascii_terminal() -> None:
    done = stubbed("ok", "run", "ckpt.pt", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert "red x ineffective" in done.stdout


def test_json_on_stdout_and_warnings_on_stderr() -> None:
    done = stubbed("ok", "run", "ckpt.pt", "-f", "json")
    assert json.loads(done.stdout)["checkpoint"]["path"] == "ckpt.pt"
    assert done.stderr.count("peelaudit: warning: ") == 2
    assert stubbed("ok", "run", "ckpt.pt", "-f", "json", "--quiet").stderr == ""


def test_files(tmp_path: Path) -> None:
    names = ["a.json", "b.csv", "c.md", "d.txt", "json=e.out"]
    outputs = [part for name in names for part in ("-o", name)]
    done = stubbed("ok", "run", "ckpt.pt", "-q", *outputs, cwd=tmp_path)
    assert done.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.csv", "c.md", "d.txt", "e.out"]
    assert read_report(tmp_path / "e.out") == read_report(tmp_path / "a.json")


def test_one_target_that_fails_keeps_no_other_back(tmp_path: Path) -> None:
    done = stubbed("ok", "run", "c", "-o", "json=/dev/full", "-o", "b.csv", cwd=tmp_path)
    assert done.returncode == 3
    assert "/dev/full can't be written: No space left" in done.stderr
    assert (tmp_path / "b.csv").read_text().startswith("checkpoint,")
    assert done.stdout.startswith("peelaudit")


def test_targets_are_checked_before_the_audit(tmp_path: Path) -> None:
    done = stubbed("wait", "run", "c", "-o", "no/such/report.json", cwd=tmp_path)
    assert done.returncode == 3
    assert "there is no directory no/such" in done.stderr


def test_progress_is_plain_off_a_terminal_and_comes_late() -> None:
    done = stubbed("slow", "run", "c", "-f", "csv", "-q")
    assert done.stderr == ""
    done = stubbed("slow", "run", "c")
    assert done.stderr.splitlines() == ["peelaudit: fit", r"peelaudit: bound \x1b[31m[red]"]


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["--version"], ["run", "--help"]])
@pytest.mark.parametrize("where", ["full", "closed", "broken"])
def test_stdout_that_takes_nothing(arguments: list[str], where: str) -> None:
    if where == "full":
        with Path("/dev/full").open("w") as full:
            done = real(*arguments, stdout=full)
    elif where == "broken":
        read, write = os.pipe()
        os.close(read)
        done = real(*arguments, stdout=write)
        os.close(write)
    else:
        done = call(["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *arguments], cwd=ROOT)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_full_stdout_of_a_report() -> None:
    with Path("/dev/full").open("w") as full:
        done = stubbed("ok", "run", "c", stdout=full)
    assert done.returncode == 3
    assert "stdout can't be written: No space left on device" in done.stderr


def test_closed_stderr_is_no_reason_to_fail() -> None:
    done = call(["sh", "-c", 'exec "$@" 2>&-', "sh", *STUB, "ok", "run", "c", "-f", "json"], cwd=ROOT)
    assert done.returncode == 0
    assert json.loads(done.stdout)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")],
)
def test_signals(number: signal.Signals, code: int, word: str, tmp_path: Path) -> None:
    command = [*STUB, "wait", "run", "c", "-o", "a.json"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
    assert line == "ready\n"
    assert (process.returncode, out, errors) == (code, "", f"peelaudit: {word}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["run", "--help"], ["batch", "--help"], ["status", "--help"], ["--version"]]
)
def test_help_waits_for_no_heavy_library(arguments: list[str]) -> None:
    script = (
        "import sys; from peelaudit.cli import main; code = main(sys.argv[1:])\n"
        "print([name for name in ('torch', 'numpy', 'transformers', 'pydantic', 'rich') if name in sys.modules],"
        " code, file=sys.stderr)"
    )
    done = call([sys.executable, "-c", script, *arguments], cwd=ROOT)
    assert done.stderr.splitlines()[-1] == ("[] 0" if arguments else "[] 2")


def test_help_names_every_setting_and_group() -> None:
    text = real("run", "--help").stdout
    for words in ("Calibration data:", "Method:", "Computing:", "Output:", "--depth-readout", "Default: 60,15,25."):
        assert words in text


def test_version() -> None:
    done = real("--version")
    assert done.stdout == "peelaudit 0.1.0\n"


def test_schema_is_json() -> None:
    assert json.loads(real("schema").stdout)["$schema"].endswith("2020-12/schema")


def test_formats_of_help_are_all() -> None:
    assert all(form in real("run", "--help").stdout for form in Format)


def test_the_module_is_the_command() -> None:
    for arguments in (["--version"], ["run", "a", "--seed", "x"], ["--help"]):
        by_module, by_script = (call([*command, *arguments], cwd=ROOT) for command in (MODULE, COMMAND))
        assert (by_module.returncode, by_module.stdout) == (by_script.returncode, by_script.stdout)
        assert by_module.stderr == by_script.stderr


def test_importing_the_module_runs_nothing() -> None:
    done = call([sys.executable, "-c", "import peelaudit.__main__"], cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
