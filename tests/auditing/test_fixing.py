"""Mended checkpoints: what is told of them is what transformers finds in them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from peelaudit.auditing.fixing import Wish, fix
from peelaudit.auditing.run import audit_config
from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import ConfigError, NothingToFix, OutputError
from peelaudit.network.weights import check_weights
from peelaudit.records import Fix, FixKind
from peelaudit.records.json import load
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.rules import parse_selector
from tests.auditing.fixed import SMALL, transformers_loss, wish_for
from tests.checkpoints import gguf_models, models
from tests.places import ROOT


def held_to_transformers(found: Fix, config: AuditConfig) -> None:
    out = Path(found.out)
    assert found.gain.low > 0
    assert found.before.value - found.after.value == pytest.approx(found.gain.value, abs=1e-9)
    assert transformers_loss(out, config) == pytest.approx(found.after.value, abs=1e-5)
    assert load((out / "peelaudit-fix.json").read_text(), Fix) == found


@pytest.mark.parametrize(
    "family",
    ["llama", "mixtral", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "gemma3_text", "gpt_oss"))],
)
def test_the_same_files_hold_other_weights(family: str, tmp_path: Path) -> None:
    base = models.save(models.model(family), tmp_path / "base")
    config = wish_for(base, tmp_path)
    found = fix(config, Wish(tmp_path / "out"))
    assert found.same_files
    assert set(found.layers) in ({1}, {2}, {1, 2})
    held_to_transformers(found, config)
    assert (tmp_path / "out/config.json").read_bytes() == (base / "config.json").read_bytes()
    assert not list(tmp_path.glob(".peelaudit-*"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_what_is_told_is_of_the_rounded_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    config = wish_for(models.save(models.model("llama").to(dtype), tmp_path / "base"), tmp_path)
    found = fix(config, Wish(tmp_path / "out"))
    held_to_transformers(found, config)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert {weight.dtype for weight in loaded.parameters()} == {dtype}


def test_shards_stay_shards(tmp_path: Path) -> None:
    base = models.save(models.model("llama"), tmp_path / "base", max_shard_size="40KB")
    config = wish_for(base, tmp_path)
    found = fix(config, Wish(tmp_path / "out"))
    names = {path.name for path in base.iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"peelaudit-fix.json"}
    held_to_transformers(found, config)


def test_a_training_checkpoint_keeps_all_else(tmp_path: Path) -> None:
    torch.save(models.nanogpt(bias=False), tmp_path / "ckpt.pt")
    found = fix(wish_for(tmp_path / "ckpt.pt", tmp_path), Wish(tmp_path / "out"))
    assert found.same_files
    before, after = (torch.load(path, weights_only=True) for path in (tmp_path / "ckpt.pt", tmp_path / "out/ckpt.pt"))
    assert {key: before[key] for key in before if key not in ("model", "best_val_loss")} == {
        key: after[key] for key in after if key not in ("model", "best_val_loss")
    }
    same = {name: torch.equal(tensor, after["model"][name]) for name, tensor in before["model"].items()}
    assert {name for name in same if not same[name]} == {
        f"transformer.h.{layer}.{name}.weight"
        for layer in range(2)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's
@pytest.mark.parametrize("kind", ["gguf", "adapter", "weight norm"])
def test_what_isnt_stored_as_floats_becomes_a_directory_of_them(kind: str, tmp_path: Path) -> None:
    base, settings = tmp_path / "base", {}
    match kind:
        case "gguf":
            base = gguf_models.convert(models.model("llama"), tmp_path / "base.gguf")
        case "adapter":
            models.save(models.model("llama"), base)
            peft = pytest.importorskip("peft")
            wrapped = peft.get_peft_model(models.model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
            wrapped.save_pretrained(tmp_path / "adapter")
            settings["adapter"] = tmp_path / "adapter"
        case _:
            models.save(models.model("llama"), base)
            tensors = {**load_file(base / "model.safetensors")}
            weight = tensors.pop("model.layers.0.mlp.up_proj.weight")
            tensors["model.layers.0.mlp.up_proj.weight_g"] = weight.norm(dim=1, keepdim=True)
            tensors["model.layers.0.mlp.up_proj.weight_v"] = weight
            save_file(tensors, base / "model.safetensors")
    config = wish_for(base, tmp_path, **settings)
    found = fix(config, Wish(tmp_path / "out"))
    assert not found.same_files
    held_to_transformers(found, config)


def test_low_bit_weights_stay_on_their_grids(tmp_path: Path) -> None:
    config = wish_for(ROOT / "fixtures/llama-ternary", tmp_path, tokens=2048)
    found = fix(config, Wish(tmp_path / "out"))
    held_to_transformers(found, config)
    grids = []
    for path in (config.checkpoint, found.out):
        with open_checkpoint(path) as checkpoint:
            tensors = check_weights(checkpoint).info().tensors
        grids.append([(tensor.name, tensor.grid.name) for tensor in tensors if tensor.grid is not None])
    assert len(grids[0]) > 20
    assert grids[0] == grids[1]


@pytest.mark.parametrize("untied", [True, False])
def test_the_head_is_refitted_where_it_is_asked_for(untied: bool, tmp_path: Path) -> None:
    base = models.save(models.model("llama" if untied else "qwen2"), tmp_path / "base")
    config = wish_for(base, tmp_path)
    alone, found = (
        fix(config, Wish(tmp_path / name, head=name == "head", untie=not untied)) for name in ("out", "head")
    )
    assert (alone.head, found.head) == (False, True)
    assert found.same_files == untied
    assert found.after.value < alone.after.value - 0.01
    held_to_transformers(found, config)


def test_a_tied_head_is_left_with_a_word(tmp_path: Path) -> None:
    config = wish_for(models.save(models.model("qwen2"), tmp_path / "base"), tmp_path)
    found = fix(config, Wish(tmp_path / "out", head=True))
    assert not found.head
    assert any("tied to the embedding" in note for note in found.notes)


def test_single_blocks_are_what_the_report_calls_their_gaps(tmp_path: Path) -> None:
    base = models.save(models.model("llama"), tmp_path / "base")
    config = wish_for(base, tmp_path, readout="own", effort="default", tokens=1536)
    report = audit_config(dataclasses.replace(config, schedules=("final",)))
    for layer in (1, 2):
        found = fix(config, Wish(tmp_path / f"out-{layer}", parse_selector(str(layer))))
        assert (found.kind, found.layers) == (FixKind.LAYERS, (layer,))
        gap = report.layers[layer - 1].gap
        assert gap is not None
        assert found.gain.value == pytest.approx(gap.value, abs=1e-6)
    both = fix(config, Wish(tmp_path / "both", parse_selector("1-2")))
    assert both.layers == (1, 2)
    held_to_transformers(both, config)


def test_a_layer_that_isnt_there_is_refused(tmp_path: Path) -> None:
    config = wish_for(models.save(models.model("llama"), tmp_path / "base"), tmp_path, effort="default")
    with pytest.raises(ConfigError, match="--layers has 3: the network has 2 layers"):
        fix(config, Wish(tmp_path / "out", parse_selector("3")))
    with pytest.raises(ConfigError, match="--layers needs --effort"):
        fix(dataclasses.replace(config, effort="quick"), Wish(tmp_path / "out", parse_selector("1")))
    assert not (tmp_path / "out").exists()


def test_where_nothing_gains_nothing_is_written(tmp_path: Path) -> None:
    base = models.save(models.model("llama"), tmp_path / "base")
    np.save(tmp_path / "noise.npy", np.random.default_rng(1).integers(0, 64, 4000).astype(np.uint16))
    config = AuditConfig(checkpoint=base, data=tmp_path / "noise.npy", **{**SMALL, "tokens": 1024, "effort": "default"})
    with pytest.raises(NothingToFix, match="nothing was written"):
        fix(config, Wish(tmp_path / "out", parse_selector("1")))
    assert {path.name for path in tmp_path.iterdir()} == {"base", "noise.npy"}


def test_what_is_there_stays_there(tmp_path: Path) -> None:
    base = models.save(models.model("llama"), tmp_path / "base")
    config, out = wish_for(base, tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").touch()
    for wish, words in (
        (Wish(out), "is there already"),
        (Wish(out, force=True), "no fix wrote it"),
        (Wish(base, force=True), "holds the checkpoint itself"),
        (Wish(tmp_path, force=True), "holds the checkpoint itself"),
        (Wish(tmp_path / "a/b"), "there is no directory"),
    ):
        with pytest.raises(OutputError, match=words):
            fix(config, wish)
    (out / "thesis.tex").unlink()
    first = fix(config, Wish(out))
    with pytest.raises(OutputError, match="is there already"):
        fix(config, Wish(out))
    again = fix(dataclasses.replace(config, effort="default"), Wish(out, force=True))
    assert json.loads((out / "peelaudit-fix.json").read_text())["effort"] == "default"
    assert again.before == first.before
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out", "tokens.npy"}


def test_an_audit_of_what_was_written_finds_less(tmp_path: Path) -> None:
    config = wish_for(models.save(models.model("llama"), tmp_path / "base"), tmp_path, readout="own")
    found = fix(config, Wish(tmp_path / "out"))
    report = audit_config(dataclasses.replace(config, checkpoint=str(tmp_path / "out")))
    assert report.network.held_out.trained_loss.value == pytest.approx(found.after.value, abs=1e-6)


def test_a_network_that_stays_worse_than_guessing_is_not_mended(tmp_path: Path) -> None:
    broken = models.model("llama")
    torch.nn.init.normal_(broken.lm_head.weight, std=30.0, generator=torch.Generator().manual_seed(0))
    config = wish_for(models.save(broken, tmp_path / "base"), tmp_path)
    with pytest.raises(NothingToFix, match=r"worse than guessing all tokens alike \(4\.16\)"):
        fix(config, Wish(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
