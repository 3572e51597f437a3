"""Scale slopes are the loss's real derivatives, and the disturbed layer's is the one that stands out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from peelaudit import audit
from peelaudit.auditing import held_decoder, prepared
from peelaudit.bounds import Panel
from peelaudit.config import AuditConfig
from peelaudit.decoder import FAMILIES
from peelaudit.downstream import Downstream
from peelaudit.faults import damaged
from peelaudit.hidden_states import StateStore, TokenRows, trained_states
from peelaudit.lowbit import Grids
from peelaudit.outliers import Slopes, standing_out
from peelaudit.readout import Readout, Unembedding
from peelaudit.records import FaultKind
from peelaudit.repair import changed
from peelaudit.scale_slopes import scale_slopes
from tests.networks import Network
from tests.test_repair import downstream, loss_with

FIXTURES = Path(__file__).parent.parent / "fixtures"


# BitNet rounds its activations, so that its gradient is a straight-through one that differences don't see.
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"bitnet"}))
def test_slopes_are_those_of_finite_differences(network: Callable[..., Network], family: str) -> None:
    made = network(family)
    rows = made.rows.held_out
    found = scale_slopes(downstream(made), made.states, rows)
    step = 1e-6 if family == "opt" else 3e-4
    for layer, slopes in enumerate(found, 1):
        block = made.decoder.block(layer)
        assert slopes is not None
        sides = []
        for scale in (step, -step):
            changes = {}
            for path, linear in block.linears().items():
                weight: torch.Tensor = linear.weight  # type: ignore[assignment]
                weight = weight.T if isinstance(linear, torch.nn.Linear) else weight
                # The last row is the bias's, where there is one: it stays.
                rest = torch.zeros(int(block.has_bias(path)), weight.shape[1], dtype=weight.dtype)
                changes[path] = torch.cat([scale * weight, rest])
            sides.append(loss_with(made, changed(block, changes), rows))
        np.testing.assert_allclose(slopes, (sides[0] - sides[1]) / (2 * step), rtol=1e-2, atol=0.02)


def test_a_gradient_that_is_not_finite_leaves_layers_without_a_slope(network: Callable[..., Network]) -> None:
    made = network("llama")
    block = made.decoder.block(2).copy()
    torch.nn.init.constant_(block.writers[1].weight, float("nan"))  # type: ignore[arg-type]
    data = TokenRows(made.tokens, made.rows)
    decoder = made.decoder.replacing(block)
    down = Downstream(decoder, data, Readout("own", Unembedding.of(decoder)), StateStore(dtype=torch.float64))
    assert scale_slopes(down, made.states, made.rows.held_out) == (None, None)


@pytest.mark.parametrize(("name", "kind"), [("llama", FaultKind.ONE_BIT), ("llama-ternary", FaultKind.NOISED)])
@pytest.mark.parametrize("sick_layer", [3, 4])
def test_the_slope_of_a_disturbed_layer_is_the_farthest_from_zero(name: str, kind: FaultKind, sick_layer: int) -> None:
    with prepared(AuditConfig(checkpoint=str(FIXTURES / name), tokens=8192)) as opened:
        healthy, _ = held_decoder(opened, Grids(opened.checkpoint))
        data, calibration = TokenRows.of(opened.calibration), opened.calibration
        panel = Panel.of(
            {
                "fit": calibration.fit.clusters,
                "select": calibration.select.clusters,
                "held_out": calibration.held_out.clusters,
            },
            data.tokens.shape[1],
            resamples=200,
            seed=0,
        )

        def slopes(layer: int) -> Slopes:
            block = healthy.block(max(1, layer))
            sick = damaged(block, kind, heads=opened.checkpoint.info.heads, seed=layer) if layer else block
            decoder = healthy.replacing(sick)
            states = trained_states(decoder, data.tokens, StateStore())
            down = Downstream(decoder, data, Readout("own", Unembedding.of(decoder)), StateStore())
            whole = []
            for found in scale_slopes(down, states, data.rows.held_out):
                assert found is not None
                whole.append(np.zeros(len(data.tokens)))
                whole[-1][data.rows.held_out] = found
            return Slopes(panel, whole)

        assert standing_out(slopes(0)) == ()
        assert int(np.argmax(slopes(sick_layer).sizes)) + 1 == sick_layer


def test_every_layer_of_a_report_has_its_slope_with_an_interval() -> None:
    report = audit(str(FIXTURES / "nanogpt" / "ckpt.pt"), tokens=4096, schedules=("final",), readout="own")
    for row in report.layers:
        assert row.scale_slope is not None
        assert row.scale_slope.low < row.scale_slope.value < row.scale_slope.high
        assert not row.symptoms
