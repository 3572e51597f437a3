"""A stored tensor without a place in the network is refused by its name, whatever the file; a short list is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.optim.swa_utils import AveragedModel

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import MismatchedWeights, UnsupportedCheckpoint
from tests.checkpoints.models import model, nanogpt, save

Save = Callable[[Path, dict[str, Tensor]], Path]
"""Writes tiny Llama with tensors beside its own; the file or directory to open."""


def as_safetensors(folder: Path, beside: dict[str, Tensor]) -> Path:
    save(model("llama"), folder)
    save_file({**load_file(folder / "model.safetensors"), **beside}, folder / "model.safetensors")
    return folder


def as_lightning(folder: Path, beside: dict[str, Tensor]) -> Path:
    made = model("llama")
    save(made, folder)
    (folder / "model.safetensors").unlink()
    state = {f"net.{name}": tensor for name, tensor in {**made.state_dict(), **beside}.items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5"}, folder / "last.ckpt")
    return folder / "last.ckpt"


def as_bin(folder: Path, beside: dict[str, Tensor]) -> Path:
    made = model("llama")
    save(made, folder)
    (folder / "model.safetensors").unlink()
    torch.save({**made.state_dict(), **beside}, folder / "pytorch_model.bin")
    return folder


def as_nanogpt(folder: Path, beside: dict[str, Tensor]) -> Path:
    content = nanogpt(bias=True)
    content["model"].update(beside)
    folder.mkdir()
    torch.save(content, folder / "ckpt.pt")
    return folder / "ckpt.pt"


LLAMA_FILES = [as_safetensors, as_lightning, as_bin]


@pytest.mark.parametrize("write", LLAMA_FILES)
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.inner_attn_ln.weight",
        "model.layers.1.mlp.ffn_layernorm.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.bias",
        "model.layers.0.gate",
        "model.layers.0.mlp.up_proj.weight_scale",
        "model.norm.bias",
        "model.embed_positions.weight",
        "model.extra.weight",
        "lm_head.bias",
        "score.weight",
        "v_head.summary.weight",
        "something",
    ],
)
def test_what_has_no_place_is_refused_by_name(write: Save, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a", {name: torch.ones(32)})
    with pytest.raises(MismatchedWeights, match=rf"no place for '(net\.)?{name}': what these tensors do"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "name", ["transformer.h.0.attn.q_norm.weight", "transformer.h.1.gate", "lm_head.bias", "other"]
)
def test_nor_in_nanogpt(name: str, tmp_path: Path) -> None:
    with pytest.raises(MismatchedWeights, match=f"no place for '{name}'"):
        open_checkpoint(as_nanogpt(tmp_path / "a", {name: torch.ones(32)}))


@pytest.mark.parametrize("write", [as_lightning, as_bin, as_nanogpt])
def test_a_tensor_left_out_is_an_error(write: Save, tmp_path: Path) -> None:
    path = write(tmp_path / "a", {})
    file = path / "pytorch_model.bin" if path.is_dir() else path
    content = torch.load(file, weights_only=True)
    state = content.get("state_dict") or content.get("model") or content
    for name in list(state):
        if name.endswith("attn.bias") or (write is as_nanogpt and name in ("lm_head.weight", "transformer.wte.weight")):
            continue  # a mask; two names of one matrix
        tensor = state.pop(name)
        torch.save(content, file)
        with pytest.raises(MismatchedWeights):
            open_checkpoint(path)
        state[name] = tensor


@pytest.mark.parametrize("write", LLAMA_FILES)
def test_what_is_known_to_be_without_effect_is_left_out(write: Save, tmp_path: Path) -> None:
    beside = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.1.self_attn.bias": torch.ones(1, 1, 32, 32).tril(),
        "model.layers.1.self_attn.masked_bias": torch.tensor(-1e4),
        "model.layers.0.self_attn.k_scale": torch.ones(1),
    }
    with open_checkpoint(write(tmp_path / "a", beside)) as checkpoint:
        assert {name.removeprefix("net.") for name in checkpoint.ignored} == beside.keys()


@pytest.mark.parametrize("write", LLAMA_FILES)
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.0.self_attn.q_proj.lora_B.default.weight",
        "model.layers.0.self_attn.q_proj.lora_A",
        "model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight",
        "model.layers.0.self_attn.q_proj.base_layer.weight",
    ],
)
def test_an_adapter_among_the_weights_is_refused_with_advice(write: Save, name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"an adapter that isn't merged \(.*merge_and_unload"):
        open_checkpoint(write(tmp_path / "a", {name: torch.ones(3)}))


def test_what_a_script_writes_beside_tensors_is_no_part_of_the_network(tmp_path: Path) -> None:
    with open_checkpoint(as_bin(tmp_path / "a", {"epoch": 3, "args": {"lr": 0.1}})) as checkpoint:  # type: ignore[dict-item]
        assert checkpoint.ignored == ()


@pytest.mark.parametrize("key", ["lora", "lora_state_dict", "adapter"])
def test_an_adapter_beside_a_state_dict_is_refused_with_advice(key: str, tmp_path: Path) -> None:
    folder = save(model("llama"), tmp_path)
    torch.save({"model": model("llama").state_dict(), key: {"a": torch.ones(2)}}, folder / "a.pt")
    with pytest.raises(UnsupportedCheckpoint, match=f"holds '{key}' beside its model; merge that"):
        open_checkpoint(folder / "a.pt")


def test_an_adapter_beside_the_weights_is_refused_with_advice(tmp_path: Path) -> None:
    path = as_safetensors(tmp_path / "a", {})
    (path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedCheckpoint, match="isn't merged; audit the checkpoint with --adapter"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("vision_tower.layers.0.norm.weight", False),
        ("multi_modal_projector.weight", False),
        ("language_model.model.layers.0.self_attn.gate", True),
        ("language_model.model.extra.weight", True),
        ("language_model.extra", True),
    ],
)
def test_only_the_text_part_of_a_multimodal_file_is_looked_at(name: str, refused: bool, tmp_path: Path) -> None:
    made = model("gemma3_text")
    tensors = {f"language_model.{key}": tensor for key, tensor in made.state_dict().items() if "lm_head" not in key}
    save_file({**tensors, name: torch.ones(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": made.config.to_dict()}))
    if refused:
        with pytest.raises(MismatchedWeights, match="no place for"):
            open_checkpoint(tmp_path)
    else:
        with open_checkpoint(tmp_path) as checkpoint:
            assert checkpoint.ignored == (name,)


@pytest.mark.parametrize("value", [2.0, [1.0], {"a": torch.ones(2)}])
def test_something_else_than_tensors_in_a_state_dict_is_refused(value: object, tmp_path: Path) -> None:
    path = as_bin(tmp_path / "a", {"model.layers.0.scale": value})  # type: ignore[dict-item]
    with pytest.raises(MismatchedWeights, match=r"'model\.layers\.0\.scale' is a '\w+', not a dense tensor"):
        open_checkpoint(path)


def compiled(made: torch.nn.Module) -> dict[str, Tensor]:
    return dict(torch.compile(made).state_dict())


def compiled_by_layers(made: torch.nn.Module) -> dict[str, Tensor]:
    layers = made.model.layers
    for index, layer in enumerate(layers):
        layers[index] = torch.compile(layer)
    return dict(made.state_dict())


def checkpointed(made: torch.nn.Module) -> dict[str, Tensor]:
    """Under the names that the wrapped modules have when they are gone through, as some libraries do."""
    apply_activation_checkpointing(made, check_fn=lambda module: type(module).__name__ == "LlamaDecoderLayer")
    return {name: tensor.detach() for name, tensor in torch.nn.Module.named_parameters(made)}


def averaged(made: torch.nn.Module) -> dict[str, Tensor]:
    return dict(AveragedModel(made).state_dict())


def named(change: Callable[[str], str]) -> Callable[[torch.nn.Module], dict[str, Tensor]]:
    return lambda made: {change(name): tensor for name, tensor in made.state_dict().items()}


@pytest.mark.parametrize(
    "state",
    [
        compiled,
        compiled_by_layers,
        checkpointed,
        averaged,
        named(lambda name: f"module.{name}"),
        named(lambda name: f"model.{name}"),
        named(lambda name: f"base_model.model.{name}"),
        named(lambda name: f"_forward_module.module.llm._orig_mod.{name}"),
        named(lambda name: f"_fsdp_wrapped_module.{name.replace('.self_attn', '._fsdp_wrapped_module.self_attn')}"),
        named(lambda name: name.removeprefix("model.")),
        named(lambda name: f"net.{name.removeprefix('model.')}"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_of_what_a_module_is_wrapped_in(
    state: Callable[[torch.nn.Module], dict[str, Tensor]], tmp_path: Path
) -> None:
    expected = model("llama").state_dict()
    made = model("llama")
    made.config.save_pretrained(tmp_path)
    torch.save(state(made), tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in expected.items())


def test_a_tensor_beside_the_network_is_named_not_the_networks_own(tmp_path: Path) -> None:
    made = model("llama")
    made.config.save_pretrained(tmp_path)
    state = {f"net.{name}": tensor for name, tensor in made.state_dict().items()}
    torch.save({**state, "loss.weight": torch.ones(64)}, tmp_path / "model.pt")
    with pytest.raises(MismatchedWeights, match=r"no place for 'loss\.weight'"):
        open_checkpoint(tmp_path / "model.pt")


def test_weights_and_their_average_in_one_state_dict_are_refused(tmp_path: Path) -> None:
    made = model("llama")
    made.config.save_pretrained(tmp_path)
    state = made.state_dict()
    both = {f"{part}.{name}": tensor for part in ("model", "ema_model") for name, tensor in state.items()}
    torch.save(both, tmp_path / "model.pt")
    with pytest.raises(MismatchedWeights, match=r"no place for '(ema_model\.)?model\."):
        open_checkpoint(tmp_path / "model.pt")


def test_a_weight_with_and_without_a_wrappers_name_is_stored_twice(tmp_path: Path) -> None:
    path = as_bin(tmp_path / "a", {"model._orig_mod.norm.weight": torch.ones(32)})
    with pytest.raises(MismatchedWeights, match=r"'model\.norm\.weight' is stored twice"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"app": {"model": state, "optim": {"state": {}}}},
        lambda state: {"state": {"model": state, "step": 3}},
        lambda state: {"module": {f"module.{name}": tensor for name, tensor in state.items()}},
    ],
)
def test_state_dicts_within_others(nest: Callable[[dict[str, Tensor]], object], tmp_path: Path) -> None:
    made = model("llama")
    made.config.save_pretrained(tmp_path)
    torch.save(nest(dict(made.state_dict())), tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in made.state_dict().items())


def described(folder: Path, made: torch.nn.Module, state: dict[str, Tensor], **changes: object) -> Path:
    """A directory of the state dict, with the model's config.json changed."""
    folder.mkdir()
    values = {**made.config.to_dict(), "architectures": None, **changes}
    (folder / "config.json").write_text(json.dumps(values))
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("qwen2", True), ("gpt2", True)])
@pytest.mark.parametrize("said", [60, 72])
def test_a_resized_vocabulary_is_what_both_ends_hold(family: str, tied: bool, said: int, tmp_path: Path) -> None:
    made = model(family)
    state = {name: tensor for name, tensor in made.state_dict().items() if not tied or name != "lm_head.weight"}
    tokens = torch.arange(24).reshape(2, 12)
    with open_checkpoint(described(tmp_path / "a", made, state, vocab_size=said)) as checkpoint:
        assert (checkpoint.info.vocabulary, checkpoint.config.vocab_size) == (64, 64)
        assert checkpoint.notes == (
            f"the configuration says {said} words, the embedding and the head hold 64: the network with 64 was audited",
        )
        module = checkpoint.skeleton()
        module.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()}, assign=True)
        for ours, theirs in zip(module.named_buffers(), made.named_buffers(), strict=True):
            module.get_submodule(ours[0].rpartition(".")[0]).register_buffer(ours[0].rpartition(".")[2], theirs[1])
        torch.testing.assert_close(module(tokens).logits, made(tokens).logits)


@pytest.mark.parametrize("which", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_vocabulary_that_one_end_alone_holds_is_refused(which: str, tmp_path: Path) -> None:
    made = model("llama")
    state = {**made.state_dict(), which: torch.ones(72, 32)}
    with pytest.raises(MismatchedWeights, match=rf"'{which}' is 72 × 32, but the configuration makes it 64 × 32"):
        open_checkpoint(described(tmp_path / "a", made, state))


def test_a_base_model_without_a_head_is_told(tmp_path: Path) -> None:
    made = model("llama")
    state = made.model.state_dict()
    with pytest.raises(MismatchedWeights, match=r"missing: 'lm_head\.weight', the head: a base model"):
        open_checkpoint(described(tmp_path / "a", made, state))
    with pytest.raises(UnsupportedCheckpoint, match="LlamaModel"):
        open_checkpoint(described(tmp_path / "b", made, state, architectures=["LlamaModel"]))


def test_a_pruned_depth_must_be_said(tmp_path: Path) -> None:
    made = model("llama")
    state = {name: tensor for name, tensor in made.state_dict().items() if ".layers.1." not in name}
    with pytest.raises(MismatchedWeights, match="those of 1; of a network whose depth was pruned"):
        open_checkpoint(described(tmp_path / "a", made, state))
    with open_checkpoint(described(tmp_path / "b", made, state, num_hidden_layers=1)) as checkpoint:
        assert checkpoint.info.layers == 1
