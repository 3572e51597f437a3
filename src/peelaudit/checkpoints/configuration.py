"""From the numbers of a config.json to transformers' configuration and its module on the meta device.

Nothing is believed before the tensors' headers agree: a billion layers are refused before a list of that length is
made. Code that a checkpoint brings along is never run.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch

from peelaudit.checkpoints.declared_class import check_class, check_wrapper
from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.quantized import Method, find_method
from peelaudit.checkpoints.unheard import unheard
from peelaudit.errors import MalformedCheckpoint, MismatchedWeights, NothingToAudit, UnsupportedCheckpoint

__all__ = ["Description", "build_config", "build_skeleton", "check_layer_count", "describe"]

_SIZES = (
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_size",
    "intermediate_size",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
_OPTIONAL = {"num_key_value_heads", "intermediate_size", "head_dim", "max_position_embeddings"}
_LARGEST = 1 << 31
_UNUSED = frozenset(
    {
        "auto_map",
        "quantization_config",
        "compression_config",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_experts_implementation",
        "fusion_config",
        "kernel_config",
        "num_labels",
        "id2label",
        "label2id",
    }
)
"""Values that no decoder's shape depends on: they name code, kernels to fetch, labels in any number, or packings."""
_COUNTED = re.compile(r"(^|_)(layers?|blocks?|stacks?|loops|images?|experts?)(_|$)")
_MOST = 1 << 16
"""Of what a configuration makes lists of: layers and the like, and runs of equal ones."""
_DIVISORS = frozenset({"final_logit_softcapping", "attn_logit_softcapping", "logits_scaling"})
"""What logits are divided by wherever it isn't null; of other caps 0 may say that there is none (Laguna's)."""
_NUMBERED = re.compile(r"(.*?)(?:^|\.)(\d{1,9})\.")


class Description:
    """A text decoder as a config.json describes it: its transformers class, its raw values, which file says so, and
    sentences for the report.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        subject: str,
        *,
        wrapper: tuple[str, ...] | None = None,
        packing: str | None = None,
    ) -> None:
        """`subject` begins the messages; `wrapper` is for the text part of a multimodal configuration, and has the
        classes that it names; `packing` begins the messages about a quantisation that another file describes.

        Raises:
            UnsupportedCheckpoint: custom code, an unknown or a non-causal family, or another class than is audited.
            MalformedCheckpoint: no family is named.
        """
        self.values = dict(values)
        self.subject = subject
        self._packing = packing or subject
        self.within_wrapper = wrapper is not None
        self.config_class = _config_class(self.values, subject)
        self.notes = check_class(self.values, self.config_class, subject, wrapper=wrapper or ())

    @property
    def family(self) -> str:
        """Transformers' `model_type`."""
        family: str = self.config_class.model_type
        return family

    @cached_property
    def method(self) -> Method | None:
        """How the weights are packed, None where they aren't.

        Raises:
            UnsupportedCheckpoint: in a way that can't be read.
        """
        return find_method(self.values, self._packing)

    @cached_property
    def layers(self) -> int:
        """How many there are, once every size is known to be possible.

        Raises:
            MalformedCheckpoint: a number is missing or impossible.
            NothingToAudit: it has no layer.
        """
        layers = self._check_sizes()
        self._check_counts()
        return layers

    def _check_counts(self) -> None:
        """Raise MalformedCheckpoint where transformers would make a list that doesn't end, or divide by zero."""
        compared = {"num_hidden_layers", self.config_class.attribute_map.get("num_hidden_layers")}  # with the tensors
        for name, value in self.values.items():
            if name in compared or "size" in name:
                continue
            numbers = [value] if _COUNTED.search(name) else _runs(value)
            if any(type(number) is int and number > _MOST for number in numbers):
                raise MalformedCheckpoint(f"{self.subject}: {quoted(name)} asks for more than {_MOST:,} of something")
            if name in _DIVISORS and type(value) in (int, float) and value == 0:
                raise MalformedCheckpoint(f"{self.subject}: {quoted(name)} is 0, and the network divides by it")

    def _check_sizes(self) -> int:
        names = {**{name: name for name in _SIZES}, **self.config_class.attribute_map}
        default = self.config_class()
        found: dict[str, int] = {}
        for name in _SIZES:
            given = [self.values[key] for key in (names[name], name) if key in self.values]
            value = given[0] if given else getattr(default, name, None)
            if given[1:] and given[1] != value:
                raise MalformedCheckpoint(f"{self.subject}: {names[name]} and {name} disagree")
            if value is None and name in _OPTIONAL:
                continue
            if name == "num_hidden_layers" and value == 0 and type(value) is int:
                raise NothingToAudit(f"{self.subject}: the model has no layer")
            if type(value) is not int or not 0 < value < _LARGEST:
                raise MalformedCheckpoint(f"{self.subject}: {names[name]} is {quoted(value, 40)}")
            found[name] = value
        if found["num_attention_heads"] > found["hidden_size"]:
            raise MalformedCheckpoint(f"{self.subject}: it has more attention heads than channels")
        return found["num_hidden_layers"]


def _runs(value: object) -> list[object]:
    """The numbers that stand beside a list in a list, as in GPT-Neo's `[[["global", "local"], 12]]`."""
    found: list[object] = []
    pending = [value] if isinstance(value, list) else []
    while pending:
        parts = pending.pop()
        lists = [part for part in parts if isinstance(part, list)]
        found += parts if lists else []
        pending += lists
    return found


def describe(values: Mapping[str, Any], subject: str, *, packing: str | None = None) -> Description:
    """The text decoder that a config.json describes; of a multimodal wrapper, its text part.

    Raises:
        UnsupportedCheckpoint, MalformedCheckpoint: as `Description`.
    """
    text = values.get("text_config")
    if not isinstance(text, dict):
        return Description(values, subject, packing=packing)
    shared = {
        key: values[key]
        for key in ("quantization_config", "compression_config", "tie_word_embeddings", "auto_map")
        if key in values
    }
    wrapper = check_wrapper(values, subject)
    return Description({**shared, **text}, subject, wrapper=wrapper, packing=packing)


def _config_class(values: Mapping[str, Any], subject: str) -> Any:
    """The class that transformers has for the configuration's model_type."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    family = values.get("model_type")
    if not isinstance(family, str):
        raise MalformedCheckpoint(f"{subject}: has no model_type, so the family isn't known")
    if family not in transformers.CONFIG_MAPPING:
        if values.get("auto_map"):
            raise UnsupportedCheckpoint(
                f"{subject}: {quoted(family, 60)} needs code that comes with the checkpoint, which is never run"
            )
        raise UnsupportedCheckpoint(
            f"{subject}: transformers {transformers.__version__} doesn't know the family {quoted(family, 60)}"
        )
    found = transformers.CONFIG_MAPPING[family]
    if values.get("is_encoder_decoder") or getattr(found, "is_encoder_decoder", False) is True:
        raise UnsupportedCheckpoint(f"{subject}: {family} is an encoder-decoder; only decoder-only models are audited")
    if found not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedCheckpoint(f"{subject}: {family} isn't a decoder-only language model")
    if found in MODEL_FOR_MASKED_LM_MAPPING and values.get("is_decoder") is not True:
        raise UnsupportedCheckpoint(f"{subject}: {family} is an encoder; only decoder-only models are audited")
    return found


def check_layer_count(names: Iterable[str], layers: int, subject: str) -> None:
    """Compare the configuration's number of layers with the numbered tensors, before anything of that size is built.

    Raises:
        MismatchedWeights: no group of numbered tensors counts from 0 to `layers - 1`.
    """
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    tensors: defaultdict[str, int] = defaultdict(int)
    for name in names:
        if match := _NUMBERED.match(name):
            numbers[match[1]].add(int(match[2]))
            tensors[match[1]] += 1
    if any(len(found) == layers and max(found) == layers - 1 for found in numbers.values()):
        return
    if not numbers:
        raise MismatchedWeights(f"{subject}: the configuration has {_layers(layers)}, but no tensor belongs to a layer")
    found = numbers[max(tensors, key=tensors.__getitem__)]
    if len(found) == layers:
        raise MismatchedWeights(f"{subject}: the layers aren't numbered from 0 to {layers - 1}")
    raise MismatchedWeights(
        f"{subject}: the configuration has {_layers(layers)}, but the tensors are those of {len(found)}; of a network"
        " whose depth was pruned, the configuration must say so"
    )


def _layers(count: int) -> str:
    return f"{count} layer" if count == 1 else f"{count} layers"


def build_config(description: Description) -> Any:
    """The configuration object of transformers.

    Raises:
        MalformedCheckpoint: transformers can't make sense of the values.
    """
    values = {key: value for key, value in description.values.items() if key not in _UNUSED}
    try:
        with unheard():
            config = description.config_class.from_dict(values)
    except Exception as error:
        raise MalformedCheckpoint(
            f"{description.subject}: the values contradict each other or the family's types ({type(error).__name__})"
        ) from None
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if slides and getattr(config, "sliding_window", 0) is None:
        raise MalformedCheckpoint(f"{description.subject}: layer_types has sliding_attention, but no sliding_window")
    return config


def build_skeleton(config: Any, subject: str) -> torch.nn.Module:
    """The CausalLM module of the configuration on the meta device: shapes without weights, float32, in eval mode.

    Raises:
        MalformedCheckpoint: transformers can't build it.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    attention = "sdpa" if MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._supports_sdpa else "eager"
    try:
        with torch.device("meta"), unheard():
            module = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    except Exception as error:
        raise MalformedCheckpoint(
            f"{subject}: transformers can't build this model ({type(error).__name__}); check the configuration's values"
        ) from None
    if not hasattr(module, module.base_model_prefix):  # Llama 4's is what the multimodal model calls the whole
        embedding = module.get_input_embeddings()
        holds = (name for name, one in module.named_children() if any(part is embedding for part in one.modules()))
        module.base_model_prefix = next(holds, module.base_model_prefix)
    skeleton: torch.nn.Module = module.eval()
    return skeleton
