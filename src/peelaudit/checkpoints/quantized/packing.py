"""The arithmetic that methods share: numbers out of packed words, and a scale for each column out of one a group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from peelaudit.checkpoints.quantized.method import StoredModule

__all__ = ["each_column", "group_index", "unpack", "words_for"]


def each_column(table: Tensor, groups: Tensor | None) -> Tensor:
    """The column of `table`, [outputs, groups], of each input's group, [inputs]; of None, the only one."""
    return table if groups is None else table[:, groups]


def group_index(module: StoredModule, part: str, inputs: int, groups: int) -> Tensor | None:
    """The group of each input, [inputs], where the layer lists them.

    Raises:
        MalformedCheckpoint: an input is in a group that has no scale.
    """
    if part not in module.tensors:
        return None
    index = module.read(part).long()
    if len(index) != inputs or int(index.min()) < 0 or int(index.max()) >= groups:
        raise module.malformed(f"its {part} puts an input into a group that isn't one of its {groups}")
    return index


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` numbers of `bits` bits in each row, [rows, count] uint8, lowest bits first.

    Args:
        words: [rows, words] int32; a number may begin in one word and end in the next.
        bits: 1 to 8.
        count: at most as many as the words hold.
    """
    common = math.gcd(bits, 32)
    per_turn, numbers = bits // common, 32 // common
    padded = torch.nn.functional.pad(words, (0, -words.shape[1] % per_turn))
    turns = padded.to(torch.int64).reshape(len(words), -1, per_turn) & 0xFFFF_FFFF
    found = torch.empty(len(words), turns.shape[1], numbers, dtype=torch.uint8)
    for number in range(numbers):
        word, shift = divmod(number * bits, 32)
        value = turns[..., word] >> shift
        if shift + bits > 32:
            value |= turns[..., word + 1] << (32 - shift)
        found[..., number] = (value & (2**bits - 1)).to(torch.uint8)
    return found.reshape(len(words), -1)[:, :count]


def words_for(count: int, bits: int) -> int:
    """How many words of 32 bits hold `count` numbers of `bits` bits."""
    return -(-count * bits // 32)
