"""Low-bit weights: which matrices of a checkpoint lie on a grid of few values (detection), the sets of such matrices
(constraints), and how a regression's solution is rounded to one (rounding).
"""

from peelaudit.network.lowbit.grids import Grids, Holding

__all__ = ["Grids", "Holding"]
