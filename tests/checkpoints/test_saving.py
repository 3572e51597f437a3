"""Networks written as directories of floats, as transformers has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from peelaudit.checkpoints import open_checkpoint, saving
from tests.checkpoints.models import model, save


@pytest.mark.parametrize("shard", [5 << 30, 20_000])
def test_transformers_loads_what_is_written(shard: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "SHARD", shard)
    made = model("mixtral")
    (tmp_path / "out").mkdir()
    with open_checkpoint(save(made, tmp_path / "base")) as checkpoint:
        parts = ({name: checkpoint.tensor(name)} for name in checkpoint.names())
        saving.save_directory(checkpoint, tmp_path / "out", checkpoint.config, parts)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files == ["model.safetensors"] if shard > 1 << 30 else len(files) > 3
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert isinstance(loaded, transformers.MixtralForCausalLM)
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in made.state_dict().items())
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float32"
