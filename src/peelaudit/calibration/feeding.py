"""What the network is fed beside the text: the tokens before each sequence, and which tokens are no targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from peelaudit.calibration.arrays import Tokens
from peelaudit.calibration.splits import Split

__all__ = ["begins_with", "feeding_only", "headed"]


def begins_with(tokens: Tokens, front: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """[sequences] which of [sequences, positions] begin with these tokens."""
    found: npt.NDArray[np.bool_] = (tokens[:, : len(front)] == np.asarray(front)).all(axis=1)
    return found


def headed(split: Split, front: tuple[int, ...]) -> Split:
    """The split with these tokens before each sequence, whose last ones make room, unless it begins with them."""
    tokens = split.tokens.copy()
    bare = ~begins_with(tokens, front)
    tokens[bare, len(front) :] = split.tokens[bare, : -len(front)]
    tokens[bare, : len(front)] = front
    return dataclasses.replace(split, tokens=tokens)


def feeding_only(split: Split, tokens: Collection[int]) -> Split:
    """The split with these tokens fed, and never to be predicted."""
    return dataclasses.replace(split, fed_only=np.isin(split.tokens, list(tokens)))
