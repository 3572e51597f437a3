"""What a torch file's pickle may name, checked before torch interprets it.

`torch.load(weights_only=True)` runs no foreign code, but still builds a 4 GiB bytearray or a sparse tensor on demand,
and its refusals advise to switch the protection off. Here the pickle's instructions are listed first (not executed),
and everything beyond plain containers and dense tensors is refused in our own words.
"""

from __future__ import annotations

import pickletools

import torch

from peelaudit.checkpoints.files import quoted
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint

__all__ = ["check_pickle"]

MAX_PICKLE = 64 << 20
_MAX_INSTRUCTIONS = 3_000_000

_CONTAINERS = frozenset(
    {
        "collections.OrderedDict",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "torch.serialization._get_layout",
        "torch.nn.parameter.Parameter",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
    }
)


def check_pickle(data: bytes, subject: str) -> None:
    """List the pickle's instructions and refuse what no file of weights needs.

    Raises:
        MalformedCheckpoint: it isn't a sound pickle, or is too long.
        UnsupportedCheckpoint: it names something other than plain containers and dense tensors.
    """
    if len(data) > MAX_PICKLE:
        raise MalformedCheckpoint(f"{subject}: {len(data)} bytes of pickle are too many for a model")
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            if count > _MAX_INSTRUCTIONS:
                raise MalformedCheckpoint(f"{subject}: its pickle is longer than any model's")
            if instruction.name == "GLOBAL":
                _check_global(str(argument), subject)
            elif instruction.name in {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}:
                raise UnsupportedCheckpoint(
                    f"{subject}: its pickle isn't one that torch.save writes; save the model's state_dict instead"
                )
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeError, AttributeError):
        raise MalformedCheckpoint(f"{subject}: its pickle is damaged") from None


def _check_global(argument: str, subject: str) -> None:
    """Raise UnsupportedCheckpoint unless it is a plain container, a dtype, a storage or a tensor's constructor."""
    module, _, name = argument.partition(" ")
    path = f"{module}.{name}"
    if path in _CONTAINERS or (module == "torch" and (name.endswith("Storage") or _is_dtype(name))):
        return
    raise UnsupportedCheckpoint(
        f"{subject}: holds a {quoted(path)}, and only tensors and plain containers are ever loaded;"
        " save the model's state_dict alone"
    )


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype)
