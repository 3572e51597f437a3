"""What the commands say of a path that is no checkpoint they can audit."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import transformers

from peelaudit.calibration import load_calibration
from peelaudit.checkpoints import open_checkpoint
from peelaudit.config import AuditConfig
from tests.checkpoints import models
from tests.cli.support import real
from tests.places import FIXTURES, NANOGPT


@pytest.mark.parametrize("command", ["run", "inspect", "selftest"])
def test_a_directory_of_checkpoints_is_for_batch(command: str) -> None:
    done = real(command, str(NANOGPT))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].endswith(f"{NANOGPT}: holds 6 checkpoints: use batch, or name one of them")


def test_a_directory_of_one_checkpoint_names_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copy(NANOGPT / "ckpt.pt", tmp_path / "deep/ckpt.pt")
    done = real("inspect", str(tmp_path))
    assert done.returncode == 3
    assert f"{tmp_path}: holds one checkpoint, {tmp_path / 'deep/ckpt.pt'}: name that" in done.stderr


def test_other_directories_are_what_they_were_called(tmp_path: Path) -> None:
    assert "has none of model.safetensors" in real("inspect", str(tmp_path)).stderr
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").touch()
    assert "holds an adapter" in real("inspect", str(tmp_path)).stderr


def foreign(family: str, folder: Path) -> Path:
    """A tiny random model of a family that transformers knows and peelaudit has no table entry for."""
    sizes = {
        "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
        "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 32},
        "mixtral": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    }
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 64}
    config = transformers.CONFIG_MAPPING[family](**sizes[family], **special)
    return models.save(transformers.AutoModelForCausalLM.from_config(config), folder)


@pytest.mark.parametrize("family", ["mamba", "bloom", "mpt", "mixtral"])
def test_a_family_that_cannot_be_audited_is_said_first(family: str, tmp_path: Path) -> None:
    folder = foreign(family, tmp_path / family)
    refusal = f"peelaudit: error: {folder}: family '{family}' is not one that can be audited (bitnet, gemma, "
    done = real("run", str(folder))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].startswith(refusal)
    looked = real("inspect", str(folder))
    assert looked.returncode == 3
    assert looked.stderr.startswith(refusal)
    assert looked.stderr.count("error") == 1
    known = family in ("bloom", "mpt")  # of the others transformers' configuration lacks what is told of a decoder
    assert (f"{family} (" in looked.stdout) == known
    assert "0 tokens" not in looked.stdout


def test_a_variant_that_cannot_be_audited_is_said_first(tmp_path: Path) -> None:
    folder = models.save(models.model("opt", do_layer_norm_before=False), tmp_path / "opt")
    for command in ("run", "inspect"):
        done = real(command, str(folder))
        assert done.returncode == 3
        assert "blocks that end in a norm (do_layer_norm_before false) can't be peeled\n" in done.stderr
    assert json.loads(real("inspect", str(folder), "-f", "json").stdout)["family"] == "opt"


@pytest.fixture
def apart(tmp_path: Path) -> tuple[Path, Path]:
    """Weights alone, and a directory with their config.json and tokenizer."""
    (weights := tmp_path / "weights").mkdir()
    (described := tmp_path / "described").mkdir()
    shutil.copy(FIXTURES / "llama/model.safetensors", weights / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FIXTURES / "llama" / name, described)
    return weights, described


@pytest.mark.parametrize("name", ["", "config.json"])
@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_a_config_may_be_a_directory_and_its_tokenizer_serves(file: str, name: str, apart: tuple[Path, Path]) -> None:
    weights, described = apart
    with open_checkpoint(weights / file, config=described / name) as opened:
        assert opened.info.tokenizer == str(described / "tokenizer.json")
        config = AuditConfig(checkpoint=opened.info.path, config=str(described / name), tokens=2048)
        assert load_calibration(config, opened.info).info.tokenizer == str(described)
        shutil.copy(FIXTURES / "llama/tokenizer.json", weights)  # its own goes first
        assert load_calibration(config, opened.info).info.tokenizer == str(weights / "tokenizer.json")
        given = dataclasses.replace(config, tokenizer=str(FIXTURES / "llama"))
        assert load_calibration(given, opened.info).info.tokenizer == str(FIXTURES / "llama")


def test_a_config_directory_without_one_is_told(apart: tuple[Path, Path], tmp_path: Path) -> None:
    weights, _ = apart
    done = real("inspect", str(weights), "--config", str(tmp_path))
    assert done.returncode == 3
    assert f"'{tmp_path / 'config.json'}': no such file" in done.stderr
