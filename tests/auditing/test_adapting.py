"""What refining changes, as an adapter that peft opens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from peelaudit.auditing.fixing import Wish, fix
from peelaudit.errors import ConfigError
from peelaudit.records import FixKind
from tests.auditing.fixed import loss_of, wish_for
from tests.checkpoints import gguf_models, models
from tests.places import FIXTURES

peft = pytest.importorskip("peft")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # peft's
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_peft_finds_the_loss_that_is_told(family: str, tmp_path: Path) -> None:
    base = models.save(models.model(family), tmp_path / "base")
    config = wish_for(base, tmp_path)
    whole = fix(config, Wish(tmp_path / "whole"))
    gains = []
    for rank in (3, 8, 32):
        out = tmp_path / f"rank-{rank}"
        found = fix(config, Wish(out, rank=rank))
        assert (found.kind, found.rank, found.same_files) == (FixKind.ADAPTER, rank, False)
        assert {path.name for path in out.iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
            "peelaudit-fix.json",
        }
        plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = peft.PeftModel.from_pretrained(plain, out).eval()
        assert loss_of(adapted, config) == pytest.approx(found.after.value, abs=1e-5)
        gains.append(found.gain.value)
    assert gains[0] < gains[1] < gains[2] + 1e-3
    if family == "llama":  # which has no biases, that an adapter leaves alone
        assert gains[2] == pytest.approx(whole.gain.value, abs=1e-5)


@pytest.mark.parametrize("kind", ["gguf", "low-bit", "nanogpt", "experts"])
def test_what_no_adapter_is_for_is_refused(kind: str, tmp_path: Path) -> None:
    match kind:
        case "gguf":
            base, why = gguf_models.convert(models.model("llama"), tmp_path / "x.gguf"), "isn't a directory of floats"
        case "low-bit":
            base, why = FIXTURES / "llama-ternary", "are low-bit"
        case "nanogpt":
            torch.save(models.nanogpt(bias=False), tmp_path / "ckpt.pt")
            base, why = tmp_path / "ckpt.pt", "isn't a directory of floats"
        case _:
            base, why = models.save(models.model("mixtral"), tmp_path / "base"), "has experts"
    with pytest.raises(ConfigError, match=f"--lora: .* {why}"):
        fix(wish_for(base, tmp_path), Wish(tmp_path / "out", rank=4))
