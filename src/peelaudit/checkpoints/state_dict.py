"""What a torch file's objects are: a nanoGPT or Lightning training checkpoint, or a plain state dict."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeGuard, TypeVar

import torch

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.inert import Dense, Inert, kind_of
from peelaudit.checkpoints.matching import Origin, unwrapped
from peelaudit.checkpoints.store import Store
from peelaudit.errors import MalformedCheckpoint, MismatchedWeights, UnsupportedCheckpoint

__all__ = ["StateDict", "as_step", "is_nanogpt", "nanogpt_config", "nanogpt_origins", "recognise"]

_HOLDERS = ("state_dict", "model_state_dict", "model", "module", "model_state", "state", "app")
_DEEPEST = 3
"""So many of the holders may lie in each other."""
_ADAPTER = re.compile(r"lora|adapter", re.IGNORECASE)
_NANOGPT = {"n_layer", "n_head", "n_embd", "block_size", "vocab_size"}
_NANOGPT_OPTIONAL = {"bias", "dropout"}
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_BIASES = ("ln_1.bias", "ln_2.bias", "attn.c_attn.bias", "attn.c_proj.bias", "mlp.c_fc.bias", "mlp.c_proj.bias")


T = TypeVar("T", bound=Dense)


@dataclass(frozen=True, slots=True)
class StateDict(Generic[T]):
    """A state dict and what stood around it. `model_args` is nanoGPT's; None in other files."""

    format: str
    tensors: Mapping[str, T]
    model_args: Mapping[str, Any] | None
    training_step: int | None


def recognise(content: object, path: Path, kind: type[T]) -> StateDict[T]:
    """Find the state dict among a file's objects, with tensors of that kind. Only the places where one belongs are
    looked at, so nothing nested or self-referencing is ever walked.

    Raises:
        MalformedCheckpoint: names aren't text.
        MismatchedWeights: something else than tensors is among them.
        UnsupportedCheckpoint: there is no state dict, or one process's part of it, or an adapter's weights beside it.
    """
    subject = quoted(path)
    if not isinstance(content, dict):
        raise UnsupportedCheckpoint(
            f"{subject}: holds a {quoted(kind_of(content), 80)}; expected a state dict, as of model.state_dict()"
        )
    adapters = [key for key in content if isinstance(key, str) and _ADAPTER.search(key) and _has_tensors(content[key])]
    if adapters:
        raise UnsupportedCheckpoint(
            f"{subject}: holds {quoted(adapters[0], 40)} beside its model; merge that into the model and save the whole"
        )
    if isinstance(content.get("model_args"), dict) and isinstance(content.get("model"), dict):
        arguments = _plain(content["model_args"], subject)
        return StateDict("nanogpt", _tensors(content["model"], path, kind), arguments, as_step(content.get("iter_num")))
    if (inner := _within_holders(content)) is not None:
        trainer = "lightning" if "pytorch-lightning_version" in content else "torch"
        return StateDict(trainer, _tensors(inner, path, kind), None, as_step(content.get("global_step")))
    if _has_tensors(content):
        state = {key: value for key, value in content.items() if not _is_setting(key, value)}
        return StateDict("torch", _tensors(state, path, kind), None, None)
    for one in (content, *map(content.get, _HOLDERS)):
        _check_whole(one, subject)
    raise UnsupportedCheckpoint(f"{subject}: no state dict found, neither at its top nor under {', '.join(_HOLDERS)}")


def _check_whole(state: object, subject: str) -> None:
    """Raise UnsupportedCheckpoint where tensors are among it that torch has split over processes."""
    for value in state.values() if isinstance(state, dict) else ():
        if isinstance(value, Inert) and value.path.startswith("torch.distributed.") and value.path.endswith("Tensor"):
            raise UnsupportedCheckpoint(
                f"{subject}: holds what one process had of a split network ({quoted(value.path, 80)}); save the whole"
                " of it (full_state_dict=True), or by torch.distributed.checkpoint"
            )


def _within_holders(content: Mapping[object, object]) -> Mapping[object, object] | None:
    """The state dict under one of the usual names, or within what stands there; None where there is none."""
    for _ in range(_DEEPEST):
        held = [content.get(holder) for holder in _HOLDERS]
        if (found := next(filter(_has_tensors, held), None)) is not None:
            return found
        content = next((inner for inner in held if isinstance(inner, dict)), {})
    return None


def _has_tensors(value: object) -> TypeGuard[dict[object, object]]:
    return isinstance(value, dict) and any(isinstance(one, Dense) for one in value.values())


def _plain(arguments: Mapping[object, object], subject: str) -> Mapping[str, Any]:
    """Arguments that are text, numbers, truth values or nothing."""
    for name, value in arguments.items():
        if not isinstance(name, str) or not (value is None or isinstance(value, str | int | float)):
            raise UnsupportedCheckpoint(
                f"{subject}: among its model_args is a {quoted(kind_of(value), 80)}; only numbers and text are read"
            )
    return {str(name): value for name, value in arguments.items()}


def _is_setting(key: object, value: object) -> bool:
    """Whether it is what training scripts write beside tensors, such as a step: no tensor, and no name within one."""
    sparse = isinstance(value, Inert) and value.path.startswith(("torch._utils._rebuild", "torch._tensor."))
    return isinstance(key, str) and "." not in key and not sparse and not isinstance(value, Dense)


def _tensors(state: Mapping[object, object], path: Path, kind: type[T]) -> Mapping[str, T]:
    _check_whole(state, quoted(path))
    found: dict[str, T] = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise MalformedCheckpoint(
                f"{quoted(path)}: a tensor's name is of type {quoted(kind_of(name), 80)}, not text"
            )
        if isinstance(value, kind):
            found[name] = value
        elif value is not None and not name.endswith("_extra_state"):
            raise MismatchedWeights(
                f"{quoted(path)}: in the state dict, {quoted(name)} is a {quoted(kind_of(value), 80)}, not a dense"
                " tensor: what it does to the network isn't known"
            )
    return found


def as_step(value: object) -> int | None:
    """The value where it can be a training step."""
    return value if type(value) is int and value >= 0 else None


def is_nanogpt(arguments: Collection[str]) -> bool:
    """Whether these are the names of nanoGPT's arguments."""
    return set(arguments) >= _NANOGPT


def nanogpt_config(model_args: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """The arguments of nanoGPT as the values of a GPT-2 configuration.

    It computes the exact GELU (`nn.GELU()`). Its first versions, which had the tanh approximation, knew no `bias`
    argument, so its absence tells them.

    Raises:
        UnsupportedCheckpoint: an argument is missing, or is one of a fork that computes something else.
    """
    if missing := sorted(_NANOGPT - set(model_args)):
        raise UnsupportedCheckpoint(f"{subject}: its model_args lack {', '.join(missing)}")
    if unknown := [name for name in model_args if name not in _NANOGPT | _NANOGPT_OPTIONAL]:
        raise UnsupportedCheckpoint(
            f"{subject}: the model argument {quoted(unknown[0], 40)} isn't nanoGPT's own: what it computes isn't known"
        )
    return {
        "model_type": "gpt2",
        "n_layer": model_args["n_layer"],
        "n_head": model_args["n_head"],
        "n_embd": model_args["n_embd"],
        "n_positions": model_args["block_size"],
        "vocab_size": model_args["vocab_size"],
        "activation_function": "gelu" if "bias" in model_args else "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def nanogpt_origins(store: Store, model_args: Mapping[str, Any], subject: str) -> Mapping[str, Origin]:
    """The tensors of nanoGPT under GPT-2's names: linear weights transposed, and zeros for biases that it doesn't have.

    Raises:
        MismatchedWeights: a tensor is stored twice, with and without the name of what wraps it.
    """
    found: dict[str, Origin] = {}
    for stored, info in store.tensors.items():
        name = unwrapped(stored)
        if name in found:
            raise MismatchedWeights(f"{subject}: the tensor {quoted(name)} is stored twice")
        if name.endswith(_TRANSPOSED) and len(info.shape) == 2:
            found[name] = Origin(stored, info.shape[::-1], _transpose)
        else:
            found[name] = Origin(stored, info.shape)
    if model_args.get("bias") is False:
        width, layers = model_args["n_embd"], model_args["n_layer"]
        sizes = {"attn.c_attn.bias": 3 * width, "mlp.c_fc.bias": 4 * width}
        for name in (f"transformer.h.{layer}.{bias}" for layer in range(layers) for bias in _BIASES):
            found.setdefault(name, Origin(None, (sizes.get(name.split(".", 3)[3], width),)))
        found.setdefault("transformer.ln_f.bias", Origin(None, (width,)))
    return found


def _transpose(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.T.contiguous()
