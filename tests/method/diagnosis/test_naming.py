"""Looks, slopes and gaps put together: who is named, and who isn't for another's sake."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from peelaudit.method.diagnosis.examine import Examination, LayerGains
from peelaudit.method.diagnosis.naming import name_layers
from peelaudit.method.refinement.downstream import BlockSlopes
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.records import LayerRefinement, LayerSigns, Symptom

PANEL = Panel.of(
    {"fit": np.arange(3), "select": np.arange(3), "held_out": np.arange(40)}, positions=11, resamples=500, seed=0
)
HEALTHY = LayerSigns(1.0, 1.0, 99.0)
N = 9


def losses(mean: float, seed: int) -> Losses:
    """[sequences] nats of this mean, nats/token."""
    return 10 * mean + 0.3 * np.random.default_rng(seed).normal(size=46)


def examined(bulk: dict[int, float], scale: dict[int, float], n_layers: int = N) -> Examination:
    """Of healthy looks, no block refined; the slopes of the other layers are 0."""
    slopes = tuple(
        BlockSlopes(losses(scale.get(layer, 0.0), layer), losses(bulk.get(layer, 0.0), 100 + layer))
        for layer in range(1, n_layers + 1)
    )
    digests = tuple(map(str, range(n_layers)))
    return Examination(PANEL, losses(2.0, 0), digests, (HEALTHY,) * n_layers, slopes, (), (), (), None)


def sick(found: tuple[tuple[Symptom, ...], ...]) -> dict[int, tuple[Symptom, ...]]:
    return {layer: symptoms for layer, symptoms in enumerate(found, 1) if symptoms}


@pytest.mark.parametrize(
    ("bulk", "scale", "named"),
    [
        ({}, {}, {}),
        ({3: 0.8}, {}, {3: Symptom.NOISY}),
        ({3: -0.8}, {}, {}),
        ({}, {3: -0.8}, {3: Symptom.MISSCALED}),
        # One symptom a layer, and none next to a noisy one, whose neighbours the loss would have louder.
        ({3: 0.8}, {3: 0.8, 4: -0.4}, {3: Symptom.NOISY}),
        ({3: 0.8}, {7: -0.8}, {3: Symptom.NOISY, 7: Symptom.MISSCALED}),
        # Layer 4 is barred, and takes nobody's place.
        ({3: 0.8}, {4: -0.8, 5: -0.7}, {3: Symptom.NOISY, 5: Symptom.MISSCALED}),
    ],
)
def test_slopes_name_layers(bulk: dict[int, float], scale: dict[int, float], named: dict[int, Symptom]) -> None:
    naming = name_layers(examined(bulk, scale))
    assert sick(naming.symptoms) == {layer: (symptom,) for layer, symptom in named.items()}
    assert naming.named == tuple(named)
    assert naming.refinement is None
    assert naming.gaps == (None,) * N


def test_a_look_comes_before_all_slopes() -> None:
    signs = (*(HEALTHY,) * (N - 1), dataclasses.replace(HEALTHY, spectral_excess=1.0))
    naming = name_layers(dataclasses.replace(examined({3: 0.8}, {3: 0.8}), signs=signs))
    assert sick(naming.symptoms) == {N: (Symptom.UNTRAINED,)}
    assert list(np.argsort(-naming.suspicion)[:2] + 1) == [N, 3]


@pytest.mark.parametrize(("untrained", "told"), [(None, True), (2, False), (4, False), (6, True)])
def test_a_router_is_at_chance_for_itself_only_below_what_looks_ill(untrained: int | None, told: bool) -> None:
    knows, guesses = np.full(46, 0.1), np.full(46, 0.1)
    guesses[6 + 4 :: 9] = -1.0  # of nine shares of *held-out* it loses on one
    routings = tuple(guesses if layer == 4 else knows for layer in range(1, N + 1))
    ill = dataclasses.replace(HEALTHY, spectral_excess=1.0)
    signs = tuple(ill if layer == untrained else HEALTHY for layer in range(1, N + 1))
    found = name_layers(dataclasses.replace(examined({}, {}), signs=signs, routings=routings)).symptoms
    assert (Symptom.ROUTER_AT_CHANCE in found[3]) == told
    assert sum(map(len, found)) == told + (untrained is not None)


def gained(gaps: dict[int, float], rest: float = 0.0, *, low_bit: bool = False, first_step: bool = False) -> LayerGains:
    """Of these layers; the others gain `rest`."""
    gains = tuple(losses(gaps.get(layer, rest), layer) for layer in range(1, N + 1))
    return LayerGains(gains, (0.0,) * N, (1,) * N, (0,) * N, 5.0, low_bit, first_step)


def test_what_has_no_slope_is_judged_by_gaps_alone() -> None:
    found = dataclasses.replace(examined({3: 0.8}, {}), gains=gained({6: 0.5}))
    naming = name_layers(dataclasses.replace(found, slopes=(None, *found.slopes[1:])))
    assert sick(naming.symptoms) == {}
    assert naming.slopes[0] == {}
    assert set(naming.slopes[2]) == {Symptom.NOISY, Symptom.MISSCALED}
    assert naming.named == (6,)
    assert naming.refinement == LayerRefinement((1,) * N, (0,) * N, 5.0, (6,), leading=(6,))
    assert int(np.argmax(naming.suspicion)) == 5
    assert name_layers(found).named == (3, 6)


def test_where_two_layers_have_the_same_weights_none_is_named_by_its_gap() -> None:
    digests = tuple("a" if layer in (3, 4) else str(layer) for layer in range(1, N + 1))
    found = dataclasses.replace(examined({5: 0.8}, {}), gains=gained({2: 0.5}))
    assert name_layers(found).named == (5, 2)
    naming = name_layers(dataclasses.replace(found, digests=digests))
    assert sick(naming.symptoms) == {3: (Symptom.SAME_WEIGHTS,), 4: (Symptom.SAME_WEIGHTS,)}
    assert naming.named == (3, 4)
    assert naming.refinement is not None
    assert not naming.refinement.judged


def test_gaps_are_estimates_on_held_out() -> None:
    gains = gained({6: 0.5, 3: -1.0})
    naming = name_layers(dataclasses.replace(examined({}, {}), gains=gains))
    found = [PANEL.estimate(gain, "held_out") for gain in gains.gains]
    assert [gap and (gap.value, gap.low) for gap in naming.gaps] == [(gap.value, gap.low) for gap in found]
    assert [gap and gap.high for gap in naming.gaps] == [max(gap.high, 0.0) for gap in found]
    assert found[2].high < 0


@pytest.mark.parametrize(("first_step", "named"), [(True, ()), (False, (6,))])
def test_low_bit_layers_are_named_for_more_than_a_step_alone(first_step: bool, named: tuple[int, ...]) -> None:
    gains = gained({6: 0.5}, low_bit=True, first_step=first_step)
    naming = name_layers(dataclasses.replace(examined({}, {}), gains=gains))
    assert naming.named == named
    assert naming.refinement is not None
    assert naming.refinement.judged == bool(named)


def test_one_step_of_float_layers_names_them() -> None:
    assert name_layers(dataclasses.replace(examined({}, {}), gains=gained({6: 0.5}, first_step=True))).named == (6,)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_few_layers_are_judged_without_a_spread(n_layers: int) -> None:
    naming = name_layers(examined({}, {}, n_layers))
    assert naming.named == ()
    assert naming.suspicion.shape == (n_layers,)


@pytest.mark.parametrize(("clusters", "named"), [(7, ()), (8, (3,))])
def test_few_clusters_name_no_layer_and_rank_them(clusters: int, named: tuple[int, ...]) -> None:
    splits = {"fit": np.arange(3), "select": np.arange(3), "held_out": np.arange(40) % clusters}
    panel = Panel.of(splits, positions=11, resamples=500, seed=0)  # type: ignore[arg-type]
    for bulk, scale in (({3: 0.8}, {}), ({}, {3: -0.8})):
        naming = name_layers(dataclasses.replace(examined(bulk, scale), panel=panel))
        assert naming.named == named
        assert np.argmax(naming.suspicion) == 2
    flat = dataclasses.replace(examined({}, {}), panel=panel)
    naming = name_layers(dataclasses.replace(flat, gains=gained({3: 2.0}, rest=0.1)))
    assert naming.named == named
    assert naming.refinement is not None
    assert naming.refinement.judged == bool(named)
    assert np.argmax(naming.suspicion) == 2
