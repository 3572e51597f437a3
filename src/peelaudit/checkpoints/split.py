"""A module whose weights are split over processes (FSDP, tensor parallelism), and the whole of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from peelaudit.errors import UnsupportedCheckpoint

__all__ = ["gathered", "is_part", "is_split"]


def is_split(model: nn.Module) -> bool:
    """Whether this process has a part of some weights alone; the same on all of them, which needn't talk for it."""
    if any(hasattr(weight, "ds_id") for weight in model.parameters()):  # DeepSpeed's ZeRO 3
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


def gathered(model: nn.Module) -> Mapping[str, Tensor]:
    """The state dict of a split module, whole and on the CPU: on the first process, and nothing on the others.

    All processes must call it.

    Raises:
        UnsupportedCheckpoint: DeepSpeed has split it, which torch can't undo.
    """
    if any(hasattr(weight, "ds_id") for weight in model.parameters()):
        raise UnsupportedCheckpoint(f"{type(model).__name__}: is split by ZeRO 3; audit what DeepSpeed saves of it")
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: value for name, value in whole.items() if isinstance(value, Tensor)}
