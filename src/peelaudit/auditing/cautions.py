"""What a reader of the report should be careful about."""

from __future__ import annotations

from collections.abc import Sequence

from peelaudit.auditing.wording import MOST_LISTED, experts
from peelaudit.records import DataInfo, LayerRow, LowBit, ScheduleResult

__all__ = ["TOKENS_PER_UNKNOWN", "bits_warnings", "calibration_warnings", "experts_warnings", "rank_warnings"]

TOKENS_PER_UNKNOWN = 10
"""Fit tokens that a block's closed form wants for each unknown of an output."""


def experts_warnings(layers: Sequence[LayerRow]) -> tuple[str, ...]:
    """Which experts the calibration text says nothing of."""
    found = [(row.layer, row.signs) for row in layers if row.signs is not None and row.signs.dead]
    if not found:
        return ()
    told = "; ".join(f"layer {layer}: {experts(signs.dead, signs)}" for layer, signs in found[:MOST_LISTED])
    more = f"; and {len(found) - MOST_LISTED} layers more" if len(found) > MOST_LISTED else ""
    words = (
        f"no calibration token is given to some experts ({told}{more}): they are dead, or for a text of another kind, "
        "and nothing here is said of them"
    )
    return (words,)


def calibration_warnings(data: DataInfo, unknowns: int) -> tuple[str, ...]:
    """What the size of the calibration text doesn't allow.

    Args:
        data: as used.
        unknowns: of a block's regression, per output.
    """
    wanted = TOKENS_PER_UNKNOWN * unknowns
    if data.fit.tokens >= wanted:
        return ()
    total = sum(split.tokens for split in (data.fit, data.select, data.held_out))
    enough = -(-wanted * total // data.fit.tokens)
    words = (
        f"{data.fit.tokens} fit tokens for {unknowns} unknowns per output of a block: references over-fit and bounds "
        f"come out high; about {enough} tokens in all (--tokens) would give {TOKENS_PER_UNKNOWN} for each"
    )
    return (words,)


def bits_warnings(low_bit: LowBit | None) -> tuple[str, ...]:
    """What float references of low-bit blocks mean; nothing for references of the same bits, or a float network."""
    if low_bit is None or low_bit.held:
        return ()
    found = ", ".join(f"{found.matrices} of {low_bit.matrices} matrices {found.name}" for found in low_bit.sets)
    words = (
        f"the blocks are low-bit ({found}) and the references are float: where one beats this network, the price of "
        "the bits may be why; that none does says all the more"
    )
    return (words,)


def rank_warnings(schedules: Sequence[ScheduleResult]) -> tuple[str, ...]:
    """Which reference blocks the fit tokens don't determine."""
    short = {
        fit.layer: (fit.rank, fit.unknowns)
        for schedule in schedules
        for fit in schedule.blocks
        if fit.rank is not None and fit.unknowns is not None and fit.rank < fit.unknowns
    }
    if not short:
        return ()
    layer, (rank, unknowns) = min(short.items(), key=lambda item: item[1][0] / item[1][1])
    words = (
        f"the fit tokens leave directions of {len(short)} reference blocks undetermined, which stay as trained: of "
        f"layer {layer} they determine {rank} of {unknowns}; more --tokens determine more"
    )
    return (words,)
