"""Copies of a checkpoint with one damaged block each, as directories that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from peelaudit.auditing.faults import damaged
from peelaudit.auditing.prepare import held_decoder, prepared
from peelaudit.calibration import write_tokenizer
from peelaudit.checkpoints.placing import copy_beside
from peelaudit.network.weights import check_weights
from peelaudit.records import FaultKind
from peelaudit.settings.audit import AuditConfig

KINDS = (
    FaultKind.REINITIALISED,
    FaultKind.NOISED,
    FaultKind.MLP_ZEROED,
    FaultKind.ATTENTION_ZEROED,
    FaultKind.HEAD_SCRAMBLED,
    FaultKind.ONE_BIT,
)
"""Faults that any block can have."""


class Copy(NamedTuple):
    """A directory; the healthy network's has neither a fault nor a layer."""

    path: Path
    fault: str
    layer: int | None

    @property
    def name(self) -> str:
        """What it is called in the results."""
        return self.path.name


def planted(config: AuditConfig, folder: Path, layers: Collection[int], *, done: Collection[str]) -> Iterator[Copy]:
    """Write the healthy network, then each layer with each fault, one directory at a time.

    Faults that change nothing are left out, such as one bit of a binary matrix. Low-bit weights stay on their grid.

    Args:
        config: the checkpoint, and the text.
        folder: where to; what is there of the same name is replaced.
        layers: to be damaged; empty for all.
        done: names of copies that aren't wanted.
    """
    with prepared(config) as audit:
        checkpoint = audit.checkpoint
        decoder, _ = held_decoder(audit, check_weights(checkpoint))
        info, tied = checkpoint.info, {name for name in checkpoint.names() if checkpoint.tied[name] != name}
        whole = {name: checkpoint.tensor(name).clone() for name in checkpoint.names() if name not in tied}
        settings = checkpoint.config.to_dict() | {"architectures": [info.architecture]}

        def written(copy: Copy, tensors: dict[str, torch.Tensor]) -> Copy:
            copy.path.mkdir(parents=True, exist_ok=True)
            save_file(whole | tensors, copy.path / "model.safetensors", metadata={"format": "pt"})
            copy_beside(checkpoint, copy.path, config.config, configured=False)
            if Path(info.path).suffix == ".gguf":
                write_tokenizer(Path(info.path), copy.path)
            (copy.path / "config.json").write_text(json.dumps(settings))
            return copy

        if "healthy" not in done:
            yield written(Copy(folder / "healthy", "healthy", None), {})
        for fault in KINDS:
            for layer in sorted(layers) or range(1, info.layers + 1):
                copy = Copy(folder / f"{fault}-{layer}", str(fault), layer)
                if copy.name in done:
                    continue
                healthy = decoder.block(layer)
                before = healthy.present()
                after = damaged(healthy, fault, heads=info.heads, seed=config.seed + layer).present()
                if all(torch.allclose(tensor, after[name]) for name, tensor in before.items()):
                    continue
                prefix = f"{decoder.family.blocks}.{layer - 1}."
                yield written(copy, {prefix + name: tensor.contiguous() for name, tensor in after.items()})
