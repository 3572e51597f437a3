"""Low-bit weights: which matrices of a checkpoint lie on a grid of few values, and on which (detection)."""

from peelaudit.lowbit.grids import Grids

__all__ = ["Grids"]
