"""Formats with codebooks: named, and refused before anything is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from peelaudit.checkpoints.safetensors_file import SafetensorsFile
from peelaudit.cli import main
from tests.checkpoints import models
from tests.checkpoints.quantized.support import configure

METHODS = {
    "aqlm": "AQLM",
    "vptq": "VPTQ",
    "quip": "QuIP#",
    "exl2": "EXL2",
    "exl3": "EXL3",
    "spqr": "SpQR",
    "higgs": "HIGGS",
}
TENSORS = {
    "codebooks": "AQLM",
    "centroids.weight": "VPTQ",
    "Qidxs": "QuIP#",
    "q_scale_max": "EXL2",
    "trellis": "EXL3",
    "dense_weights": "SpQR",
    "tables2": "HIGGS",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of which no tensor may be read."""
    models.save(models.model("llama"), tmp_path)

    def read(*_: object) -> None:
        pytest.fail("a tensor was read")

    monkeypatch.setattr(SafetensorsFile, "read", read)
    return tmp_path


def refusal(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["inspect", str(folder)]) == 3
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    return shown


@pytest.mark.parametrize(("method", "name"), METHODS.items())
def test_the_configuration_names_it(method: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(folder, quantization_config={"quant_method": method, "bits": 2})
    assert re.search(rf"config\.json'?: weights packed by {name} can't be audited", refusal(folder, capsys))


@pytest.mark.parametrize(("key", "name"), [("quip_params", "QuIP#"), ("aqlm", "AQLM")])
def test_a_key_of_older_files_names_it(key: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {key: {"codebook": "E8P12"}}
    configure(folder, **settings)
    assert f"weights packed by {name} can't" in refusal(folder, capsys)


@pytest.mark.parametrize(("tensor", "name"), TENSORS.items())
def test_a_tensor_names_it(tensor: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = load_file(folder / "model.safetensors")
    state[f"model.layers.0.mlp.up_proj.{tensor}"] = torch.zeros(4, dtype=torch.int16)
    save_file(state, folder / "model.safetensors")
    assert f"weights packed by {name} can't" in refusal(folder, capsys)


@pytest.mark.parametrize("method", ["quark", "sinq", "metal", "gemma", "tomorrows", "gguf"])
def test_a_method_that_is_not_known_is_refused_too(
    method: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(folder, quantization_config={"quant_method": method})
    assert f"weights packed by '{method}' can't be audited" in refusal(folder, capsys)
