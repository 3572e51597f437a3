"""The gate's commands: every exit code, what goes where, and that no torch is loaded for a saved report.

The tables call the command's own entry point in this process, for a start costs a second; a process for each command is
at the end.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from peelaudit.cli import main
from peelaudit.records import SCHEMA_VERSION
from peelaudit.records.json import export
from tests.cli.stub import stub
from tests.cli.support import environ, real, stubbed
from tests.factories import make_report
from tests.variants import moved, reweighted, with_row, with_settings

GAP = make_report().network.held_out.gap_layers.value  # 0.042, its interval +-0.02
FAILS, OPEN, PASSES = "gap_layers=0.01", "gap_layers=0.04", "gap_layers=0.1"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports: of a base, of what was rolled back, of what can't be compared, and some that are none."""
    folder = tmp_path_factory.mktemp("reports")
    base = make_report()
    rolled = moved(moved(reweighted(base, 3), 3, 0.3), 4, 0.3)
    sums = base.layers[1].held_out_sums
    reports = {
        "base": base,
        "rolled": rolled,
        "seed": with_settings(base, seed=7, solver="adam"),
        "tokens": dataclasses.replace(base, data=dataclasses.replace(base.data, tokens_sha256="00")),
        "short": with_row(base, 2, held_out_sums=dataclasses.replace(sums, own=sums.own[1:])),
    }
    for name, report in reports.items():
        (folder / f"{name}.json").write_text(export(report))
    text = export(base)
    (folder / "nan.json").write_text(text.replace(f'"value": {GAP!r}', '"value": NaN'))
    (folder / "infinite.json").write_text(text.replace(f'"value": {GAP!r}', '"value": 1e999'))
    (folder / "old.json").write_text(text.replace('"schema_version": 2', '"schema_version": 1'))
    (folder / "none.json").write_text("{}")
    return folder


class Done(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(saved: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Call the command in the folder of the reports, or `cwd`; its audit, if it comes to one, does what `mode` says."""
    for variable in [name for name in os.environ if name.startswith("PEELAUDIT_")]:
        monkeypatch.delenv(variable)

    def call(*arguments: str, mode: str = "ok", cwd: Path = saved) -> Done:
        monkeypatch.chdir(cwd)
        monkeypatch.setitem(sys.modules, "peelaudit.auditing.run", stub(mode))
        code = main(arguments)
        return Done(code, *capfd.readouterr())

    return call


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (f"check base.json --fail-over {PASSES}", 0, "gate passed: base.json: 1 check"),
        (f"check base.json --fail-over {OPEN}", 0, "warning: gate inconclusive: base.json"),
        (f"check base.json --fail-over {OPEN} --on-inconclusive pass", 0, "gate passed"),
        (f"check base.json --fail-over {OPEN} --on-inconclusive fail", 1, "gate failed: base.json"),
        (f"check base.json --fail-over {FAILS}", 1, "gate failed: base.json: 1 check, 1 failed"),
        ("check base.json --fail-on red", 1, "which red forbids"),
        ("check base.json --fail-on grey", 0, "gate passed"),
        ("check base.json --fail-on named", 2, "needs a report that looked at the layers"),
        (f"check base.json rolled.json --fail-over {FAILS}", 1, "gate failed: rolled.json"),
        ("check rolled.json --baseline base.json --fail-regression trained_loss=1%", 1, "begins at layer 3"),
        ("check base.json --baseline base.json --fail-regression trained_loss=0", 0, "gate passed"),
        ("check base.json --fail-over layer[9].gap=1", 2, "base.json: the rule 'layer[9].gap=1' matches no row"),
        ("check base.json --fail-over gap_layer=1", 2, "did you mean gap_layers"),
        ("check base.json --fail-over gap=nan", 2, "not a finite number"),
        ("check base.json --fail-on blue", 2, "expected red | yellow | grey | named"),
        ("check base.json --fail-regression gap=1", 2, "needs a baseline"),
        ("check base.json", 2, "no rule to check by"),
        ("check", 2, "Missing argument"),
        ("check base.json -f csv --fail-on red", 2, "--format is 'csv': expected table | json"),
        ("check seed.json --baseline base.json --fail-regression gap=1", 2, "seed.json: seed is 0 in the base, 7"),
        ("check tokens.json --baseline base.json --fail-regression gap=1", 2, "calibration tokens"),
        (f"check nan.json --fail-over {PASSES}", 3, "it holds NaN"),
        (f"check infinite.json --fail-over {PASSES}", 3, "finite numbers only"),
        (f"check old.json --fail-over {PASSES}", 3, "schema_version is 1"),
        (f"check none.json --fail-over {PASSES}", 3, "not a report of peelaudit"),
        (f"check short.json --fail-over {PASSES}", 3, "don't fit its held-out clusters"),
        (f"check nowhere.json --fail-over {PASSES}", 3, "nowhere.json can't be read"),
        ("check base.json --baseline nowhere.json --fail-regression gap=1", 3, "nowhere.json can't be read"),
        (f"check base.json nowhere.json rolled.json --fail-over {FAILS}", 3, "gate failed: rolled.json"),
        (f"check nowhere.json base.json --fail-over {PASSES} --fail-over layer[9].gap=1", 3, "matches no row"),
        ("compare base.json base.json", 0, "the same checkpoint"),
        ("compare base.json rolled.json", 0, ""),
        ("compare base.json rolled.json --fail-regression trained_loss=0.1", 1, "begins at layer 3"),
        ("compare base.json rolled.json --fail-regression trained_loss=50%", 0, "gate passed: rolled.json"),
        ("compare base.json seed.json", 2, "2 differences keep the reports from being compared"),
        ("compare base.json tokens.json", 2, "calibration tokens"),
        ("compare base.json rolled.json --tolerance -1", 2, "--tolerance is '-1'"),
        ("compare base.json rolled.json --tolerance nan", 2, "--tolerance is 'nan'"),
        ("compare base.json rolled.json --fail-regression gap", 2, "is no rule"),
        ("compare base.json", 2, "Missing argument"),
        ("compare base.json short.json", 3, "don't fit its held-out clusters"),
        ("compare none.json base.json", 3, "not a report of peelaudit"),
    ],
)
def test_exit_codes_of_saved_reports(arguments: str, code: int, words: str, command: Command) -> None:
    done = command(*arguments.split())
    assert done.code == code, done.err
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("mode", "arguments", "code", "words"),
    [
        ("ok", f"--fail-over {PASSES}", 0, "gate passed: ckpt.pt: 1 check"),
        ("ok", f"--fail-over {OPEN}", 0, "gate inconclusive"),
        ("ok", f"--fail-over {OPEN} --on-inconclusive fail", 1, "gate failed"),
        ("ok", f"--fail-over {FAILS}", 1, "gate failed: ckpt.pt: 1 check, 1 failed. The network: gap_layers is 0.0420"),
        ("ok", "--fail-on yellow", 1, "gate failed"),
        ("ok", f"--fail-over {FAILS} -q", 1, "gate failed"),
        ("ok", "--baseline base.json --fail-regression gap_layers=5%", 0, "gate passed"),
        ("ok", "--baseline rolled.json --fail-regression trained_loss=-0.4", 1, "begins at layer 3"),
        ("ok", "--baseline base.json", 2, "nothing would be compared"),
        ("ok", "--fail-over layer[7].gap=1", 2, "matches no row for layer 7"),
        ("ok", "--fail-over gap --fail-on blue --seed x", 2, "3 mistakes in the settings"),
        ("nan", f"--fail-over {PASSES}", 3, "unigram.value is nan"),
        ("nan gap", f"--fail-over {PASSES}", 3, "nan"),
        ("unreadable", f"--fail-over {FAILS}", 3, "error: no file"),
        ("nothing", f"--fail-over {FAILS}", 5, "no layer"),
        ("bug", f"--fail-over {FAILS}", 3, "this is a bug"),
        ("ok", f"--fail-over {FAILS} -o json=/dev/full", 3, "/dev/full can't be written"),
    ],
)
def test_exit_codes_of_a_run(mode: str, arguments: str, code: int, words: str, command: Command) -> None:
    done = command("run", "ckpt.pt", *arguments.split(), mode=mode)
    assert done.code == code, done.err
    assert words in done.err


def test_the_table_ends_with_the_gate_and_other_formats_are_left_alone(command: Command) -> None:
    table = command("run", "ckpt.pt", "--fail-over", FAILS).out
    assert table.startswith("ckpt.pt, step ")
    assert "Next: " in table[: table.index("The gate")]
    assert "✗ failed gap_layers=0.01" in table
    assert "The gate" not in command("run", "ckpt.pt").out
    assert json.loads(command("run", "ckpt.pt", "-f", "json", "--fail-over", FAILS).out)


def test_a_rule_about_a_layer_that_is_not_there_is_found_before_the_audit(command: Command) -> None:
    done = command("run", "c", "--fail-over", "layer[7].gap=1", mode="bug")
    assert (done.code, done.out) == (2, "")
    assert "the rule 'layer[7].gap=1' matches no row for layer 7: c has layers 1 to 4" in done.err


def test_a_rule_that_fits_no_figure_loses_no_report(command: Command, tmp_path: Path) -> None:
    done = command("run", "ckpt.pt", "--fail-over", "layer.routing_gain=1", "-o", str(tmp_path / "r.json"))
    assert done.code == 2
    assert "the rule 'layer.routing_gain=1' needs" in done.err
    assert json.loads((tmp_path / "r.json").read_text())["schema_version"] == SCHEMA_VERSION


def test_a_baseline_of_other_settings_is_found_before_the_audit(command: Command) -> None:
    rule = ("--baseline", "base.json", "--fail-regression", "gap=1")
    done = command("run", "c", *rule, "--seed", "4", mode="bug")
    assert (done.code, done.out) == (2, "")
    assert "seed is 0 in the base, 4 in the new" in done.err


def test_a_rule_about_gaps_without_any_is_found_before_the_audit(command: Command) -> None:
    done = command("run", "c", "--effort", "quick", "--fail-over", "layer.gap=1", mode="bug")
    assert (done.code, done.out) == (2, "")
    assert "a rule is about layer.gap: that needs --effort default or thorough" in done.err


def test_a_rule_about_a_parent_without_one_is_found_before_the_audit(command: Command) -> None:
    done = command("run", "c", "--fail-over", "layer.parent_gap=0.02", mode="bug")
    assert (done.code, done.out) == (2, "")
    assert "a rule is about layer.parent_gap: that needs --parent" in done.err


def test_the_file_demands_and_excuses(command: Command, saved: Path, tmp_path: Path) -> None:
    shutil.copy(saved / "base.json", tmp_path)
    toml = tmp_path / "peelaudit.toml"
    toml.write_text(f'[gate]\nfail-over = "{FAILS}"\n')
    assert command("check", "base.json", cwd=tmp_path).code == 1
    assert command("check", "base.json", "--fail-over", PASSES, cwd=tmp_path).code == 0
    assert command("run", "ckpt.pt", cwd=tmp_path).code == 1
    excuse = '[[suppress]]\ncheckpoint = "tiny/ckpt.pt"\nreason = "see #12"\nexpires = {}\n'
    toml.write_text(toml.read_text() + excuse.format("2999-01-01"))
    done = command("check", "base.json", cwd=tmp_path)
    assert done.code == 0
    assert "~ suppressed" in done.out
    assert "see #12" in done.out
    toml.write_text(toml.read_text().replace("2999", "2001"))
    done = command("check", "base.json", cwd=tmp_path)
    assert done.code == 1
    assert "expired on 2001-01-01" in done.err


def test_json_of_checks_and_comparisons(command: Command) -> None:
    checks = json.loads(command("check", "base.json", "rolled.json", "--fail-over", FAILS, "-f", "json").out)
    assert [(check["outcome"], check["fails"], check["limit"]) for check in checks] == [("failed", True, 0.01)] * 2
    done = command("compare", "base.json", "rolled.json", "-f", "json", "--fail-regression", "trained_loss=1%")
    comparison = json.loads(done.out)
    assert [row["status"] for row in comparison["rows"]] == ["worse", "unchanged", "unchanged", "worse", "worse"]
    assert comparison["origin"]["layer"] == 3
    assert comparison["rows"][3]["trained_loss"]["difference"]["value"] == pytest.approx(0.3)
    assert comparison["checks"][0]["outcome"] == "failed"


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "base.json", "--fail-on", "red", "--fail-over", "layer.gap=0.1"],
        ["check", "rolled.json", "--baseline", "base.json", "--fail-regression", "trained_loss=1%"],
        ["compare", "base.json", "rolled.json"],
    ],
)
def test_saved_reports_need_no_torch(arguments: list[str], saved: Path) -> None:
    code = "import sys; from peelaudit.cli import main; main(sys.argv[1:]); "
    code += "sys.exit(bool({'torch', 'transformers', 'safetensors'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=saved, env=environ(), capture_output=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout


def test_the_network_gap_is_what_the_tests_think() -> None:
    figure = make_report().network.held_out.gap_layers
    assert math.isclose(figure.value, 0.042)
    assert figure.low < 0.04 < figure.high < 0.1
    assert figure.low > 0.01


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (f"check base.json rolled.json --fail-over {PASSES}", 0),
        (f"check base.json --fail-over {FAILS}", 1),
        ("compare base.json rolled.json --fail-regression trained_loss=0.1", 1),
        ("compare base.json seed.json", 2),
        (f"check base.json nowhere.json --fail-over {FAILS}", 3),
    ],
)
def test_processes_end_with_the_same_codes(arguments: str, code: int, saved: Path) -> None:
    assert real(*arguments.split(), cwd=saved).returncode == code


def test_a_run_that_fails_its_gate_is_a_process_that_ends_with_1(saved: Path) -> None:
    assert stubbed("ok", "run", "ckpt.pt", "--fail-over", FAILS, cwd=saved).returncode == 1


def test_row_65_a_full_stdout_is_no_failed_gate(saved: Path) -> None:
    for arguments in (["check", "base.json", "--fail-over", FAILS], ["compare", "base.json", "rolled.json"]):
        with Path("/dev/full").open("w") as full:
            assert real(*arguments, cwd=saved, stdout=full).returncode == 3
