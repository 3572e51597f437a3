"""The GPU check: every row of it can fail, a failure isn't the end, and the folder runs where nothing is installed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import peelaudit
from bench import device, gpu_check
from bench.gpu import parts
from bench.gpu.audits import SHARE, Deadline, TimeIsUp, compare, fixture_checks, model_check
from bench.gpu.bundle import bundle
from bench.gpu.networks import FAMILIES, Network, save_model
from bench.gpu.table import Check, Found, Outcome, Skipped, Table
from peelaudit.records import AuditReport, Estimate, Verdict
from tests.factories import make_report
from tests.places import FIXTURES, NANOGPT
from tests.variants import judged

CPU = torch.device("cpu")


def table(out: Path | None = None, budget: float = 60) -> Table:
    return Table(CPU, budget, out, "a title")


def check(run: Callable[[], Found]) -> Check:
    return Check("a check", "cpu", "float32", run)


def raises(error: BaseException) -> Callable[[], Found]:
    def run() -> Found:
        raise error

    return run


# ---- The table ----


def test_a_failure_is_told_with_its_traceback_and_the_next_check_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    made = table()
    for run in (
        lambda: Found(1e-7, 1e-6),
        lambda: Found(2e-6, 1e-6),
        lambda: Found(math.inf, 1e-6),
        raises(torch.OutOfMemoryError("20 GiB")),
        raises(Skipped("no model")),
        lambda: Found(note="3 s"),
    ):
        made.run(check(run))
    assert [row.outcome for row in made.rows] == ["passed", "FAILED", "FAILED", "FAILED", "skipped", "passed"]
    assert made.finish() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 passed, 3 failed, 1 skipped"
    assert "torch.OutOfMemoryError: 20 GiB" in lines
    assert any(line.endswith("skipped: no model") for line in lines)


def test_nothing_failed_is_exit_code_0() -> None:
    made = table()
    made.run(check(lambda: Found()))
    made.run(check(raises(Skipped("no model"))))
    assert made.finish() == 0


def test_what_there_was_no_time_for_is_named() -> None:
    made = table(budget=0)
    made.run(check(lambda: Found()))
    assert made.rows[0].outcome is Outcome.SKIPPED
    assert "time" in made.rows[0].note


def test_a_device_that_is_lost_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = table()
    monkeypatch.setattr(torch, "ones", raises(RuntimeError("device-side assert")))
    made.run(check(raises(RuntimeError("index out of bounds"))))
    made.run(check(lambda: Found()))
    assert [row.outcome for row in made.rows] == [Outcome.FAILED, Outcome.SKIPPED]
    assert "a check" in made.rows[1].note


def test_the_files_hold_every_row(tmp_path: Path) -> None:
    made = table(tmp_path / "out")
    made.run(check(lambda: Found(1e-7, 1e-6, "a | b")))
    made.run(check(raises(ValueError("x"))))
    rows = json.loads((tmp_path / "out/gpu-check.json").read_text())["rows"]
    assert [(row["outcome"], row["error"]) for row in rows] == [("passed", 1e-7), ("FAILED", None)]
    page = (tmp_path / "out/gpu-check.md").read_text()
    assert page.startswith("a title\n\n| check |")
    assert "a \\| b" in page
    assert "ValueError: x\n```" in page


# ---- The parts ----


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder: Path = tmp_path_factory.mktemp("models")
    return {family: save_model(family, folder / family) for family in FAMILIES}


def every_case(models: dict[str, Path]) -> list[parts.Case]:
    return list(parts.cases(models, NANOGPT / "ckpt.pt"))


def test_there_is_a_part_for_every_solver_readout_set_and_refinement(models: dict[str, Path]) -> None:
    names = " ".join(case.name for case in every_case(models))
    for word in ("ridge,", "adam,", "ridge+adam", "own", "refit", "lens", "binary", "ternary", "int4", "slopes"):
        assert word in names
    assert {"gaps by a step", "gaps by curvature", "nearby losses", "refined", "temperature"} <= {
        case.name.partition(",")[0] for case in every_case(models)
    }


@pytest.mark.parametrize("name", ["states, gpt2", "ridge, ternary", "readout lens, llama", "slopes, llama"])
def test_a_part_passes_on_the_cpu(name: str, models: dict[str, Path]) -> None:
    (case,) = (case for case in every_case(models) if case.name == name)
    for dtype in parts.MANY:
        found = case.check(CPU, dtype)
        assert found.passed
        assert found.error is not None
        assert found.error > 0


@pytest.mark.slow
def test_every_part_fails_where_a_result_is_a_little_off(models: dict[str, Path]) -> None:
    for case in every_case(models):
        for dtype, off in ((torch.float32, 1e-3), (torch.bfloat16, 2.0)):
            if case.trains and dtype == torch.bfloat16:
                continue  # on the CPU it is skipped
            assert not spoiled(case, dtype, 1 + off).check(CPU, dtype).passed, (case.name, dtype)


def spoiled(case: parts.Case, dtype: torch.dtype, factor: float) -> parts.Case:
    """Its results in one dtype are multiplied."""

    def part(network: Network) -> parts.Values:
        return case.part(network) * (factor if network.decoder.dtype == dtype else 1.0)

    return dataclasses.replace(case, part=part)


def test_a_part_fails_where_a_product_is_as_rough_as_tf32(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (case,) = (case for case in every_case(models) if case.name == "states, llama")
    plain = torch.nn.functional.linear

    def rough(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if x.dtype != torch.float32:
            return plain(x, weight, bias)
        kept = [((one.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32) for one in (x, weight)]
        return plain(*kept, bias)

    assert case.check(CPU, torch.float32).passed
    monkeypatch.setattr(torch.nn.functional, "linear", rough)
    assert not case.check(CPU, torch.float32).passed


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_infinitely_far_off(value: float, models: dict[str, Path]) -> None:
    (case,) = (case for case in every_case(models) if case.name == "readout own, llama")
    assert not spoiled(case, torch.float32, value).check(CPU, torch.float32).passed


def test_tf32_is_asked_for_and_refused() -> None:
    assert parts.tf32_check(CPU).run().passed
    assert torch.get_float32_matmul_precision() == "highest"


# ---- The audits ----


def test_an_audit_is_no_way_from_itself() -> None:
    worst, _, differences = compare(make_report(), make_report())
    assert (worst, differences) == (0, [])


def test_a_held_out_figure_is_told_in_widths_of_its_interval() -> None:
    report = make_report()
    (first, *rest) = report.layers
    gap = first.redundancy
    moved = Estimate(gap.value + 0.3 * (gap.high - gap.low), gap.low, gap.high)
    other = dataclasses.replace(report, layers=(dataclasses.replace(first, redundancy=moved), *rest))
    worst, where, differences = compare(other, report)
    assert worst == pytest.approx(0.3)
    assert worst > SHARE
    assert where == "layer 1.redundancy"
    assert not differences


def test_a_figure_that_is_not_a_number_is_infinitely_far() -> None:
    report = make_report()
    (first, *rest) = report.layers
    broken = dataclasses.replace(first, redundancy=dataclasses.replace(first.redundancy, value=math.nan))
    assert compare(dataclasses.replace(report, layers=(broken, *rest)), report)[0] == math.inf


def test_verdicts_warnings_and_schedules_have_to_be_the_same() -> None:
    report = make_report()
    verdict = next(one for one in Verdict if one is not report.layers[1].held_out.verdict)
    other = dataclasses.replace(
        judged(report, 2, verdict), warnings=(*report.warnings, "new"), schedules=report.schedules[1:]
    )
    differences = compare(other, report)[2]
    assert f"layer 2's verdict {verdict} instead of {report.layers[1].held_out.verdict}" in differences
    assert "warning: new" in differences
    assert any(difference.startswith("only one has schedule direct") for difference in differences)


def test_what_a_library_warns_of_on_the_device_alone_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    def audit(*_: object, device: str, dtype: str, **__: object) -> AuditReport:
        if dtype == "float32":
            warnings.warn("falls back to the CPU", stacklevel=1)
        return make_report()

    monkeypatch.setattr(peelaudit, "audit", audit)
    first, *_ = fixture_checks(FIXTURES, CPU)
    found = first.run()
    assert not found.passed
    assert "warning: falls back to the CPU" in found.note


def test_a_gguf_file_is_left_out_where_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for path, reason in ((None, "no --model"), (Path("model.gguf"), "needs gguf and accelerate")):
        with pytest.raises(Skipped, match=reason):
            model_check(path, Path("text"), CPU).run()


def test_an_audit_ends_when_its_time_is_up() -> None:
    arguments = device.parse(["--device", "cpu", "--layers", "2", "--width", "64", "--tokens", "1024"])
    with pytest.raises(TimeIsUp):
        device.measure(arguments, Deadline(0))


@pytest.mark.slow
def test_the_large_shape_is_measured_with_and_without_counting() -> None:
    options = ["--device", "cpu", "--layers", "2", "--width", "64", "--tokens", "1024", "--dtype", "float32"]
    counted, plain = (device.measure(device.parse([*options, *more])) for more in (["--count"], []))
    assert counted.operations.total() > plain.operations.total() > 0  # products of moments are counted alone
    assert counted.report.network == plain.report.network


# ---- As a whole ----


def test_without_time_every_row_is_there_and_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    assert gpu_check.main(["--device", "cpu", "--budget", "0"]) == 0
    assert torch.get_num_threads() == threads
    out = capsys.readouterr().out
    for words in ("float32 without TF32", "gaps by curvature", "audit of llama-binary", "real model", "26 layers"):
        assert words in out
    assert "0 passed, 0 failed, " in out


@pytest.mark.slow
def test_a_real_model_needs_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--device", "cpu", "--only", "real model", "--model", str(FIXTURES / "nanogpt/ckpt.pt")]
    assert gpu_check.main(arguments) == 0
    assert "passed" in capsys.readouterr().out


@pytest.mark.slow
def test_the_folder_runs_by_itself_on_the_wheel(tmp_path: Path) -> None:
    bundle(tmp_path)
    (name,) = (path.name for path in tmp_path.glob("*.whl"))
    assert name.endswith("-none-any.whl")
    done = subprocess.run(
        [sys.executable, "bench/gpu_check.py", "--device", "cpu", "--budget", "0", "--out", "results"],
        capture_output=True, text=True, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": "wheel"},
    )  # fmt: skip
    assert f"from {tmp_path / 'wheel'}" in done.stdout or "from wheel/" in done.stdout
    assert (tmp_path / "results/gpu-check.md").exists()
