"""GGUF's metadata: each value that changes what the network computes is taken over, or the file is refused by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError, MalformedCheckpoint, MismatchedWeights, UnsupportedCheckpoint
from tests.checkpoints.gguf_models import Write, convert, write_value
from tests.checkpoints.models import CONFIGS, model

TOKENS = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(1))
ROPE = {"rope_theta": 10_000.0}
OWN = {"gemma3_text": {**ROPE, "query_pre_attn_scalar": 16}, "gpt2": {}}
"""What the file doesn't say: of Gemma, that scores are scaled by a head's size."""


def logits_of(path: Path) -> Tensor:
    """Of transformers' module, with the configuration and the tensors that the checkpoint has."""
    with open_checkpoint(path) as checkpoint:
        made = transformers.AutoModelForCausalLM.from_config(checkpoint.config).eval()
        made.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()})
    return logits(made)


def logits(made: transformers.PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return made(TOKENS).logits


def value(key: str, given: Any) -> Write:
    return lambda writer: write_value(writer, key, given)


def values(**given: Any) -> Write:
    def write(writer: gguf.GGUFWriter) -> None:
        for key, one in given.items():
            value(key.replace("__", "."), one)(writer)

    return write


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "gpt2"])
def test_a_converted_model_has_its_own_logits(family: str, tmp_path: Path) -> None:
    made = model(family, **OWN.get(family, ROPE))
    assert torch.allclose(logits_of(convert(made, tmp_path / "a.gguf")), logits(made), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes", "metadata"),
    [
        ("llama", {"attention_bias": True}, values()),
        ("llama", {"mlp_bias": True}, values()),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, values(llama__rope__scale_linear=4.0)),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, values(llama__rope__scaling__factor=4.0)),
        (
            "qwen2",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}},
            values(
                qwen2__rope__scaling__type="yarn",
                qwen2__rope__scaling__factor=4.0,
                qwen2__rope__scaling__original_context_length=8,
            ),
        ),
        ("gemma3_text", {"final_logit_softcapping": 0.2}, values(gemma3__final_logit_softcapping=0.2)),
        ("gemma3_text", {"rope_local_base_freq": 50.0}, values(gemma3__rope__freq_base_swa=50.0)),
        (
            "gemma3_text",
            {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window_pattern": 2},
            values(
                gemma3__rope__scaling__type="linear",
                gemma3__rope__scaling__factor=8.0,
                gemma3__attention__sliding_window_pattern=[True, False],
            ),
        ),
    ],
)
def test_what_changes_the_computation_is_taken_over(
    family: str, changes: dict[str, Any], metadata: Write, tmp_path: Path
) -> None:
    """Held to transformers' model; and the change is one that is seen."""
    made = model(family, **{**OWN.get(family, ROPE), **changes})
    found = logits_of(convert(made, tmp_path / "a.gguf", metadata=metadata))
    assert torch.allclose(found, logits(made), atol=1e-5)
    if not {"attention_bias", "mlp_bias"} & changes.keys():
        assert not torch.allclose(found, logits(model(family, **OWN.get(family, ROPE))), atol=1e-3)


@pytest.mark.parametrize(("scores", "final"), [(50.0, 30.0), (0.5, 0.2)])
def test_gemma_2_has_its_caps(scores: float, final: float, tmp_path: Path) -> None:
    """50 and 30 stand for a file that doesn't say."""
    torch.manual_seed(0)
    caps = {"attn_logit_softcapping": scores, "final_logit_softcapping": final, "query_pre_attn_scalar": 16}
    sizes = {**CONFIGS["gemma3_text"], "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.Gemma2Config(**sizes, **ROPE, **caps)
    made = transformers.Gemma2ForCausalLM(config).eval()
    written = values(gemma2__attn_logit_softcapping=scores, gemma2__final_logit_softcapping=final)
    path = convert(made, tmp_path / "a.gguf", metadata=values() if scores == 50 else written)
    assert torch.allclose(logits_of(path), logits(made), atol=1e-5)


def test_the_factors_of_llama_3_are_its_scaling(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    made = model(
        "llama", head_dim=64, num_attention_heads=2, num_key_value_heads=1, rope_theta=5e5, rope_scaling=scaling
    )
    frequencies, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](made.config, "cpu")
    factors = 5e5 ** -(torch.arange(0, 64, 2) / 64) / frequencies
    beside = {"rope_freqs.weight": factors}
    base = {"without": ("rope.freq_base",), "metadata": values(llama__rope__freq_base=5e5)}
    with open_checkpoint(convert(made, tmp_path / "a.gguf", beside=beside, **base)) as checkpoint:
        assert {**checkpoint.config.rope_parameters} == {**scaling, "rope_theta": 5e5}
        assert checkpoint.ignored == ()
    beside["rope_freqs.weight"] = factors * 1.1
    with pytest.raises(UnsupportedCheckpoint, match=r"'rope_freqs\.weight' scales its rotary embedding"):
        open_checkpoint(convert(made, tmp_path / "b.gguf", beside=beside, **base))
    ones = {"rope_freqs.weight": torch.ones(4)}
    plain = model("llama", **ROPE)
    assert torch.allclose(logits_of(convert(plain, tmp_path / "c.gguf", beside=ones)), logits(plain), atol=1e-5)


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("attention.sliding_window", 8),
        ("attention.scale", 0.5),
        ("attention.causal", False),
        ("attention.clamp_kqv", 8.0),
        ("attention.max_alibi_bias", 8.0),
        ("attention.value_length", 16),
        ("attention.layer_norm_epsilon", 1e-5),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("logit_scale", 0.25),
        ("embedding_scale", 12.0),
        ("residual_scale", 0.25),
        ("rope.dimension_count", 4),
        ("rope.dimension_sections", [1, 1, 2, 0]),
        ("rope.scaling.type", "longrope"),
        ("rope.scaling.attn_factor", 2.0),
        ("rope.scaling.yarn_beta_fast", 16.0),
        ("pooling_type", 3),
        ("nextn_predict_layers", 1),
        ("a_key_of_next_year", 1.0),
        ("an_array_of_next_year", ["a", "b"]),
    ],
)
def test_a_value_that_cannot_be_taken_over_is_refused_by_name(key: str, given: Any, tmp_path: Path) -> None:
    path = convert(model("llama", **ROPE), tmp_path / "a.gguf", metadata=value(f"llama.{key}", given))
    with pytest.raises(
        UnsupportedCheckpoint, match=rf"a\.gguf'.*'llama\.{key}' is .*changes what the network computes"
    ):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("llama.attention.sliding_window", 4096),
        ("llama.attention.scale", 8**-0.5),
        ("llama.logit_scale", 1.0),
        ("llama.rope.scaling.type", "none"),
        ("llama.rope.scaling.factor", 1.0),
        ("llama.rope.scaling.original_context_length", 8),
        ("llama.rope.dimension_count", 8),
        ("llama.expert_count", 0),
        ("llama.vocab_size", 64),
        ("general.sampling.temp", 0.7),
        ("tokenizer.chat_template", "{{ messages }}"),
        ("quantize.imatrix.file", "imatrix.dat"),
        ("somebody.quantized_by", "somebody"),
    ],
)
def test_a_value_without_effect_is_none(key: str, given: Any, tmp_path: Path) -> None:
    made = model("llama", **ROPE)
    path = convert(made, tmp_path / "a.gguf", metadata=value(key, given))
    assert torch.allclose(logits_of(path), logits(made), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_a_key_left_out_is_an_error_or_changes_nothing(family: str, tmp_path: Path) -> None:
    """The models have what llama.cpp takes a missing value for, where it does so."""
    same = {} if family == "gpt2" else {**ROPE, "head_dim": 8, "num_key_value_heads": 4, "query_pre_attn_scalar": 8}
    made = model(family, **same)
    keys = [key for key in keys_of(convert(made, tmp_path / "whole.gguf")) if not key.startswith("general")]
    refused = []
    for key in keys:
        path = convert(made, tmp_path / "a.gguf", without=(key.partition(".")[2],))
        try:
            found = logits_of(path)
        except MalformedCheckpoint as error:
            refused.append(key in str(error))
        else:
            assert torch.allclose(found, logits(made), atol=1e-5), key
    assert all(refused)
    assert len(refused) == {"gpt2": len(keys), "gemma3_text": 7}.get(family, 6)


def keys_of(path: Path) -> list[str]:
    return [key for key in gguf.GGUFReader(path).fields if "." in key and not key.startswith("GGUF")]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("blk.0.attn_q_norm.weight", 8),
        ("blk.1.attn_sub_norm.weight", 32),
        ("blk.0.ffn_sub_norm.weight", 48),
        ("blk.0.post_attention_norm.weight", 32),
        ("blk.0.attn_q.bias", 32),
        ("blk.1.attn_sinks.weight", 4),
        ("blk.2.attn_norm.weight", 32),
        ("output.bias", 64),
        ("token_embd_norm.weight", 32),
        ("rope_factors_long.weight", 4),
        ("anything", 3),
    ],
)
def test_a_tensor_without_a_place_is_refused_by_name(name: str, size: int, tmp_path: Path) -> None:
    path = convert(model("llama", **ROPE), tmp_path / "a.gguf", beside={name: torch.ones(size)})
    with pytest.raises(MismatchedWeights, match=r"a\.gguf'"):
        open_checkpoint(path)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_tensor_left_out_is_an_error(family: str, tmp_path: Path) -> None:
    made = model(family, **ROPE)
    names = [tensor.name for tensor in gguf.GGUFReader(convert(made, tmp_path / "whole.gguf")).tensors]
    for name in names:
        if name == "output.weight":
            continue  # then the head is tied to the embedding, as in any file without one
        with pytest.raises(CheckpointError, match=r"a\.gguf'"):
            open_checkpoint(convert(made, tmp_path / "a.gguf", without=(name,)))
