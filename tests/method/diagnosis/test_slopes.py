"""Slopes are the loss's real derivatives, and the disturbed layer's is the one that stands out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from peelaudit import audit
from peelaudit.auditing.faults import damaged
from peelaudit.auditing.prepare import held_decoder, prepared
from peelaudit.method.diagnosis.outliers import BulkSlopes, ScaleSlopes, Yardstick, standing_out
from peelaudit.method.diagnosis.slopes import block_slopes
from peelaudit.method.linalg.spectrum import leading
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.method.refinement.downstream import BlockSlopes, Downstream
from peelaudit.method.statistics.panel import Panel
from peelaudit.network.states import StateStore, TokenRows, trained_states
from peelaudit.network.weights import check_weights
from peelaudit.records import FaultKind
from peelaudit.settings.audit import AuditConfig
from tests.checkpoints import models
from tests.method.refinement.support import downstream, loss_with
from tests.networks import Network
from tests.places import FIXTURES


def bulk(weight: torch.Tensor) -> torch.Tensor:
    """What is left of a matrix without its leading sixteenth."""
    found = leading(weight, math.ceil(min(weight.shape) / 16))
    return weight - (found.u * found.s) @ found.v.T


# BitNet rounds its activations, so that its gradient is a straight-through one that differences don't see.
@pytest.mark.parametrize("family", models.families("bitnet"))
def test_slopes_are_those_of_finite_differences(network: Callable[..., Network], family: str) -> None:
    made = network(family, changes=models.SMOOTH.get(family, {}))
    rows = made.rows.held_out
    found = block_slopes(downstream(made), made.states, rows)
    step = 1e-6 if family == "opt" else 3e-4
    for layer, slopes in enumerate(found, 1):
        block = made.decoder.block(layer)
        assert slopes is not None
        for slope, share in ((slopes.scale, lambda weight: weight), (slopes.bulk, bulk)):
            sides = []
            for scale in (step, -step):
                changes = {}
                for path, linear in block.linears().items():
                    weight = linear.turned(share(linear.weight))
                    # The last row is the bias's, where there is one: it stays.
                    rest = torch.zeros(int(linear.biased), weight.shape[1], dtype=weight.dtype)
                    changes[path] = torch.cat([scale * weight, rest])
                sides.append(loss_with(made, block.changed(changes), rows))
            np.testing.assert_allclose(slope, (sides[0] - sides[1]) / (2 * step), rtol=1e-2, atol=0.02)


def test_a_gradient_that_is_not_finite_leaves_layers_without_a_slope(network: Callable[..., Network]) -> None:
    made = network("llama")
    block = made.decoder.block(2).copy()
    torch.nn.init.constant_(block.writers[1].weight, float("nan"))
    data = TokenRows(made.tokens, made.rows)
    decoder = made.decoder.replacing(block)
    down = Downstream(decoder, data, Readout("own", Unembedding.of(decoder)), StateStore(dtype=torch.float64))
    assert block_slopes(down, made.states, made.rows.held_out) == (None, None)


def slopes_of(name: str, kind: FaultKind, sick_layer: int) -> tuple[Panel, list[BlockSlopes]]:
    """Of a fixture with a fault in a layer, 0 for none."""
    with prepared(AuditConfig(checkpoint=str(FIXTURES / name), tokens=8192)) as opened:
        decoder, _ = held_decoder(opened, check_weights(opened.checkpoint))
        data, calibration = TokenRows.of(opened.calibration), opened.calibration
        panel = Panel.of(
            {split: getattr(calibration, split).clusters for split in ("fit", "select", "held_out")},
            data.tokens.shape[1],
            resamples=200,
            seed=0,
        )
        if sick_layer:
            heads = opened.checkpoint.info.heads
            decoder = decoder.replacing(
                damaged(decoder.block(sick_layer), kind, heads=heads, seed=sick_layer, amount=1.0)
            )
        states = trained_states(decoder, data.tokens, StateStore())
        down = Downstream(decoder, data, Readout("own", Unembedding.of(decoder)), StateStore())
        whole = []
        for found in block_slopes(down, states, data.rows.held_out):
            assert found is not None
            whole.append(BlockSlopes(np.zeros(len(data.tokens)), np.zeros(len(data.tokens))))
            for all_rows, own in zip(whole[-1], found, strict=True):
                all_rows[data.rows.held_out] = own
        return panel, whole


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [("llama", FaultKind.ONE_BIT, {"scale"}), ("nanogpt/ckpt.pt", FaultKind.NOISED, {"scale", "bulk"})],
)
def test_the_slope_of_a_disturbed_layer_stands_out_most(name: str, kind: FaultKind, wanted: set[str]) -> None:
    """Rounding weakens what the Llama fixture's blocks say. Noise as large as the weights is in the bulk, too."""
    for sick_layer in (0, 3, 4):
        panel, found = slopes_of(name, kind, sick_layer)
        yardsticks: dict[str, Yardstick] = {
            "scale": ScaleSlopes(panel, [one.scale for one in found]),
            "bulk": BulkSlopes(panel, [one.bulk for one in found]),
        }
        if sick_layer:
            assert {key for key, of in yardsticks.items() if int(np.argmax(of.sizes)) + 1 == sick_layer} >= wanted
        else:
            assert not any(standing_out(of) for of in yardsticks.values())


def test_every_layer_of_a_report_has_its_slopes_with_intervals() -> None:
    report = audit(str(FIXTURES / "nanogpt" / "ckpt.pt"), tokens=4096, effort="quick")
    for row in report.layers:
        for slope in (row.scale_slope, row.bulk_slope):
            assert slope is not None
            assert slope.low < slope.value < slope.high
        assert not row.symptoms
