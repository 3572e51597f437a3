"""Heads that predict further tokens, which some files store beside the network: transformers computes without them.

    mtp.…, mtp_block.…, medusa_head.…   by their names
    model.layers.61.…                   as layers behind the last (DeepSeek's, GLM's)

How many layers are such heads, `num_nextn_predict_layers` says; each has an `eh_proj`, which joins a state and an
embedding.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.store import Store
from peelaudit.records import TensorInfo

__all__ = ["without_heads"]

_HEAD = re.compile(r"(.*\.)?(mtp(_[a-z]+)*|medusa_heads?)\.")
_LAYER = re.compile(r"(?P<layer>(?:.*\.)?layers\.(?P<number>\d{1,9})\.)(?P<joins>eh_proj\.)?")


def without_heads(store: Store, values: Mapping[str, Any]) -> tuple[Store, tuple[str, ...]]:
    """The store without such heads, itself where it has none, and what to say of them.

    Args:
        store: of all tensors.
        values: of the config.json.
    """
    layers = {
        found["layer"]
        for name in store.tensors
        if (found := _LAYER.match(name)) and found["joins"] and _is_further(int(found["number"]), values)
    }
    heads = {name: begin for name in store.tensors if (begin := _head_of(name, layers)) is not None}
    if not heads:
        return store, ()
    first, *others = sorted(set(heads.values()))
    more = f" and {len(others)} more" if others else ""
    note = f"heads that predict further tokens ({quoted(first)}{more}: {len(heads)} tensors) are no part of the audit"
    return _Without(store, heads), (note,)


def _head_of(name: str, layers: Collection[str]) -> str | None:
    """What the names of the head begin with that a tensor belongs to; None where it belongs to none."""
    if found := _HEAD.match(name):
        return found[0]
    found = _LAYER.match(name)
    return found["layer"] if found and found["layer"] in layers else None


def _is_further(number: int, values: Mapping[str, Any]) -> bool:
    """Whether a layer is behind the network's last, among as many as the configuration says."""
    last, heads = values.get("num_hidden_layers"), values.get("num_nextn_predict_layers")
    return type(last) is int and type(heads) is int and last <= number < last + heads


class _Without:
    """All tensors of a store but some."""

    def __init__(self, store: Store, names: Collection[str]) -> None:
        self._store = store
        self.format = store.format
        self.floats: Collection[str] = store.floats
        self.paths = store.paths
        self.tensors: Mapping[str, TensorInfo] = {
            name: info for name, info in store.tensors.items() if name not in names
        }

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that stored name, on the CPU."""
        return self._store.read(name)

    def close(self) -> None:
        """Release the files."""
        self._store.close()
