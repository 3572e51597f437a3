"""What a file is, and lazy tensors out of it: one module per format behind `open_checkpoint`."""

from __future__ import annotations

from peelaudit.checkpoints.checkpoint import Checkpoint
from peelaudit.checkpoints.opening import Admit, open_checkpoint

__all__ = ["Admit", "Checkpoint", "open_checkpoint"]
