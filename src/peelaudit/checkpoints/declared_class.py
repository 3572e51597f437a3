"""Which network a config.json says it is, beside its numbers: the class must be the one that is audited.

A classifier, a reward model or an embedding model has a language model's weights where its head is tied, and opens as
one; so does a network of other code under a known family's name. None of them was trained for what would be measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peelaudit.checkpoints.files import quoted
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint

__all__ = ["check_class", "check_wrapper"]

_BIDIRECTIONAL: Mapping[str, tuple[object, ...]] = {
    "use_bidirectional_attention": (True, "all"),
    "bidirectional": (True,),
    "is_causal": (False,),
    "causal": (False,),
}
"""Values by which attention looks ahead."""

_WRAPPERS = ("ForConditionalGeneration", "ForCausalLM", "ForImageTextToText", "LMHeadModel")
"""What the classes of multimodal models that generate text end in."""

_FOREIGN: Mapping[str, tuple[object, ...]] = {
    "alibi": (False,),
    "attention_multiplier": (),
    "attn_logit_softcapping": (0,),
    "clip_qkv": (),
    "embedding_multiplier": (1,),
    "embedding_scale": (1,),
    "final_logit_softcapping": (0,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "qk_layernorm": (False,),
    "qk_norm": (False,),
    "residual_multiplier": (1,),
    "scale_depth": (),
    "scale_emb": (1,),
    "use_qk_norm": (False,),
}
"""What other families compute with, and the values beside null with which that is nothing."""


def check_class(
    values: Mapping[str, Any], config_class: Any, subject: str, *, wrapper: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Compare what is declared with transformers' class for language modelling; sentences for the report.

    Args:
        values: of the config.json, or of its text part.
        config_class: of the family.
        subject: the file, which begins the messages.
        wrapper: the classes that a multimodal model names around the text part.

    Raises:
        UnsupportedCheckpoint: another class is named, attention isn't causal, or a value belongs to another network.
        MalformedCheckpoint: `architectures` is no list of names.
    """
    own = _own_classes(config_class)
    for name in _architectures(values, subject):
        if name.lower() not in {known.lower() for known in own} and name not in wrapper:
            raise UnsupportedCheckpoint(
                f"{subject}: its architectures name {quoted(name, 60)}; of the family {config_class.model_type} only"
                f" {' or '.join(own)} can be audited"
            )
    _check_causal(values, subject)
    foreign = [key for key in _FOREIGN if values.get(key) is not None and not hasattr(config_class(), key)]
    for key in foreign:
        if values[key] not in _FOREIGN[key]:
            raise UnsupportedCheckpoint(
                f"{subject}: {key} is {quoted(values[key], 40)}, which a {own[0]} doesn't compute with: the network is"
                " another one"
            )
    return _own_code(values, own, subject)


def check_wrapper(values: Mapping[str, Any], subject: str) -> tuple[str, ...]:
    """The classes that a multimodal config.json names.

    Raises:
        UnsupportedCheckpoint: one isn't of a model that generates text, or attention isn't causal.
        MalformedCheckpoint: `architectures` is no list of names.
    """
    names = _architectures(values, subject)
    for name in names:
        if not name.endswith(_WRAPPERS):
            raise UnsupportedCheckpoint(
                f"{subject}: its architectures name {quoted(name, 60)}, which isn't a language model"
            )
    _check_causal(values, subject)
    return names


def _architectures(values: Mapping[str, Any], subject: str) -> tuple[str, ...]:
    found = values.get("architectures")
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise MalformedCheckpoint(f"{subject}: its architectures are no list of names")
    return tuple(found)


def _own_classes(config_class: Any) -> tuple[str, ...]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config_class.model_type]
    return (found,) if isinstance(found, str) else tuple(found)


def _check_causal(values: Mapping[str, Any], subject: str) -> None:
    for key, looking_ahead in _BIDIRECTIONAL.items():
        if any(type(values.get(key)) is type(value) and values[key] == value for value in looking_ahead):
            raise UnsupportedCheckpoint(
                f"{subject}: {key} is {quoted(values[key])}, so its attention looks ahead; only causal models are"
                " audited"
            )


def _own_code(values: Mapping[str, Any], own: tuple[str, ...], subject: str) -> tuple[str, ...]:
    """What to say of code that comes with the checkpoint: it is the class that transformers has too, or refused."""
    code = values.get("auto_map")
    models = {key: name for key, name in code.items() if key.startswith("AutoModel")} if isinstance(code, dict) else {}
    if not models:
        return ()
    name = models.get("AutoModelForCausalLM")
    if isinstance(name, str) and name.rpartition(".")[2] in own:
        brought = f"the checkpoint brings code of its own along ({quoted(name, 60)}), which is never run"
        return (f"{brought}: transformers' class of that name was audited",)
    shown = name if name is not None else next(iter(models.values()))
    raise UnsupportedCheckpoint(
        f"{subject}: its network is code that comes with the checkpoint ({quoted(shown, 60)}), which is never run"
    )
