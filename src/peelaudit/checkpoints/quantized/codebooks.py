"""Formats of codebooks and the like (trellises, rows of mixed bits, outliers beside): each is refused by its name.

They are told by the configuration or, where that says nothing, by tensors that no other format has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peelaudit.checkpoints.files import quoted
from peelaudit.errors import UnsupportedCheckpoint

__all__ = ["refuse_codebooks", "refuse_codebooks_by_tensors"]


@dataclass(frozen=True, slots=True)
class _Format:
    """A format: its name, its `quant_method`s, a key of config.json, and what some of its tensors' names end in."""

    name: str
    methods: tuple[str, ...]
    key: str | None = None
    tensors: tuple[str, ...] = ()


_FORMATS = (
    _Format("AQLM", ("aqlm",), "aqlm", (".codebooks",)),
    _Format("VPTQ", ("vptq",), None, (".centroids.weight", ".res_centroids.weight")),
    _Format("QuIP#", ("quip", "quip_sharp", "quip#"), "quip_params", (".Qidxs", ".codebook_id")),
    _Format("QTIP", ("qtip",), "qtip_params", (".tlut",)),
    _Format("EXL2", ("exl2",), None, (".q_scale_max", ".q_invperm")),
    _Format("EXL3", ("exl3",), None, (".trellis", ".suh")),
    _Format("SpQR", ("spqr",), None, (".dense_weights", ".row_offsets")),
    _Format("HIGGS", ("higgs",), None, (".tables2",)),
    _Format("SqueezeLLM", ("squeezellm",), None, (".lookup_table",)),
)


def refuse_codebooks(values: Mapping[str, Any], method: object, subject: str) -> None:
    """Raise UnsupportedCheckpoint if a config.json, or the `quant_method` in it, is one of such a format."""
    for one in _FORMATS:
        if method in one.methods or (one.key is not None and values.get(one.key)):
            raise _refusal(one, subject)


def refuse_codebooks_by_tensors(names: Iterable[str], subject: str) -> None:
    """Raise UnsupportedCheckpoint if a stored tensor is one that only such a format has."""
    endings = tuple(ending for one in _FORMATS for ending in one.tensors)
    for name in names:
        if name.endswith(endings):
            raise _refusal(next(one for one in _FORMATS if name.endswith(one.tensors)), f"{subject}: {quoted(name)}")


def _refusal(found: _Format, subject: str) -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(
        f"{subject}: weights packed by {found.name} can't be audited; use the unpacked ones, or a GGUF file"
    )
