"""LoRA adapters written by peft: merged as peft merges them, or refused by what isn't known of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import peelaudit
from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import (
    CheckpointError,
    MalformedCheckpoint,
    MismatchedWeights,
    UnreadableCheckpoint,
    UnsupportedCheckpoint,
)
from tests.checkpoints.models import model, save

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


def adapted(
    folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, **settings: Any
) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """A base model's directory, its adapter's, and the state dict that peft merges of the two."""
    base = save(model(family).to(dtype), folder / "base")
    config = peft.LoraConfig(
        **{"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 6, "target_modules": LINEAR, **settings}
    )
    wrapped = peft.get_peft_model(model(family).to(dtype), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    wrapped.save_pretrained(folder / "adapter")
    return base, folder / "adapter", wrapped.merge_and_unload().state_dict()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True}),
        ("llama", {"use_dora": True}),
        ("llama", {"rank_pattern": {"q_proj": 2, "model.layers.1.mlp.up_proj": 3}, "alpha_pattern": {"v_proj": 9}}),
        ("llama", {"rank_pattern": {"^model.layers.0.self_attn.k_proj": 5}, "layers_to_transform": [0]}),
        ("llama", {"target_modules": "all-linear"}),
        ("llama", {"target_modules": ["q_proj", "lm_head"]}),
        ("llama", {"target_modules": ["embed_tokens", "down_proj"]}),
        ("llama", {"target_modules": ["down_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
        ("qwen2", {"target_modules": ["q_proj", "down_proj"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
        ("gpt2", {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True, "use_dora": True}),
    ],
    ids=str,
)
def test_the_merged_weights_are_pefts(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    base, adapter, expected = adapted(tmp_path, family, **settings)
    with open_checkpoint(base, adapter=adapter) as checkpoint:
        checkpoint.check_weights()
        changed = 0
        with open_checkpoint(base) as plain:
            for name in checkpoint.names():
                torch.testing.assert_close(checkpoint.tensor(name), expected[name], rtol=1e-5, atol=1e-6)
                changed += not torch.equal(checkpoint.tensor(name), plain.tensor(name))
            assert changed > 0
            assert checkpoint.info.sha256 != plain.info.sha256
        assert checkpoint.info.format == "huggingface/safetensors+lora"
        assert any("adapter" in note for note in checkpoint.notes)


def test_half_precision_is_that_of_the_base(tmp_path: Path) -> None:
    base, adapter, expected = adapted(tmp_path, dtype=torch.bfloat16)
    with open_checkpoint(base, adapter=adapter) as checkpoint:
        for name in checkpoint.names():
            assert checkpoint.tensor(name).dtype == torch.bfloat16
            torch.testing.assert_close(checkpoint.tensor(name), expected[name], rtol=2e-2, atol=2e-3)


def test_adapters_in_a_torch_file_and_in_the_models_own_directory(tmp_path: Path) -> None:
    base, adapter, expected = adapted(tmp_path)
    torch.save(load_file(adapter / "adapter_model.safetensors"), base / "adapter_model.bin")
    (base / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    with open_checkpoint(base, adapter=base) as checkpoint:
        torch.testing.assert_close(
            checkpoint.tensor("model.layers.0.mlp.up_proj.weight"), expected["model.layers.0.mlp.up_proj.weight"]
        )


def test_a_report_is_of_the_network_with_the_adapter(tmp_path: Path) -> None:
    base, adapter, expected = adapted(tmp_path)
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 64, 4000).astype(np.uint16))
    settings = {"tokens": 1024, "seq_len": 16, "resamples": 100, "effort": "quick"}
    report = peelaudit.audit(base, tmp_path / "tokens.npy", adapter=adapter, **settings)
    assert any("the LoRA adapter '" in warning and "was merged" in warning for warning in report.warnings)
    merged = model("llama")
    merged.load_state_dict(expected)
    whole = peelaudit.audit(save(merged, tmp_path / "merged"), tmp_path / "tokens.npy", **settings)
    plain = peelaudit.audit(base, tmp_path / "tokens.npy", **settings)
    losses = [found.network.held_out.trained_loss.value for found in (report, whole, plain)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert losses[0] != pytest.approx(losses[2], abs=1e-4)


def test_what_isnt_asked_for_is_refused_with_the_advice(tmp_path: Path) -> None:
    base, adapter, _ = adapted(tmp_path)
    with pytest.raises(UnsupportedCheckpoint, match=r"audit its base model with --adapter '.*/adapter'"):
        open_checkpoint(adapter)
    (base / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    for chosen in (None, adapter):
        with pytest.raises(UnsupportedCheckpoint, match=r"audit the checkpoint with --adapter '.*/base'"):
            open_checkpoint(base, adapter=chosen)


def edit(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "LOHA"},
        {"peft_type": None},
        {"bias": "all"},
        {"task_type": "SEQ_CLS"},
        {"init_lora_weights": "pissa"},
        {"layer_replication": [[0, 2], [1, 2]]},
        {"trainable_token_indices": [1, 2]},
        {"target_parameters": ["mlp.experts.down_proj"]},
        {"lora_bias": True},
        {"use_qalora": True},
        {"something_new": {"a": 1}},
        {"rank_pattern": {"(a+)+$": 4}},
    ],
    ids=str,
)
def test_settings_that_are_not_known_are_refused_by_name(changes: dict[str, object], tmp_path: Path) -> None:
    base, adapter, _ = adapted(tmp_path)
    edit(adapter, **changes)
    words = "pattern" if "rank_pattern" in changes else "only LORA" if "peft_type" in changes else next(iter(changes))
    with pytest.raises(UnsupportedCheckpoint, match=words):
        open_checkpoint(base, adapter=adapter)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"r": 8}, MismatchedWeights, "isn't of the rank 8 that"),
        ({"rank_pattern": {"q_proj": 2}}, MismatchedWeights, "isn't of the rank 2 that"),
        ({"use_dora": True}, MismatchedWeights, "too few tensors"),
        ({"modules_to_save": ["lm_head"]}, MismatchedWeights, "no tensors for 'lm_head'"),
        ({"r": 0}, MalformedCheckpoint, "isn't a number above 0"),
        ({"lora_alpha": "6"}, MalformedCheckpoint, "isn't a number above 0"),
        ({"lora_alpha": float("nan")}, MalformedCheckpoint, "isn't a number above 0"),
        ({"alpha_pattern": [1]}, MalformedCheckpoint, "patterns"),
        (
            {"target_modules": [*LINEAR, "gate_proj"]},
            MismatchedWeights,
            r"no tensors for 'model\.layers\.0\.mlp\.gate_proj'",
        ),
    ],
    ids=str,
)
def test_settings_that_do_not_fit(
    changes: dict[str, object], kind: type[CheckpointError], message: str, tmp_path: Path
) -> None:
    base, adapter, _ = adapted(tmp_path)
    edit(adapter, **changes)
    with pytest.raises(kind, match=message):
        open_checkpoint(base, adapter=adapter)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(FIRST), "too few tensors"),
        (
            lambda state: [state.pop(name) for name in list(state) if "layers.0.self_attn.q_proj" in name],
            "no tensors for",
        ),
        (lambda state: state.update({f"{FIRST[:-13]}lora_magnitude_vector": torch.ones(32)}), "too many tensors"),
        (lambda state: state.update({FIRST: torch.ones(4, 31)}), "isn't of the size"),
        (lambda state: state.update({FIRST: torch.ones(4)}), "isn't of the size"),
        (
            lambda state: state.update({FIRST.replace("q_proj", "x_proj"): torch.ones(4, 32)}),
            "no place for the adapter's",
        ),
        (lambda state: state.update({"base_model.model.lm_head.bias": torch.ones(64)}), "no place for the adapter's"),
        (lambda state: state.update({"base_model.model.lm_head.weight": torch.ones(65, 32)}), "isn't of the size"),
    ],
)
def test_tensors_that_do_not_fit(change: Callable[[Any], object], message: str, tmp_path: Path) -> None:
    base, adapter, _ = adapted(tmp_path)
    state = load_file(adapter / "adapter_model.safetensors")
    change(state)
    save_file(state, adapter / "adapter_model.safetensors")
    with pytest.raises(MismatchedWeights, match=message):
        open_checkpoint(base, adapter=adapter)


def test_a_tied_weight_is_not_merged_into(tmp_path: Path) -> None:
    base, adapter, _ = adapted(tmp_path, "qwen2", target_modules=["lm_head"])
    with pytest.raises(UnsupportedCheckpoint, match="'lm_head' changes a weight that is tied"):
        open_checkpoint(base, adapter=adapter)


def test_what_is_no_adapter(tmp_path: Path) -> None:
    base, adapter, _ = adapted(tmp_path)
    with pytest.raises(UnreadableCheckpoint, match="isn't peft's adapter"):
        open_checkpoint(base, adapter=base)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UnreadableCheckpoint, match=r"has none of adapter_model\.safetensors"):
        open_checkpoint(base, adapter=adapter)
    (adapter / "adapter_config.json").unlink()
    (adapter / "adapter_config.json").symlink_to(base / "config.json")
    with pytest.raises(MalformedCheckpoint, match="leaves the directory"):
        open_checkpoint(base, adapter=adapter)
