"""A module whose weights are split over processes (FSDP, tensor parallelism), and the whole of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peelaudit.errors import UnsupportedCheckpoint

__all__ = ["check_whole", "gathered", "is_part", "is_split"]

_ZERO_3 = "is split by DeepSpeed's ZeRO 3; audit what that saves of it"


def is_split(model: nn.Module) -> bool:
    """Whether this process has a part of some weights alone; the same on all of them, which needn't talk for it."""
    if _by_deepspeed(model):
        return True
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FullyShardedDataParallel

    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return True
    return any(is_part(weight) for weight in (*model.parameters(), *model.buffers()))


def is_part(weight: Tensor) -> bool:
    """Whether a tensor is distributed, so that this process has a part of it."""
    return type(weight) not in (Tensor, nn.Parameter) and hasattr(weight, "full_tensor")


def gathered(model: nn.Module) -> Mapping[str, Any]:
    """The state dict of a split module, whole and on the CPU: on the first process, and nothing on the others.

    All processes must call it.

    Raises:
        UnsupportedCheckpoint: DeepSpeed has split it, which torch can't undo.
    """
    if _by_deepspeed(model):
        raise UnsupportedCheckpoint(f"{type(model).__name__}: {_ZERO_3}")
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def check_whole(model: nn.Module, name: str) -> None:
    """Raise UnsupportedCheckpoint, which says what to do, where a module is split.

    It has to come before the module is asked for its state dict, which would wait for the other processes forever.
    """
    if _by_deepspeed(model):
        raise UnsupportedCheckpoint(f"{name}: {_ZERO_3}")
    if is_split(model):
        raise UnsupportedCheckpoint(
            f"{name}: its weights are split over processes; on all of them call get_model_state_dict of "
            "torch.distributed.checkpoint.state_dict with full_state_dict and cpu_offload, and audit on the first with "
            "what it returns as state_dict"
        )


def _by_deepspeed(model: nn.Module) -> bool:
    """Whether ZeRO 3 has split it: the mark that it leaves on each weight."""
    return any(hasattr(weight, "ds_id") for weight in model.parameters())
