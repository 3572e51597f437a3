"""Hugging Face directories: every family, every layout of files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import (
    CheckpointError,
    MalformedCheckpoint,
    MismatchedWeights,
    NothingToAudit,
    UnreadableCheckpoint,
    UnsupportedCheckpoint,
)
from tests.checkpoints.models import CONFIGS, model, save
from tests.places import SHARED

MODELS = SHARED / "models"


def assert_same(path: Path, state: dict[str, torch.Tensor], **options: Path) -> None:
    with open_checkpoint(path, **options) as checkpoint:
        assert set(checkpoint.names()) == set(state)
        skeleton = checkpoint.skeleton().state_dict()
        assert list(skeleton) == list(checkpoint.names()) or set(skeleton) == set(checkpoint.names())
        for name, expected in state.items():
            found = checkpoint.tensor(name)
            assert found.dtype == expected.dtype
            assert found.shape == skeleton[name].shape
            assert torch.equal(found, expected), name
        checkpoint.check_weights()


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save(model("llama"), tmp_path / "llama")


def edit(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_gives_its_own_tensors(family: str, tmp_path: Path) -> None:
    made = model(family)
    assert_same(save(made, tmp_path), made.state_dict())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_shards_and_torch_files_give_the_same_tensors(family: str, tmp_path: Path) -> None:
    made = model(family)
    state = made.state_dict()
    sharded = save(made, tmp_path / "sharded", max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert_same(sharded, state)
    binary = save(made, tmp_path / "binary")
    (binary / "model.safetensors").unlink()
    torch.save(state, binary / "pytorch_model.bin")
    assert_same(binary, state)
    _shard_as_torch(binary, state)
    assert_same(binary, state)


def _shard_as_torch(directory: Path, state: dict[str, torch.Tensor]) -> None:
    (directory / "pytorch_model.bin").unlink()
    names = list(state)
    weight_map = {}
    for shard, part in (("a.bin", names[::2]), ("b.bin", names[1::2])):
        torch.save({name: state[name].clone() for name in part}, directory / shard)
        weight_map |= dict.fromkeys(part, shard)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_half_precision_is_kept(tmp_path: Path) -> None:
    made = model("llama").to(torch.bfloat16)
    assert_same(save(made, tmp_path), made.state_dict())
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.info.dtype == "bfloat16"


def test_info_comes_from_the_headers(llama: Path) -> None:
    made = model("llama")
    (llama / "trainer_state.json").write_text('{"global_step": 77, "log_history": []}')
    (llama / "tokenizer.json").write_text("{}")
    with open_checkpoint(llama) as checkpoint:
        info = checkpoint.info
    assert (info.format, info.family, info.architecture) == ("huggingface/safetensors", "llama", "LlamaForCausalLM")
    assert (info.layers, info.width, info.heads, info.kv_heads, info.mlp_width) == (2, 32, 4, 2, 48)
    assert (info.vocabulary, info.context, info.dtype, info.tied_head) == (64, 32, "float32", False)
    assert info.parameters == sum(parameter.numel() for parameter in made.parameters())
    assert (info.training_step, info.tokenizer, info.files) == (77, "tokenizer.json", ("model.safetensors",))
    assert info.bytes == (llama / "model.safetensors").stat().st_size
    assert {tensor.name for tensor in info.tensors} == set(load_file(llama / "model.safetensors"))


def test_the_fingerprint_follows_the_weights_and_the_configuration(llama: Path) -> None:
    def fingerprint() -> str:
        with open_checkpoint(llama) as checkpoint:
            return checkpoint.info.sha256

    first = fingerprint()
    assert first == fingerprint()
    edit(llama, rope_theta=20_000.0)
    assert first != fingerprint()


def test_tied_weights_count_once_and_give_the_same_values(tmp_path: Path) -> None:
    made = model("qwen2")
    with open_checkpoint(save(made, tmp_path)) as checkpoint:
        assert checkpoint.info.tied_head
        assert checkpoint.info.parameters == sum(parameter.numel() for parameter in made.parameters())
        assert torch.equal(checkpoint.tensor("lm_head.weight"), checkpoint.tensor("model.embed_tokens.weight"))


def test_tied_weights_may_be_stored_under_the_heads_name_alone(tmp_path: Path) -> None:
    made = model("qwen2")
    save(made, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["lm_head.weight"] = state.pop("model.embed_tokens.weight")
    save_file(state, tmp_path / "model.safetensors")
    assert_same(tmp_path, made.state_dict())


def test_tied_weights_that_differ_are_refused(tmp_path: Path) -> None:
    save(model("qwen2"), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"] + 1
    save_file(state, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(MismatchedWeights, match=r"ties 'lm_head\.weight'"):
        checkpoint.check_weights()


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_the_outer_name_may_be_left_out(family: str, tmp_path: Path) -> None:
    made = model(family)
    save(made, tmp_path)
    outer = f"{made.base_model_prefix}."
    state = {name.removeprefix(outer): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors")
    assert_same(tmp_path, made.state_dict())


def test_the_text_part_of_a_multimodal_file(tmp_path: Path) -> None:
    made = model("gemma3_text")
    text = made.config.to_dict()
    tensors = {f"language_model.{name}": tensor for name, tensor in made.state_dict().items() if "lm_head" not in name}
    tensors["vision_tower.layers.7.weight"] = torch.ones(2)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    assert_same(tmp_path, made.state_dict())
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.ignored == ("vision_tower.layers.7.weight",)


def test_masks_and_rotary_tables_are_ignored(llama: Path) -> None:
    state = load_file(llama / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, llama / "model.safetensors")
    with open_checkpoint(llama) as checkpoint:
        assert checkpoint.ignored == ("model.layers.0.self_attn.rotary_emb.inv_freq",)


def test_a_single_file_takes_the_configuration_that_is_given(llama: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((llama / "model.safetensors").read_bytes())
    with pytest.raises(UnreadableCheckpoint, match=r"has no config\.json"):
        open_checkpoint(lone)
    with open_checkpoint(lone, config=llama / "config.json") as checkpoint:
        assert checkpoint.info.files == ("lone.safetensors",)


def test_a_missing_tensor_is_named(llama: Path) -> None:
    state = load_file(llama / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, llama / "model.safetensors")
    with pytest.raises(MismatchedWeights, match=r"1 of 21 tensors is missing: .*layers\.1\.mlp\.up_proj\.weight'"):
        open_checkpoint(llama)


def test_a_wrong_shape_is_named(llama: Path) -> None:
    edit(llama, intermediate_size=40)
    with pytest.raises(MismatchedWeights, match=r"is 48 × 32, but the configuration makes it 40 × 32"):
        open_checkpoint(llama)


@pytest.mark.parametrize(("layers", "message"), [(3, "has 3 layers"), (1, "has 1 layer,"), (10**9, "has 1000000000")])
def test_the_number_of_layers_must_be_the_files(llama: Path, layers: int, message: str) -> None:
    edit(llama, num_hidden_layers=layers)
    with pytest.raises(MismatchedWeights, match=f"{message}.*those of 2"):
        open_checkpoint(llama)


def test_a_parameter_that_the_configuration_switches_off_is_refused(tmp_path: Path) -> None:
    save(model("llama", attention_bias=True), tmp_path)
    edit(tmp_path, attention_bias=False)
    with pytest.raises(MismatchedWeights, match=r"no place for 'model\.layers\.0\.self_attn\.\w_proj\.bias'.*more"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": "two"},
        {"hidden_size": 2**62},
        {"vocab_size": None},
        {"hidden_act": "nope"},
        {"model_type": None},
        {"rope_parameters": 3},
        {"intermediate_size": 1.5},
    ],
)
def test_impossible_numbers_are_refused(llama: Path, changes: dict[str, object]) -> None:
    edit(llama, **changes)
    with pytest.raises(MalformedCheckpoint, match=r"config\.json"):
        open_checkpoint(llama)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "model_type": "gpt_neo",
            "architectures": None,
            "num_layers": 2,
            "attention_types": [[["global"], 300_000_000]],
        },
        {"num_nextn_predict_layers": 100_000_000},
    ],
)
def test_a_configuration_whose_lists_do_not_end_is_refused_before_it_is_built(
    changes: dict[str, object], tmp_path: Path
) -> None:
    save(model("llama"), tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(MalformedCheckpoint, match="asks for more than 65,536 of something"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
@pytest.mark.parametrize("name", ["final_logit_softcapping", "attn_logit_softcapping"])
def test_a_divisor_that_is_zero_is_refused(name: str, zero: float, tmp_path: Path) -> None:
    save(model("gemma3_text"), tmp_path)
    edit(tmp_path, **{name: zero})
    with pytest.raises(MalformedCheckpoint, match=f"'{name}' is 0, and the network divides by it"):
        open_checkpoint(tmp_path)


def test_more_heads_than_channels_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    """ALiBi has a slope for each."""
    save(model("llama"), tmp_path)
    edit(tmp_path, num_attention_heads=10**9)
    with pytest.raises(MalformedCheckpoint, match="more attention heads than channels"):
        open_checkpoint(tmp_path)


def test_two_names_of_one_number_must_agree(tmp_path: Path) -> None:
    save(model("gpt2"), tmp_path)
    edit(tmp_path, num_hidden_layers=10**9)
    with pytest.raises(MalformedCheckpoint, match="n_layer and num_hidden_layers disagree"):
        open_checkpoint(tmp_path)


def test_values_that_name_code_kernels_or_labels_are_not_followed(llama: Path) -> None:
    edit(
        llama,
        num_labels=10**9,
        auto_map={"AutoModelForCausalLM": "evil.LlamaForCausalLM"},
        _attn_implementation="somebody/kernels",
        kernel_config={"RMSNorm": "somebody/kernels:RMSNorm"},
    )
    (llama / "evil.py").write_text("raise SystemExit('ran')")
    assert_same(llama, model("llama").state_dict())


def test_no_layer_is_nothing_to_audit(llama: Path) -> None:
    edit(llama, num_hidden_layers=0)
    with pytest.raises(NothingToAudit):
        open_checkpoint(llama)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "own", "auto_map": {"AutoConfig": "evil.Config"}}, "which is never run"),
        ({"model_type": "own"}, "doesn't know the family 'own'"),
        ({"model_type": "bert"}, "bert is an encoder;"),
        ({"model_type": "t5"}, "t5 is an encoder-decoder"),
        ({"model_type": "vit"}, "isn't a decoder-only language model"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "packed by 'gptq', but no layer has qweight"),
        ({"quantization_config": {"quant_method": "eetq"}}, "packed by 'eetq' can't be audited"),
    ],
)
def test_what_cannot_be_audited_is_said_in_one_sentence(llama: Path, values: dict[str, object], message: str) -> None:
    (llama / "evil.py").write_text("raise SystemExit('ran')")
    edit(llama, architectures=None, **values)
    with pytest.raises(UnsupportedCheckpoint, match=message) as caught:
        open_checkpoint(llama)
    assert "\n" not in str(caught.value)


def test_packed_integers_are_refused(llama: Path) -> None:
    state = load_file(llama / "model.safetensors")
    state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(48, 32, dtype=torch.uint8)
    save_file(state, llama / "model.safetensors")
    with pytest.raises(UnsupportedCheckpoint, match="stored as uint8"):
        open_checkpoint(llama)


def test_directories_that_hold_something_else(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"has none of model\.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedCheckpoint, match="adapter"):
        open_checkpoint(tmp_path)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save(model("llama"), tmp_path / "sharded", max_shard_size="20KB")


def reindex(directory: Path, change: object) -> None:
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = change(index["weight_map"]) if callable(change) else change
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", "a\\b"])
def test_an_index_stays_in_its_directory(sharded: Path, shard: str) -> None:
    (sharded.parent / "outside.safetensors").write_bytes(next(sharded.glob("*-of-*")).read_bytes())
    reindex(sharded, lambda found: {**found, "lm_head.weight": shard})
    with pytest.raises(MalformedCheckpoint, match="outside of the directory"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_rows_41_and_88_a_link_out_of_the_directory_is_refused(name: str, llama: Path, tmp_path: Path) -> None:
    (llama / name).rename(tmp_path / f"elsewhere-{name}")
    (llama / name).symlink_to(tmp_path / f"elsewhere-{name}")
    with pytest.raises(MalformedCheckpoint, match="symbolic link"):
        open_checkpoint(llama)


def test_the_hubs_cache_may_link_to_its_blobs(llama: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name in ("config.json", "model.safetensors"):
        (llama / name).rename(cache / "blobs" / name)
        (snapshot / name).symlink_to(cache / "blobs" / name)
    open_checkpoint(snapshot).close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["a"], "weight_map"),
        ({}, "weight_map"),
        (lambda found: {**found, "ghost.weight": found["lm_head.weight"]}, "'ghost.weight' isn't in"),
        (lambda found: {name: found[name] for name in found if "0.mlp.up" not in name}, "doesn't list the tensor"),
        (lambda found: dict(zip(found, reversed(found.values()), strict=True)), "isn't in"),
        (lambda found: {**found, "lm_head.weight": "gone.safetensors"}, "gone.safetensors.*no such file"),
    ],
)
def test_an_index_that_disagrees_with_its_shards_is_refused(sharded: Path, change: object, message: str) -> None:
    reindex(sharded, change)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"a": 1, "a": 2}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", b"\xff".decode("latin-1")]
)
def test_a_damaged_configuration_is_refused(llama: Path, text: str) -> None:
    (llama / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(MalformedCheckpoint, match=r"config\.json"):
        open_checkpoint(llama)


@pytest.mark.parametrize("name", ["stories260K", "stories260K-broken", "bitllama-3M"])
def test_real_models(name: str) -> None:
    if not (MODELS / name).is_dir():
        pytest.skip(f"the real model {name} isn't at hand")
    with open_checkpoint(MODELS / name) as checkpoint:
        stored = load_file(MODELS / name / "model.safetensors")
        assert all(torch.equal(checkpoint.tensor(key), tensor) for key, tensor in stored.items())
        checkpoint.check_weights()
