"""A LoRA adapter of peft, merged into the weights as they are read: W + s B A.

    adapter_config.json            r, lora_alpha, use_rslora, rank_pattern, …
    adapter_model.safetensors      base_model.model.<module>.lora_A.weight, …lora_B.weight; or adapter_model.bin

s is alpha/r, or alpha/√r of rank-stabilised LoRA. DoRA divides each row of the sum by its length and multiplies it by
the stored one (arXiv:2402.09353, equation 5). A setting that changes what is computed and isn't known here is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from peelaudit.checkpoints.adapter_config import LoraSettings
from peelaudit.checkpoints.files import quoted, read_json, within
from peelaudit.checkpoints.huggingface import open_file
from peelaudit.checkpoints.matching import Matched, unwrapped
from peelaudit.checkpoints.store import FLOATS, Store
from peelaudit.errors import MismatchedWeights, UnreadableCheckpoint, UnsupportedCheckpoint
from peelaudit.filenames import ADAPTER_CONFIG
from peelaudit.records import TensorInfo

__all__ = ["Adapter", "Merged", "save_adapter"]

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_OUTER = "base_model.model."
_PARTS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_embedding_A": "A",
    ".lora_embedding_B": "B",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".base_layer.weight": "base",
    ".weight": "base",
}
"""What the names of tensors end in: `base` takes the place of the checkpoint's own weight."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What is added to one module: the names of its tensors in the adapter's file, and its factor."""

    names: Mapping[str, str]
    scale: float


class Adapter:
    """An adapter's directory, open until `close`.

    Attributes:
        path: the directory.
        paths: its files, which count as the checkpoint's.
    """

    def __init__(self, directory: Path) -> None:
        """Read its settings and its tensors' names.

        Raises:
            UnreadableCheckpoint: there is no adapter there.
            MalformedCheckpoint: its settings or its file are damaged.
            UnsupportedCheckpoint: it isn't LoRA, or computes something that isn't known.
        """
        self.path = directory
        if not (directory / ADAPTER_CONFIG).is_file():
            raise UnreadableCheckpoint(f"{quoted(directory)}: holds no {ADAPTER_CONFIG}, so it isn't peft's adapter")
        config = within(directory, ADAPTER_CONFIG)
        self._subject = quoted(config)
        self._settings = LoraSettings.read(read_json(config), self._subject)
        weights = next((name for name in _FILES if (directory / name).exists()), None)
        if weights is None:
            raise UnreadableCheckpoint(f"{quoted(directory)}: has none of {', '.join(_FILES)}")
        self._store = open_file(within(directory, weights))
        self.paths = (config, *self._store.paths)

    def modules(self, skeleton: torch.nn.Module) -> Mapping[str, _Part]:
        """What is added to each module of the network, by the module's name.

        Raises:
            MismatchedWeights: a tensor belongs to no module of the network, or its partner is missing, or a module that
                the settings name has none.
        """
        found: dict[str, dict[str, str]] = {}
        modules = dict(skeleton.named_modules())
        for name, info in self._store.tensors.items():
            if info.dtype not in FLOATS:
                where = f"{quoted(self._store.paths[0])}: the tensor {quoted(name)}"
                raise UnsupportedCheckpoint(f"{where} is stored as {info.dtype}, not as floats")
            suffix = next((end for end in _PARTS if name.endswith(end)), None)
            module = unwrapped(name.removeprefix(_OUTER).removesuffix(suffix)) if suffix else ""
            if suffix is None or not hasattr(modules.get(module), "weight"):
                raise MismatchedWeights(
                    f"{quoted(self._store.paths[0])}: the network has no place for the adapter's {quoted(name)}"
                )
            found.setdefault(module, {})[_PARTS[suffix]] = name
        self._check_listed(found, modules)
        return {module: self._part(module, names) for module, names in found.items()}

    def _part(self, module: str, names: Mapping[str, str]) -> _Part:
        where = f"{quoted(self._store.paths[0])}: the adapter of {quoted(module)}"
        if set(names) == {"base"}:
            return _Part(names, 0.0)
        needed = {"A", "B", "magnitude"} if self._settings.dora else {"A", "B"}
        if missing := needed ^ (set(names) - {"base"}):
            raise MismatchedWeights(f"{where} has {'too many' if missing & set(names) else 'too few'} tensors")
        rank, told = self._tensor(names["A"]).shape[:1], self._settings.rank_of(module)
        if rank != (told,):
            raise MismatchedWeights(f"{where} isn't of the rank {told:g} that {self._subject} says")
        return _Part(names, self._settings.scale_of(module))

    def _tensor(self, name: str) -> TensorInfo:
        return self._store.tensors[name]

    def _check_listed(self, found: Collection[str], modules: Mapping[str, torch.nn.Module]) -> None:
        """Raise MismatchedWeights where a module that the settings list by its name has no tensors."""
        for name, module in modules.items():
            if hasattr(module, "weight") and name not in found and self._settings.lists(name):
                raise MismatchedWeights(
                    f"{quoted(self._store.paths[0])}: has no tensors for {quoted(name)}, which {self._subject} lists"
                )

    def added(self, part: _Part, weight: torch.Tensor, module: torch.nn.Module) -> torch.Tensor:
        """The merged weight, in float32; `weight` has the module's own orientation."""
        if "base" in part.names:
            weight = self._store.read(part.names["base"])
        if "A" not in part.names:
            return weight
        left, right = (self._store.read(part.names[which]).float() for which in ("B", "A"))
        change = part.scale * (left @ right)
        across = not isinstance(module, torch.nn.Linear)
        whole = weight.float() + (change.T if across else change)
        if "magnitude" not in part.names:
            return whole
        rows = whole.T if across else whole
        length = self._store.read(part.names["magnitude"]).float().view(-1)
        rows.mul_((length / torch.linalg.vector_norm(rows, dim=1)).unsqueeze(1))
        return whole

    def fits(self, part: _Part, shape: tuple[int, ...], module: torch.nn.Module) -> bool:
        """Whether the adapter's matrices are of the sizes of the module's."""
        base = part.names.get("base")
        if base is not None and self._tensor(base).shape != shape:
            return False
        if "A" not in part.names:
            return True
        left, right = (self._tensor(part.names[which]).shape for which in ("B", "A"))
        if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
            return False
        size = (left[0], right[1]) if isinstance(module, torch.nn.Linear) else (right[1], left[0])
        magnitude = part.names.get("magnitude")
        return size == shape and (magnitude is None or math.prod(self._tensor(magnitude).shape) == left[0])

    def close(self) -> None:
        """Release its file."""
        self._store.close()


def save_adapter(
    directory: Path, base: str, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]], rank: int, *, across: bool
) -> None:
    """Write an adapter as peft does, whose product stands as it is.

    Args:
        directory: that is there.
        base: the checkpoint that it is for.
        factors: A, [rank, inputs], and B, [outputs, rank], of each module by its name.
        rank: of all.
        across: whether the modules keep their matrices as [inputs, outputs].

    Raises:
        OSError: it couldn't be written.
    """
    tensors = {
        f"{_OUTER}{module}{end}": part.detach().cpu().float().contiguous()
        for module, pair in factors.items()
        for end, part in zip((".lora_A.weight", ".lora_B.weight"), pair, strict=True)
    }
    save_file(tensors, directory / _FILES[0], metadata={"format": "pt"})
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": across,
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(factors),
        "task_type": "CAUSAL_LM",
    }
    (directory / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


class Merged:
    """A checkpoint's tensors with an adapter merged into them, as a store."""

    def __init__(self, store: Store, matched: Matched, skeleton: torch.nn.Module, adapter: Adapter) -> None:
        """Hold every tensor of the adapter to the parameter that it changes.

        Raises:
            MismatchedWeights: one has no place in the network, or another shape.
            UnsupportedCheckpoint: its tensors aren't floats, or a parameter that it changes is shared with another, or
                isn't stored as it is.
        """
        self._store = store
        self._adapter = adapter
        self.format = store.format
        self.floats: Collection[str] = store.floats
        self.paths = store.paths
        self.tensors: Mapping[str, TensorInfo] = store.tensors
        self._parts: dict[str, tuple[_Part, torch.nn.Module]] = {}
        modules = dict(skeleton.named_modules())
        users = [origin.stored for origin in matched.origins.values()]
        for module, part in adapter.modules(skeleton).items():
            origin = matched.origins.get(f"{module}.weight")
            where = f"{quoted(adapter.path)}: the adapter of {quoted(module)}"
            if origin is None or origin.stored is None or origin.change is not None:
                raise UnsupportedCheckpoint(f"{where} changes a weight that isn't stored as the network has it")
            if users.count(origin.stored) > 1:
                raise UnsupportedCheckpoint(f"{where} changes a weight that is tied to another: merge it by peft")
            if not adapter.fits(part, origin.shape, modules[module]):
                raise MismatchedWeights(f"{where} isn't of the size of the network's matrix")
            self._parts[origin.stored] = part, modules[module]

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that stored name, on the CPU, merged where the adapter changes it, in the stored dtype."""
        weight = self._store.read(name)
        found = self._parts.get(name)
        return weight if found is None else self._adapter.added(found[0], weight, found[1]).to(weight.dtype)

    def close(self) -> None:
        """Release the files of both."""
        self._store.close()
        self._adapter.close()
