"""What the commands say of a path that is no checkpoint they can audit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.test_commands import real
from tests.places import NANOGPT


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
