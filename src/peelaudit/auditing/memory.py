"""An audit within so many bytes of main memory: how much is computed at once, and where states and blocks are.

What is counted is what the process has of its own. Pages of files that are mapped (the weights of a safetensors file,
states on disk) are the system's, which takes them back where it needs the room.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from peelaudit.errors import ConfigError
from peelaudit.method.readouts.shortlist import FEW_WORDS
from peelaudit.network.decoder import Decoder
from peelaudit.network.memory import LEAST_LOGITS
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.sizes import parse_size, written_size

__all__ = ["limit_memory", "own_memory"]

SLACK = 96 << 20
"""Bytes for all that isn't planned: allocators' own, the intervals, attention's scores."""
COPIES = 5
"""Of a batch's logits, at the most: themselves, how they move, the probabilities, and the derivatives of these."""
BLOCK_COPIES = 5
"""Of a block's weights: its own, those of a candidate, how they change, what is looked for, and its sum."""
SQUARES = 8
"""Of a writer's features: their moments on two splits, damped, a factor of that, and the solver's."""
KEPT = 1 / 4
"""Of what is left, blocks that are kept; the rest is for states."""


@dataclass(frozen=True, slots=True)
class _Needs:
    """Bytes, whatever is planned: `fixed` all along, `token` for each that goes through a block at once, `words` for
    the logits by which a head is refitted, of one sequence and all words that the text holds.
    """

    fixed: int
    token: int
    words: int


def limit_memory(decoder: Decoder, config: AuditConfig, positions: int) -> None:
    """Have a network's audit take no more than the settings say.

    Args:
        decoder: just opened.
        config: the settings.
        positions: of a sequence.

    Raises:
        ConfigError: they say less than it needs; the message says how much that is.
    """
    if config.max_memory is None:
        return
    limit, memory = parse_size(config.max_memory), decoder.memory
    own = own_memory()
    if decoder.device.type != "cpu":
        left = limit - own - SLACK
        _check(config, left, own + SLACK)
        memory.block_bytes, memory.state_bytes = int(KEPT * left), int((1 - KEPT) * left)
        return
    needs = _needs(decoder, config, positions)
    logits = 4 * COPIES * min(decoder.vocabulary, memory.logit_words) * LEAST_LOGITS
    one = max(positions * needs.token, logits, needs.words)
    left = limit - own - needs.fixed
    _check(config, left - one, own + needs.fixed + one)
    memory.tokens = _halved(memory.tokens, positions, left // 2 // needs.token)
    memory.logit_bytes = _halved(memory.logit_bytes, logits // COPIES, left // 2 // COPIES)
    left -= max(memory.tokens * needs.token, memory.logit_bytes * COPIES, one)
    memory.block_bytes, memory.state_bytes = int(KEPT * left), int((1 - KEPT) * left)


def _halved(usual: int, least: int, most: int) -> int:
    """Half as much until it is at most `most`, or no more than `least`: so that a little more or less memory is the
    same audit to the last digit.
    """
    while usual > max(least, most):
        usual //= 2
    return usual


def _check(config: AuditConfig, left: int, least: int) -> None:
    if left < 0:
        raise ConfigError(
            f"max-memory is {config.max_memory}: this audit takes {written_size(least)} at least, with one sequence at "
            "a time and all states on disk; a shorter --seq-len may need less"
        )


def _needs(decoder: Decoder, config: AuditConfig, positions: int) -> _Needs:
    """Of the largest block and the head; of a parent too, whose embedding and head are there beside the network's."""
    fixed, token = 0, 1
    for blueprint in decoder.blueprints:
        maps = [weight.shape for weight in blueprint.parameters() if weight.ndim >= 2]
        squares = [8 * (a * a + b * b + a * b) * math.prod(experts) for *experts, a, b in maps]
        features = max(max(shape[-2:]) for shape in maps)
        own = sum(weight.numel() for weight in blueprint.parameters()) * decoder.dtype.itemsize
        solved = max(sum(squares) + 3 * max(squares), 8 * SQUARES * features * features)
        fixed = max(fixed, BLOCK_COPIES * own + solved)
        token = max(token, 4 * _floats(blueprint, decoder, positions))
    beside = 0 if config.parent is None else 2 * decoder.vocabulary * decoder.width * decoder.dtype.itemsize
    refitted = (config.readout, config.depth_readout).count("refit")
    head = 4 * decoder.vocabulary * decoder.width * refitted
    held = min(decoder.vocabulary, max(FEW_WORDS, config.tokens))
    shortlists = 2 * 4 * held * decoder.width if decoder.vocabulary > FEW_WORDS else 0  # that of half of the text too
    return _Needs(fixed + head + shortlists + beside + SLACK, token, 4 * COPIES * positions * held if refitted else 0)


def _floats(block: nn.Module, decoder: Decoder, positions: int) -> int:
    """Of a token that goes through a block and back: what its maps are given and make, and what is between them."""
    chosen: int = getattr(decoder.config, "num_experts_per_tok", None) or 1
    heads: int = getattr(decoder.config, "num_attention_heads", 1)
    through = sum(
        sum(weight.shape[-2:]) * (chosen if weight.ndim > 2 else 1) for weight in block.parameters() if weight.ndim >= 2
    )
    return 3 * through + 16 * decoder.width + 3 * heads * positions


def own_memory() -> int:
    """Bytes that this process has of its own; 0 where the system doesn't say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    except (OSError, StopIteration):
        return 0
