"""What is said of a budget of bits: what it costs, and whether it is better than as many bits everywhere."""

from __future__ import annotations

from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.records import Estimate
from peelaudit.records.budget import Rounded

__all__ = ["everywhere", "headline"]


def everywhere(plan: tuple[int, ...]) -> str:
    """A plan that gives out bits evenly: `3 bits everywhere`, `3 or 4 bits in turns`."""
    widths = sorted(set(plan))
    return f"{widths[0]} bits everywhere" if len(widths) == 1 else f"{' or '.join(map(str, widths))} bits in turns"


def headline(chosen: Rounded, gain: Estimate, even: tuple[int, ...], *, same: bool) -> str:
    """Whether a budget is better than the same bits given out evenly.

    Args:
        chosen: the network that was found.
        gain: how much lower its loss is than that of the network with bits given out evenly.
        even: that one's bits.
        same: whether they are one.
    """
    own = chosen.cost
    cost = f"{chosen.bits:.2f} bits a weight cost {own.value:+.4f} nats/token ({own.low:+.4f}..{own.high:+.4f})"
    other = everywhere(even)
    if same:
        return f"{cost}: {other}, for no other way to give them out was found to move the predictions less"
    if gain.low > RESOLUTION:
        return f"{cost}, {gain.value:.4f} ({gain.low:.4f} to {gain.high:.4f}) less than {other}"
    if gain.high < -RESOLUTION:
        return f"{cost}, {-gain.value:.4f} ({-gain.high:.4f} to {-gain.low:.4f}) more than {other}: take those"
    words = "no less, as far as this text tells, than"
    return f"{cost}, {words} {other}: {gain.value:+.4f} ({gain.low:+.4f}..{gain.high:+.4f})"
