"""Settings of single layers: GPTQModel's `dynamic`, which has regular expressions of names and what they change.

No expression is matched, as a hostile one takes for ever: a layer's own shapes say which of the settings it was packed
by, and one that several fit is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from peelaudit.checkpoints.quantized.method import Layout, Settings, StoredModule
from peelaudit.errors import MismatchedWeights

__all__ = ["layout_that_fits", "variants"]

Kind = TypeVar("Kind")
_LEFT_OUT = "-:"
"""What begins the expression of layers that aren't packed."""
_KNOWN = frozenset(
    {"bits", "group_size", "desc_act", "sym", "pack_dtype", "mse", "damp_percent", "damp_auto_increment"}
    | {"act_group_aware", "static_groups", "hyb_act"}
)


def variants(settings: Settings) -> tuple[Settings, ...]:
    """The settings themselves, and with what each entry of `dynamic` changes.

    Raises:
        UnsupportedCheckpoint: an entry changes something else than how a layer is packed.
        MalformedCheckpoint: `dynamic` or an entry of it isn't an object.
    """
    found = settings.values.get("dynamic") or {}
    if not isinstance(found, dict):
        raise settings.malformed("dynamic isn't a JSON object")
    every = [settings]
    for pattern, changes in found.items():
        if pattern.startswith(_LEFT_OUT):
            continue
        if not isinstance(changes, dict):
            raise settings.malformed("an entry of dynamic isn't a JSON object")
        settings.refuse_unknown(changes, _KNOWN)
        every.append(Settings({**settings.values, **changes}, settings.method, settings.subject))
    return tuple(every)


def layout_that_fits(
    module: StoredModule, kinds: Iterable[Kind], layout: Callable[[StoredModule, Kind], Layout]
) -> Layout:
    """The layout of a layer by the one of several ways to pack it that its tensors fit.

    Raises:
        MismatchedWeights: they fit none, or several that would be other matrices.
    """
    first, *others = kinds
    if not others:
        return layout(module, first)
    found: set[Layout] = set()
    for kind in (first, *others):
        try:
            found.add(layout(module, kind))
        except MismatchedWeights:
            continue
    if len(found) != 1:
        many = "several" if found else "none"
        raise module.mismatched(f"its tensors fit {many} of the widths and groups that the quantization_config has")
    return found.pop()
