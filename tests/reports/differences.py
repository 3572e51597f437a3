"""Differences of two checkpoints, without any."""

from __future__ import annotations

import dataclasses

from peelaudit.records import Estimate
from peelaudit.records.difference import Difference, PartKind, PartRow, Swapped
from tests.factories import make_checkpoint, make_data, make_estimate

NOTHING = Estimate(0.0, 0.0, 0.0)


def part(layer: int | None, cost: float | None, kind: PartKind = PartKind.BLOCK, *, total: float = 0.0) -> PartRow:
    """One that is the same where it has no cost."""
    known = 0.0 if cost is None else cost
    in_base, in_new = (NOTHING if cost is None else make_estimate(one, 0.01) for one in (known, 2 * known))
    return PartRow(
        part=kind,
        layer=layer,
        same=cost is None,
        otherwise=False,
        weights=0.0 if cost is None else 0.12,
        in_base=in_base,
        kl=Estimate(abs(known), abs(known), abs(known)),
        in_new=in_new,
        so_far=make_estimate(total, 0.01),
    )


def difference(costs: list[float | None], **changes: object) -> Difference:
    total = sum(cost or 0 for cost in costs)
    rows = [part(None, None, PartKind.TIED)]
    rows += [part(layer, cost, total=sum(c or 0 for c in costs[:layer])) for layer, cost in enumerate(costs, 1)]
    rows += [part(None, None, PartKind.NORM, total=total)]
    found = Difference(
        versions=(("peelaudit", "0"),),
        base=make_checkpoint(len(costs), path="base.gguf"),
        new=make_checkpoint(len(costs), path="new"),
        data=make_data(),
        settings=(("tokens", 4096),),
        base_loss=make_estimate(3.0),
        new_loss=make_estimate(3.0 + total),
        whole=make_estimate(total, 0.01),
        kl=make_estimate(0.3, 0.01),
        swapped=Swapped(16, 16, 15, make_estimate(total, 0.01), make_estimate(total, 0.01), make_estimate(0.0, 0.01)),
        rows=tuple(rows),
        tensors=(),
        same_tensors=3,
        configuration=(),
        named=(2,),
        changed=(),
        headline="NEW's loss is above BASE's",
        findings=("o_proj.weight of block 2: BASE's, transposed",),
        warnings=(),
        passes=(("swap the blocks", 6.0),),
        timings=(("swap the blocks", 1.0),),
    )
    return dataclasses.replace(found, **changes)  # type: ignore[arg-type]
