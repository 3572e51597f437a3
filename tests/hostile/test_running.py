"""Weights, reports and circumstances in which an audit must not end as if all were well, through the real command."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from peelaudit.cli import main
from peelaudit.network.weights import check_weights
from peelaudit.records.json import export
from tests.checkpoints import models
from tests.factories import make_report
from tests.hostile.support import MARKS, audit, edit, refused, tokens
from tests.places import FIXTURES

pytestmark = MARKS


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_row_56_weights_that_are_not_finite(value: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = models.model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[5, 7] = value
    checkpoint = models.save(model, tmp_path / "model")
    error = refused([*audit(checkpoint, tokens(tmp_path)), "-o", str(tmp_path / "report.json")], tmp_path, capfd)
    assert "model.layers.1.mlp.up_proj.weight" in error
    assert "NaN or Inf" in error


@pytest.mark.parametrize(
    ("names", "subject"),
    [
        (["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"], "layer 1"),
        (["model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"], "layer 2"),
        (
            ["model.layers.1.mlp.down_proj.weight"],
            "layer 2: hidden states became so large that a norm of them overflows",
        ),
        (["lm_head.weight"], "loss is NaN or Inf"),
    ],
    ids=["layer 1", "layer 2", "norm", "loss"],
)
@pytest.mark.parametrize("readout", ["own", "refit", "lens"])
def test_row_57_finite_weights_whose_results_are_not(
    names: list[str], subject: str, readout: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = models.model("llama")
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).fill_(3e38)
    checkpoint = models.save(model, tmp_path / "model")
    arguments = [*audit(checkpoint, tokens(tmp_path)), "--readout", readout, "-o", str(tmp_path / "report.json")]
    assert subject in refused(arguments, tmp_path, capfd)


def test_row_64_a_checkpoint_that_is_edited_while_it_is_audited(
    llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = llama / "model.safetensors"

    def edited(*arguments: Any, **options: Any) -> Any:
        found = check_weights(*arguments, **options)
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        return found

    monkeypatch.setattr("peelaudit.auditing.prepare.check_weights", edited)
    assert "was changed while it was being read" in refused(audit(llama, tokens(tmp_path)), tmp_path, capfd)


@pytest.mark.parametrize("command", [["run", "{}"], ["batch", "{}", "--out", "{}/../results"]], ids=["run", "batch"])
def test_row_67_nothing_to_audit_has_its_own_code(
    command: list[str], llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if command[0] == "run":
        edit(llama / "config.json", lambda values: values.update(num_hidden_layers=0))
    else:
        shutil.rmtree(llama)
        llama.mkdir()
    assert refused([word.format(llama) for word in command], tmp_path, capfd, code=5)


# --- networks that must not pass --------------------------------------------------------------------------------------


Change = Callable[[dict[str, torch.Tensor]], object]


def flipped(name: str) -> Change:
    """One bit of the exponent of the weight nearest 0.25."""

    def change(state: dict[str, torch.Tensor]) -> None:
        weights = state[name].flatten()
        index = int((weights.abs() - 0.25).abs().argmin())
        weights.view(torch.int32)[index] ^= 1 << 30

    return change


def scaled(part: str, by: float) -> Change:
    def change(state: dict[str, torch.Tensor]) -> None:
        for name in state:
            if part in name:
                state[name] *= by

    return change


def dead(state: dict[str, torch.Tensor]) -> None:
    for part in ("o_proj", "down_proj"):
        scaled(part, 0.0)(state)


LAYER = "model.layers.2"
BROKEN = {
    **{
        f"a bit of {name}": flipped(name)
        for name in (
            *(f"{LAYER}.self_attn.{part}_proj.weight" for part in "qkvo"),
            *(f"{LAYER}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
            f"{LAYER}.input_layernorm.weight",
            "model.norm.weight",
            "model.embed_tokens.weight",
        )
    },
    "down_proj times 1e19": scaled(f"{LAYER}.mlp.down_proj", 1e19),
    "down_proj times 1e30": scaled(f"{LAYER}.mlp.down_proj", 1e30),
    "embeddings times 1e30": scaled("embed_tokens", 1e30),
    "embeddings times 1e-20": scaled("embed_tokens", 1e-20),
    "a final norm of zeros": scaled("model.norm", 0.0),
    "all layers dead": dead,
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in BROKEN.items()])
def test_row_68_a_broken_network_passes_no_gate(
    change: Change, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(FIXTURES / "llama", tmp_path / "llama"))
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    sizes = ["--tokens", "1024", "--seq-len", "32", "--resamples", "100", "--effort", "quick", "-q"]
    code = main(["run", str(folder), *sizes, "--fail-on", "red", "-f", "github"])
    out, error = capfd.readouterr()
    assert code in (1, 3)
    assert code == 1 or (out == "" and error.count("\n") == 1)
    assert "green" not in out


# --- reports that somebody else wrote ---------------------------------------------------------------------------------

ESCAPES = "own\x1b[31m\n::error::x<img src=x onerror=alert(1)>"


FORMATS = ("table", "csv", "markdown", "html", "junit", "github")


def set_readout(report: dict[str, Any]) -> None:
    report["readout"] = ESCAPES


def set_sha256(report: dict[str, Any]) -> None:
    report["checkpoint"]["sha256"] = ESCAPES


def set_path(path: str) -> Callable[[dict[str, Any]], None]:
    return lambda report: report["checkpoint"].update(path=path)


@pytest.mark.parametrize(
    "change",
    [
        set_readout,
        set_sha256,
        *(pytest.param(set_path(path), id=ascii(path)) for path in (ESCAPES, "=cmd|'/c calc'!A1", "+A1", "-A1", "@x")),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_row_84_what_somebody_else_wrote_is_neither_a_command_nor_a_formula(
    form: str, change: Callable[[dict[str, Any]], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (report := tmp_path / "report.json").write_text(export(make_report()))
    edit(report, change)
    assert main(["convert", str(report), "-f", form]) == 0
    out, _ = capfd.readouterr()
    assert "\x1b" not in out
    assert "\n::error::x" not in out
    assert "<img" not in out.replace("\\<img", "") or form in ("table", "csv", "github")  # none of which is HTML
    if form == "csv":
        cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
        assert cells
        assert [cell for cell in cells if re.match(r"[=@]|[+-](?!\d)", cell)] == []


@pytest.mark.parametrize("command", ["compare", "check", "convert"])
def test_row_84_an_interval_the_wrong_way_round(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def turned(report: dict[str, Any]) -> None:
        figure = report["held_out"]["trained_loss"]
        figure["low"], figure["high"] = figure["high"], figure["low"]

    for name in ("base.json", "new.json"):
        (tmp_path / name).write_text(export(make_report()))
    edit(tmp_path / "new.json", turned)
    words = {"compare": ["base.json", "new.json"], "check": ["new.json", "--fail-on", "red"], "convert": ["new.json"]}
    paths = [str(tmp_path / word) if word.endswith(".json") else word for word in words[command]]
    error = refused([command, *paths], tmp_path, capfd)
    assert "new.json: held_out.trained_loss has an interval from" in error
