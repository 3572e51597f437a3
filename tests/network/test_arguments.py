"""A block's other arguments: for any batch what transformers would pass, and none where tokens make a difference."""

from __future__ import annotations

import pytest
import torch

from peelaudit.network.arguments import Arguments, Call

TABLE = torch.arange(6.0).view(1, 2, 3)
HEADS = torch.arange(8.0).view(4, 1, 2)


def call(batch: int, **changes: object) -> Call:
    """What a block may be called with for so many sequences."""
    mask = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]).expand(batch, 1, 2, 2)
    return (None,), {"mask": mask, "tables": (TABLE, TABLE + 1), "alibi": HEADS.repeat(batch, 1, 1), "n": 3, **changes}


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_made_for_each_sequence_is_repeated(batch: int) -> None:
    arguments = Arguments.of(call(1), call(2))
    assert arguments is not None
    args, kwargs = arguments.for_batch(batch)
    expected = call(batch)
    assert args == expected[0]
    assert kwargs.keys() == expected[1].keys()
    torch.testing.assert_close(kwargs["mask"], expected[1]["mask"])
    torch.testing.assert_close(kwargs["alibi"], expected[1]["alibi"])
    assert kwargs["tables"][0] is TABLE


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 4},
        {"tables": (TABLE, TABLE)},
        {"mask": None},
        {"alibi": torch.zeros(8, 1, 2)},
        {"alibi": torch.zeros(9, 1, 2)},
        {"more": 1},
    ],
)
def test_what_differs_is_no_argument(changes: dict[str, object]) -> None:
    assert Arguments.of(call(1), call(2, **changes)) is None
