"""GGUF's architectures, each as llama.cpp's converter writes it: the file's network is transformers' own, and no value
under the architecture's name is without effect.
"""

from __future__ import annotations

import contextlib
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.checkpoints.gguf_architectures import ARCHITECTURES
from peelaudit.checkpoints.gguf_file import GgufFile
from peelaudit.errors import CheckpointError, MalformedCheckpoint, MismatchedWeights, UnsupportedCheckpoint
from peelaudit.network.weights import check_weights
from tests.checkpoints import gguf_models
from tests.checkpoints.gguf_models import Write, convert, listed_of, values_of, write_value
from tests.network.registry import tiny_values

DOCS = Path(__file__).parents[2] / "docs" / "checkpoints.md"
TOKENS = torch.randint(0, 64, (2, 32), generator=torch.Generator().manual_seed(1))
BASE = {"rope_type": "default", "rope_theta": 10_000.0}
HALF = {"rope_parameters": {**BASE, "partial_rotary_factor": 0.5}}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 8}
GROWING = {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5}
LATENT_YARN = {"beta_fast": 16.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
UNGROUPED = {"n_group": None, "topk_group": None}
FULL, SLIDING = "full_attention", "sliding_attention"
QUARTER = {"intermediate_size": 128}
"""What an MLP is in families whose converters write nothing but four times the width."""


def long(original: int) -> dict[str, Any]:
    tables = {"long_factor": [1.0, 1.5, 2.0, 4.0], "short_factor": [1.0, 1.0, 1.2, 1.4]}
    rotary = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": original, **tables}
    return {"rope_parameters": rotary, "original_max_position_embeddings": original, "sliding_window": None}


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("gemma", {}),
    "mistral3": ("mistral", {"head_dim": 16, "sliding_window": None}),
    "mistral3 growing": ("ministral3", {"rope_parameters": YARN | GROWING, "sliding_window": None}),
    "phi3": ("phi3", HALF),
    "phi3 long": ("phi3", long(8)),
    "phi3 short": ("phi3", long(32)),
    "granite": ("granite", {"attention_multiplier": 0.7}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "layer_types": [FULL] * 4, "sliding_window": None}),
    "arcee": ("arcee", {"head_dim": 16}),
    "apertus": ("apertus", {"rope_parameters": BASE}),
    "olmo": ("olmo", {"clip_qkv": 0.5}),
    "olmo2": ("olmo2", {}),
    "olmo2 windowed": (
        "olmo3",
        {"layer_types": [SLIDING, FULL], "rope_parameters": {FULL: YARN, SLIDING: BASE}},
    ),
    "seed_oss": ("seed_oss", {"head_dim": 16}),
    "ernie4_5": ("ernie4_5", {"head_dim": 16}),
    "hunyuan-dense": ("hunyuan_v1_dense", {}),
    "exaone": ("exaone", {}),
    "exaone4": ("exaone4", {"sliding_window": None, "layer_types": [FULL, FULL]}),
    "glm4": ("glm4", HALF),
    "command-r": ("cohere", {"use_qk_norm": True, "logit_scale": 0.25}),
    "cohere2": ("cohere2", {"num_hidden_layers": 4, "layer_types": [SLIDING, SLIDING, SLIDING, FULL]}),
    "nemotron": ("nemotron", HALF),
    "jais2": ("jais2", {}),
    "starcoder2": ("starcoder2", {"sliding_window": None}),
    "stablelm": ("stablelm", HALF),
    "stablelm parallel": ("stablelm", HALF | {"use_parallel_residual": True, "use_qkv_bias": True}),
    "phi2": ("phi", HALF | QUARTER | {"num_key_value_heads": 4}),
    "gptneox": ("gpt_neox", HALF),
    "gptneox in turn": ("gpt_neox", HALF | {"use_parallel_residual": False}),
    "falcon": ("falcon", {"ffn_hidden_size": 128}),
    "falcon grouped": (
        "falcon",
        {"ffn_hidden_size": 128, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    "falcon two norms": ("falcon", {"ffn_hidden_size": 128, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "bloom": ("bloom", {}),
    "mpt": ("mpt", {"attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": 0.5}}),
    "starcoder": ("gpt_bigcode", {"n_inner": 128, "num_key_value_heads": 1}),
    "llama mixture": ("mixtral", {"sliding_window": None}),
    "qwen2moe": ("qwen2_moe", {"shared_expert_intermediate_size": 40}),
    "qwen3moe": ("qwen3_moe", {"norm_topk_prob": True, "head_dim": 16}),
    "olmoe": ("olmoe", {}),
    "granitemoe": ("granitemoe", {"attention_multiplier": 0.7}),
    "granitemoe shared": ("granitemoeshared", {"shared_intermediate_size": 40, "logits_scaling": 4.0}),
    "deepseek2": ("deepseek_v2", UNGROUPED | {"q_lora_rank": None, "routed_scaling_factor": 1.7}),
    "deepseek2 yarn": ("deepseek_v2", UNGROUPED | {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.7}}),
    "deepseek2 sigmoid": ("deepseek_v3", {"num_hidden_layers": 2, "rope_parameters": YARN | LATENT_YARN}),
}
OLDER = {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2"}
"""Those of `test_gguf_config.py`."""

SOME_MIXTURES = ("llama mixture", "qwen2moe", "granitemoe shared", "deepseek2", "deepseek2 sigmoid")

NEEDED = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")
LAYER_NORM = {"command-r", "cohere2", "nemotron", "starcoder2", "stablelm", "phi2", "gptneox", "falcon", "bloom", "mpt"}
LAYER_NORM |= {"olmo", "jais2", "starcoder"}
OWN_NEEDED = {
    "granite": ("logit_scale",),
    "command-r": ("logit_scale",),
    "cohere2": ("logit_scale", "attention.sliding_window"),
    "gptneox": ("use_parallel_residual",),
    "falcon": ("tensor_data_layout",),
    "mpt": ("attention.max_alibi_bias",),
    "phi3 long": ("rope.scaling.original_context_length",),
    **dict.fromkeys(("qwen2moe", "qwen3moe", "olmoe"), ("expert_count", "expert_used_count")),
    "granitemoe": ("expert_count", "expert_used_count", "logit_scale"),
    "deepseek2": (
        *("expert_count", "expert_used_count", "expert_shared_count", "attention.kv_lora_rank", "rope.dimension_count"),
        "attention.value_length_mla",
    ),
}
"""What llama.cpp doesn't open a file without, and what tells how it was converted."""

NO_EFFECT = {"context_length", "rope.scaling.original_context_length", "vocab_size"}
"""Of a longer sequence alone, or with a scaling alone; and the number of words is what the tensors hold."""


def lively(name: str) -> transformers.PreTrainedModel:
    """A tiny model with weights so large that every part of it is seen in the logits."""
    family, changes = MODELS[name]
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(
        transformers.CONFIG_MAPPING[family](**{**tiny_values(family), **changes})
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.2))
    return made.eval()


def logits(made: transformers.PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return made(TOKENS).logits


def logits_of(path: Path) -> Tensor:
    with open_checkpoint(path) as checkpoint:
        made = transformers.AutoModelForCausalLM.from_config(checkpoint.config).eval()
        made.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
    return logits(made)


def same(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_every_architecture_has_a_model_here() -> None:
    assert {name.partition(" ")[0] for name in MODELS} | OLDER == ARCHITECTURES.keys()


def test_the_docs_name_every_architecture() -> None:
    _, _, section = DOCS.read_text(encoding="utf-8").partition("## GGUF's architectures\n")
    assert set(re.findall(r"`([^`]+)`", section.partition(". What")[0])) == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", MODELS)
def test_a_converted_model_has_its_own_logits(name: str, tmp_path: Path) -> None:
    made = lively(name)
    path = convert(made, tmp_path / "a.gguf")
    assert same(logits_of(path), logits(made))
    with closing(GgufFile(path)) as file:
        description = file.describe()
    usual = description.config_class()
    assert [key for key in description.values if not hasattr(usual, key)] in ([], ["head_dim"])


@pytest.mark.parametrize("name", MODELS)
def test_every_value_is_used_or_refused(name: str, tmp_path: Path) -> None:
    """Another value for a key: an error, or another network."""
    made = lively(name)
    expected = logits(made)
    for key, value in values_of(made.config).items():
        if key in {*NEEDED, *NO_EFFECT} or (name.startswith("stablelm") and key == "use_parallel_residual"):
            continue
        other = another(key, value)
        path = convert(made, tmp_path / "a.gguf", changed={key: other})
        with contextlib.suppress(CheckpointError):
            assert not same(logits_of(path), expected), (key, other)


def value(key: str, given: Any) -> Write:
    return lambda writer: write_value(writer, key, given)


def another(key: str, value: Any) -> Any:
    match value:
        case bool():
            return not value
        case str():
            return {"none": "longrope", "yarn": "none"}.get(value, "other")
        case float():
            return 0.5 if key.endswith("epsilon") else value * (1e-4 if "beta" in key else 0.5)
        case int():
            return value // 2 if value else 4
        case _:
            return [not one for one in value]


@pytest.mark.parametrize("name", [name for name in MODELS if " " not in name or name in OWN_NEEDED])
def test_a_needed_key_left_out_is_an_error(name: str, tmp_path: Path) -> None:
    made = lively(name)
    architecture = name.partition(" ")[0]
    norm = "layer_norm" if architecture in LAYER_NORM else "layer_norm_rms"
    for key in (*NEEDED, f"attention.{norm}_epsilon", *OWN_NEEDED.get(name, ())):
        if architecture == "olmo" and "epsilon" in key:
            continue  # the only one that transformers has for it
        path = convert(made, tmp_path / "a.gguf", without=(key,))
        with pytest.raises(MalformedCheckpoint, match=rf"lacks the value '{architecture}\.{key}'"):
            open_checkpoint(path)


@pytest.mark.parametrize(
    "name",
    ["granite", "phi3 long", "olmo2 windowed", "falcon two norms", "bloom", "mpt", "glm4", *SOME_MIXTURES],
)
def test_a_tensor_left_out_or_added_is_an_error(name: str, tmp_path: Path) -> None:
    made = lively(name)
    names = gguf_models.names_of(made)
    for left_out in names:
        if left_out == "output.weight":
            continue  # then the head is tied to the embedding, as in any file without one
        path = convert(made, tmp_path / "a.gguf", without=(left_out,))
        with pytest.raises(CheckpointError, match=r"a\.gguf'"):
            open_checkpoint(path)
    for added in ("blk.0.ffn_sub_norm.weight", "blk.1.attn_sinks.weight", "rope_freqs.weight"):
        path = convert(made, tmp_path / "a.gguf", beside={added: torch.full((32,), 2.0)})
        with pytest.raises(CheckpointError, match=r"a\.gguf'"):
            open_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("granite", {"rope.scaling.finetuned": False}),
        ("granite", {"logit_scale": 0.0}),
        ("granite", {"attention.head_count_kv": [2, 4]}),
        ("olmo", {"attention.layer_norm_epsilon": 1e-6}),
        ("olmo2", {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.yarn_attn_factor": 1.0}),
        ("exaone4", {"attention.sliding_window": 8}),
        ("cohere2", {"rope.freq_base_swa": 5e5}),
        ("cohere2", {"attention.sliding_window_pattern": [True]}),
        ("mistral3", {"attention.temperature_scale": 0.1}),
        ("mistral3", {"rope.scaling.yarn_log_multiplier": 1.0}),
        ("falcon", {"tensor_data_layout": "none"}),
        ("gemma", {"attn_logit_softcapping": 50.0}),
        ("glm4", {"rope.dimension_sections": [1, 1, 2, 0]}),
        ("glm4", {"rope.dimension_count": 3}),
        ("glm4", {"nextn_predict_layers": 1}),
        ("hunyuan-dense", {"rope.scaling.alpha": 1000.0}),
        ("mpt", {"attention.max_alibi_bias": 0.0}),
        ("mpt", {"attention.max_alibi_bias": 4.0}),
        ("starcoder", {"attention.head_count_kv": 4}),
        ("bloom", {"feed_forward_length": 64}),
        ("gptneox", {"attention.head_count_kv": 2}),
        ("llama mixture", {"expert_used_count": 9}),
        ("llama mixture", {"expert_group_count": 2}),
        ("qwen3moe", {"expert_gating_func": 2}),
        ("qwen3moe", {"leading_dense_block_count": 1}),
        ("qwen2moe", {"expert_weights_norm": True}),
        ("olmoe", {"expert_feed_forward_length": 24}),
        ("olmoe", {"expert_weights_scale": 2.5}),
        ("deepseek2", {"expert_group_count": 2}),
        ("deepseek2", {"expert_weights_norm": True}),
        ("deepseek2", {"expert_gating_func": 0}),
        ("deepseek2", {"attention.layer_norm_rms_epsilon": 1e-5}),
        ("deepseek2", {"attention.temperature_scale": 0.1}),
        ("deepseek2", {"attention.key_length": 16}),
        ("deepseek2 sigmoid", {"expert_group_count": 4}),
        ("deepseek2 sigmoid", {"expert_group_used_count": 3}),
    ],
)
def test_what_cannot_be_taken_over_is_refused_by_name(name: str, changed: dict[str, Any], tmp_path: Path) -> None:
    path = convert(lively(name), tmp_path / "a.gguf", changed=changed)
    with pytest.raises(UnsupportedCheckpoint, match=r"a\.gguf'.* is .*changes what the network computes") as caught:
        open_checkpoint(path)
    assert any(f".{key}'" in str(caught.value) for key in changed)


@pytest.mark.parametrize("name", ["smollm3", "cohere2"])
def test_no_list_is_made_for_layers_that_are_not_there(name: str, tmp_path: Path) -> None:
    path = convert(lively(name), tmp_path / "a.gguf", changed={"block_count": 10**9})
    with pytest.raises(MismatchedWeights, match="has 1000000000 layers, but the tensors are those of 4"):
        open_checkpoint(path)


@pytest.mark.parametrize(("name", "changed"), [("gemma", {"rope.freq_base": 0.0}), ("olmo2", {"embedding_length": 0})])
def test_impossible_values_are_refused(name: str, changed: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.gguf'"):
        open_checkpoint(convert(lively(name), tmp_path / "a.gguf", changed=changed))


def test_apertus_has_its_activations(tmp_path: Path) -> None:
    made = lively("apertus")
    kept = listed_of(made)
    assert kept.keys() == {"xielu.alpha_p", "xielu.alpha_n", "xielu.beta", "xielu.eps"}
    for key, listed in kept.items():
        path = convert(made, tmp_path / "a.gguf", without=(key,))
        with pytest.raises(MalformedCheckpoint, match=rf"a\.gguf': '{key}' isn't a number for each layer"):
            open_checkpoint(path)
        path = convert(made, tmp_path / "a.gguf", without=(key,), metadata=value(key, [listed[0] - 0.5, *listed[1:]]))
        assert not same(logits_of(path), logits(made)), key


def test_a_granite_of_the_hybrids_family_without_recurrent_layers(tmp_path: Path) -> None:
    made = lively("granite")
    layers, keys = made.config.num_hidden_layers, made.config.num_key_value_heads
    added = {
        "attention.head_count_kv": [keys] * layers,
        "expert_count": 0,
        "expert_used_count": 0,
        "expert_shared_feed_forward_length": made.config.intermediate_size,
        "rope.scaling.finetuned": True,
        **dict.fromkeys(
            ("ssm.conv_kernel", "ssm.state_size", "ssm.group_count", "ssm.inner_size", "ssm.time_step_rank"), 4
        ),
    }
    assert same(logits_of(convert(made, tmp_path / "a.gguf", changed=added)), logits(made))


def test_exaone_4_has_windows_in_one_size_alone(tmp_path: Path) -> None:
    sizes = {**tiny_values("exaone4"), "num_hidden_layers": 64, "layer_types": None}
    with torch.device("meta"):
        made = transformers.AutoModelForCausalLM.from_config(transformers.Exaone4Config(**sizes))
    path = convert(made.to_empty(device="cpu"), tmp_path / "a.gguf", without=("attention.sliding_window_pattern",))
    with closing(GgufFile(path)) as file:
        values = file.describe().values
    assert values["sliding_window"] == 8
    assert values["layer_types"] == [FULL if layer % 4 == 3 else SLIDING for layer in range(64)]


@pytest.mark.parametrize("name", ["deepseek2", "deepseek2 yarn", "deepseek2 sigmoid"])
def test_an_older_deepseek_has_its_keys_and_values_in_one_matrix(name: str, tmp_path: Path) -> None:
    made = lively(name)
    config = made.config
    wide = {"key_length": config.qk_head_dim, "value_length": config.v_head_dim, "head_count_kv": 4}
    layers = range(config.num_hidden_layers)
    path = convert(
        made,
        tmp_path / "a.gguf",
        without=(
            *("attention.key_length_mla", "attention.value_length_mla"),
            *(f"blk.{layer}.attn_{part}_b.weight" for layer in layers for part in "kv"),
        ),
        beside={
            f"blk.{layer}.attn_kv_b.weight": made.model.layers[layer].self_attn.kv_b_proj.weight.detach()
            for layer in layers
        },
        changed={f"attention.{key}": size for key, size in wide.items()},
    )
    assert same(logits_of(path), logits(made))


def test_a_deepseek_whose_yarn_or_groups_are_not_told_is_refused(tmp_path: Path) -> None:
    path = convert(lively("deepseek2 yarn"), tmp_path / "a.gguf", without=("rope.scaling.yarn_log_multiplier",))
    with pytest.raises(MalformedCheckpoint, match=r"lacks the value 'deepseek2\.rope\.scaling\.yarn_log_multiplier'"):
        open_checkpoint(path)
    told = {"expert_group_count": 1, "expert_group_used_count": 1}
    path = convert(lively("deepseek2"), tmp_path / "b.gguf", changed=told)
    assert same(logits_of(path), logits(lively("deepseek2")))
    path = convert(lively("deepseek2"), tmp_path / "c.gguf", changed={"expert_count": 160})
    with pytest.raises(MalformedCheckpoint, match=r"lacks the value 'deepseek2\.expert_group_count'"):
        open_checkpoint(path)


def test_keys_and_values_that_were_packed_apart_are_on_no_grid(tmp_path: Path) -> None:
    """Keys are packed along their own outputs: their groups aren't of neighbouring inputs any more."""
    names = ("kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "q_lora_rank", "moe_intermediate_size")
    wide = dict.fromkeys(names, 32)
    values = {**tiny_values("deepseek_v2"), **UNGROUPED, **wide, "intermediate_size": 64}
    made = transformers.AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING["deepseek_v2"](**values))
    path = convert(made, tmp_path / "a.gguf", kind=gguf.GGMLQuantizationType.Q4_0)
    with open_checkpoint(path) as checkpoint:
        grids = check_weights(checkpoint)
    found = {tensor.name: tensor for tensor in grids.info().tensors}
    assert found["blk.0.attn_kv_b.weight"].dtype == "Q4_0 and Q4_0"
    assert found["blk.0.attn_kv_b.weight"].grid is None
    assert found["blk.1.ffn_gate_up_exps.weight"].grid is not None
