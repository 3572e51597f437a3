"""What a checkpoint is, and the low-bit grids of its matrices."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["CheckpointInfo", "Grid", "GridKind", "LowBit", "LowBitSet", "ScaleLayout", "TensorInfo", "ZeroPoint"]


class GridKind(StrEnum):
    """What a low-bit tensor's weights are."""

    BINARY = "binary"
    """-s and s."""
    TERNARY = "ternary"
    """-s, 0 and s."""
    INTEGER = "int"
    """At most 2^b evenly spaced values."""
    NF4 = "nf4"
    """16 values spaced as a normal distribution's quantiles."""
    FP4 = "fp4"
    """Floats of 4 bits, e2m1."""
    FP8 = "fp8"
    """Floats of 8 bits, e4m3."""


class ScaleLayout(StrEnum):
    """Which weights share a scale."""

    TENSOR = "tensor"
    ROW = "row"
    """An output channel."""
    GROUP = "group"
    """So many neighbouring inputs of an output channel."""


class ZeroPoint(StrEnum):
    """Where 0 lies among the values of an integer grid."""

    SYMMETRIC = "symmetric"
    """In the middle: a scale times -2^(b-1) … 2^(b-1) - 1."""
    INTEGER = "integer"
    """On one of the values, each group's own."""
    FREE = "free"
    """Anywhere: each group has a minimum."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The low-bit grid that a tensor's weights lie on. `bits` a weight, scales aside: 1, log2(3), or b. `group` is the
    length of a group, in inputs, None where the layout isn't by group. `zero_fraction` is the share of zeros.
    """

    kind: GridKind
    bits: float
    layout: ScaleLayout
    group: int | None
    zero_fraction: float
    zero: ZeroPoint = ZeroPoint.SYMMETRIC

    @property
    def name(self) -> str:
        """`ternary per tensor`, `4-bit in groups of 32`."""
        kind = f"{self.bits:g}-bit" if self.kind is GridKind.INTEGER else str(self.kind)
        return f"{kind} per {self.layout}" if self.group is None else f"{kind} in groups of {self.group}"


@dataclass(frozen=True, slots=True)
class LowBitSet:
    """So many matrices of one low-bit set, by its name: `ternary per tensor`."""

    name: str
    matrices: int


@dataclass(frozen=True, slots=True)
class LowBit:
    """The low-bit matrices among the `matrices` of a network's blocks, the set of most of them first.

    `held` says whether reference blocks are of the same sets; float ones, of a low-bit network, are no network that it
    could have been.
    """

    sets: tuple[LowBitSet, ...]
    matrices: int
    held: bool


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor, as its file names it. `bytes` is its size in the file. `grid` is None where the weights lie on
    none, and where only headers were read.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    grid: Grid | None = None


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What a checkpoint is, from its headers and configuration alone.

    `parameters` counts each shared (tied) weight once. `bytes` is the size of the weight files. `sha256` is of the
    weight files and the configuration. `files` are relative to `path`. `dtype` is the stored one, or several joined
    by `+`, most bytes first. `training_step` is None where none is recorded.
    """

    path: str
    format: str
    family: str
    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp_width: int
    vocabulary: int
    context: int
    dtype: str
    parameters: int
    bytes: int
    tied_head: bool
    tokenizer: str | None
    training_step: int | None
    files: tuple[str, ...]
    sha256: str
    tensors: tuple[TensorInfo, ...]
