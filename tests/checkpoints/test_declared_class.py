"""The class that a config.json names is the one that is audited, or the file is refused before anything is hashed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors.torch import save_file

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError, MalformedCheckpoint, UnsupportedCheckpoint
from peelaudit.progress import Progress
from tests.checkpoints.models import config, model, save


class Forbidden(Progress):
    """Nothing is reported on before a file is hashed."""

    def stage(self, name: str, total: int) -> None:
        raise AssertionError(name)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(model("llama", tie_word_embeddings=True), tmp_path_factory.mktemp("llama"))


def edited(directory: Path, to: Path, **changes: Any) -> Path:
    values = json.loads((directory / "config.json").read_text()) | changes
    (to / "model.safetensors").symlink_to(to / "weights")
    (to / "weights").write_bytes((directory / "model.safetensors").read_bytes())
    (to / "config.json").write_text(json.dumps(values))
    return to


def refused(path: Path, message: str, kind: type[CheckpointError] = UnsupportedCheckpoint) -> None:
    with pytest.raises(kind, match=rf"config\.json'.*{message}"):
        open_checkpoint(path, progress=Forbidden())


@pytest.mark.parametrize(
    "name",
    ["LlamaForSequenceClassification", "LlamaForTokenClassification", "LlamaModel", "LlamaForRewardModel", "Bert"],
)
def test_another_class_is_refused(name: str, llama: Path, tmp_path: Path) -> None:
    refused(
        edited(llama, tmp_path, architectures=[name]),
        f"architectures name '{name}'; of the family llama only LlamaForCausalLM can be audited",
    )


@pytest.mark.parametrize("names", [None, [], ["LlamaForCausalLM"], ["LLaMAForCausalLM"]])
def test_its_own_class_or_none_is_audited(names: list[str] | None, llama: Path, tmp_path: Path) -> None:
    with open_checkpoint(edited(llama, tmp_path, architectures=names)) as checkpoint:
        assert checkpoint.info.architecture == "LlamaForCausalLM"
        assert checkpoint.notes == ()


@pytest.mark.parametrize("names", ["LlamaForCausalLM", [3], {"a": 1}])
def test_what_is_no_list_of_names_is_refused(names: object, llama: Path, tmp_path: Path) -> None:
    refused(edited(llama, tmp_path, architectures=names), "no list of names", MalformedCheckpoint)


def test_a_classifier_that_transformers_saved(tmp_path: Path) -> None:
    """Its body is a language model's; with tied embeddings nothing is missing but a head of its own."""
    made = transformers.LlamaForSequenceClassification(config("llama", tie_word_embeddings=True))
    refused(save(made, tmp_path), "LlamaForSequenceClassification")


@pytest.mark.parametrize(
    "changes",
    [
        {"use_bidirectional_attention": True},
        {"use_bidirectional_attention": "all"},
        {"is_causal": False},
        {"bidirectional": True},
    ],
)
def test_attention_that_looks_ahead_is_refused(changes: dict[str, object], llama: Path, tmp_path: Path) -> None:
    refused(edited(llama, tmp_path, **changes), "its attention looks ahead")


@pytest.mark.parametrize(
    "code",
    [
        {"AutoModelForCausalLM": "modeling_other.OtherForCausalLM"},
        {"AutoModelForSequenceClassification": "modeling_other.LlamaForSequenceClassification"},
        {"AutoModel": "somebody/else--modeling_other.LlamaModel"},
        {"AutoModelForCausalLM": ["a", "b"]},
    ],
)
def test_a_network_of_other_code_is_refused(code: dict[str, object], llama: Path, tmp_path: Path) -> None:
    refused(edited(llama, tmp_path, auto_map=code), "code that comes with the checkpoint")


def test_code_under_transformers_own_name_is_told(llama: Path, tmp_path: Path) -> None:
    """As files have it that were published before transformers knew the family."""
    code = {"AutoConfig": "configuration_x.LlamaConfig", "AutoModelForCausalLM": "modeling_x.LlamaForCausalLM"}
    with open_checkpoint(edited(llama, tmp_path, auto_map=code)) as checkpoint:
        assert len(checkpoint.notes) == 1
        assert "'modeling_x.LlamaForCausalLM'), which is never run" in checkpoint.notes[0]


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"final_logit_softcapping": 30.0}, False),
        ({"residual_multiplier": 0.22}, False),
        ({"clip_qkv": 8.0}, False),
        ({"qk_norm": True}, False),
        ({"scale_emb": 12}, False),
        ({"residual_multiplier": 1.0, "qk_norm": False, "clip_qkv": None}, True),
        ({"some_launcher_version": "2025.1"}, True),
    ],
)
def test_what_another_family_computes_with_is_refused(
    changes: dict[str, object], allowed: bool, llama: Path, tmp_path: Path
) -> None:
    path = edited(llama, tmp_path, **changes)
    if allowed:
        open_checkpoint(path).close()
    else:
        refused(path, f"{next(iter(changes))} is .*, which a LlamaForCausalLM doesn't compute with")


def test_a_familys_own_keys_are_used(tmp_path: Path) -> None:
    made = model("gemma3_text", final_logit_softcapping=30.0)
    with open_checkpoint(save(made, tmp_path)) as checkpoint:
        assert checkpoint.config.final_logit_softcapping == 30.0


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        (["Gemma3ForConditionalGeneration"], True),
        (None, True),
        (["Gemma3ForSequenceClassification"], False),
        (["Gemma3Model"], False),
    ],
)
def test_a_multimodal_model_must_generate_text(names: list[str] | None, allowed: bool, tmp_path: Path) -> None:
    made = model("gemma3_text")
    text = {**made.config.to_dict(), "architectures": names}
    tensors = {f"language_model.{key}": tensor for key, tensor in made.state_dict().items() if "lm_head" not in key}
    save_file(tensors, tmp_path / "model.safetensors")
    values = {"model_type": "gemma3", "architectures": names, "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(values))
    if allowed:
        open_checkpoint(tmp_path).close()
    else:
        refused(tmp_path, "isn't a language model")
