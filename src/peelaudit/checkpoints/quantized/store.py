"""A store of packed weights as one of floats: `X.weight` stands where `X.qweight`, `X.scales` … are stored."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import nn

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.matching import Origin
from peelaudit.checkpoints.quantized.method import Layout, Method, StoredModule
from peelaudit.checkpoints.store import Store
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.records import TensorInfo

__all__ = ["Dequantized"]


class Dequantized:
    """The tensors of `store`, packed matrices as floats. One is dequantised each time it is read; none is kept.

    A packed matrix is one tensor here: its `dtype` says how it is packed, its `bytes` are those of all its parts.
    """

    def __init__(self, store: Store, method: Method) -> None:
        """Find the packed matrices by the headers.

        Raises:
            MismatchedWeights: the parts of one don't fit together, or a matrix is stored packed and plain.
        """
        self._store, self._method = store, method
        self.format, self.paths = store.format, store.paths
        self._packed: dict[str, tuple[StoredModule, Layout]] = {}
        parts_of: dict[str, str] = {}
        for module in _modules(store, method):
            layout = method.layout(module)
            if layout is not None:
                name = module.name + method.stands_for
                self._packed[name] = (module, layout)
                parts_of.update((info.name, name) for info in module.tensors.values())
        self.tensors: Mapping[str, TensorInfo] = self._presented(parts_of)
        self.floats: Collection[str] = {*store.floats, *(layout.dtype for _, layout in self._packed.values())}

    def _presented(self, parts_of: Mapping[str, str]) -> Mapping[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        for name, info in self._store.tensors.items():
            if name not in parts_of:
                if name in self._packed:
                    raise self._packed[name][0].mismatched("its weight is stored as plain numbers too")
                tensors[name] = info
                continue
            module, layout = self._packed[parts_of[name]]
            size = sum(part.bytes for part in module.tensors.values())
            tensors[parts_of[name]] = TensorInfo(parts_of[name], layout.shape, layout.dtype, size)
        return tensors

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that stored name, on the CPU; a packed one as float32."""
        if name not in self._packed:
            return self._store.read(name)
        return self._method.weight(*self._packed[name])

    def origins(self, found: Mapping[str, Origin], skeleton: nn.Module) -> Mapping[str, Origin]:
        """The origins of the skeleton's tensors: packed ones in its orientation, without biases of nothing.

        Raises:
            UnsupportedCheckpoint: a packed matrix isn't one of a linear layer.
        """
        modules, wanted = dict(skeleton.named_modules()), skeleton.state_dict(keep_vars=True)
        turned: dict[str, Origin] = {}
        for name, origin in found.items():
            if name not in wanted and self._is_empty_bias(origin):
                continue
            turned[name] = self._oriented(origin, modules.get(name.removesuffix(".weight")))
        return self._method.adapt(turned, skeleton, self._packed.keys())

    def _oriented(self, origin: Origin, module: nn.Module | None) -> Origin:
        """The origin of a packed matrix, transposed where the module keeps [inputs, outputs] (GPT-2's Conv1D)."""
        from transformers.pytorch_utils import Conv1D

        if origin.stored not in self._packed or module is None:
            return origin
        layout = self._packed[origin.stored][1]
        if isinstance(module, nn.Linear):
            size = (module.out_features, module.in_features)
            if layout.in_rows and math.prod(size) == math.prod(layout.shape) and not size[1] % layout.inputs:
                return Origin(origin.stored, size, lambda rows: rows.reshape(size))
            return origin
        if isinstance(module, Conv1D):
            return Origin(origin.stored, origin.shape[::-1], _transpose)
        raise UnsupportedCheckpoint(
            f"{quoted(self.paths[0])}: {quoted(origin.stored)} is packed, but isn't a linear layer's: that isn't read"
        )

    def _is_empty_bias(self, origin: Origin) -> bool:
        """Whether it is a packed layer's bias of zeros, which old GPTQ files have for every layer."""
        name = origin.stored or ""
        if not name.endswith(".bias") or f"{name.removesuffix('.bias')}.weight" not in self._packed:
            return False
        return not bool(self._store.read(name).any())

    def close(self) -> None:
        """Release the files."""
        self._store.close()


def _modules(store: Store, method: Method) -> Iterable[StoredModule]:
    """Every layer that stores one of the parts, with all of them that it stores."""
    endings = {f"{method.joint}{part}": part for part in sorted(method.parts, key=len, reverse=True)}
    found: dict[str, dict[str, TensorInfo]] = {}
    for name, info in store.tensors.items():
        ending = next((ending for ending in endings if name.endswith(ending)), None)
        if ending is not None:
            found.setdefault(name.removesuffix(ending), {})[endings[ending]] = info
    subject = quoted(store.paths[0])
    return [StoredModule(name, tensors, subject, store.read) for name, tensors in found.items()]


def _transpose(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.T.contiguous()
