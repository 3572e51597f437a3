"""The words on two checkpoints."""

from __future__ import annotations

import dataclasses

import pytest

from peelaudit.auditing.contrast import findings, headline
from peelaudit.records import Estimate
from peelaudit.records.difference import ChangeKind, PartKind, PartRow, SettingChange, Swapped, TensorChange
from tests.factories import make_estimate

NOTHING = Estimate(0.0, 0.0, 0.0)


def part(
    layer: int, cost: float = 0.1, *, weights: float = 0.1, otherwise: bool = False, same: bool = False
) -> PartRow:
    figure = NOTHING if same else make_estimate(cost, 0.01)
    return PartRow(PartKind.BLOCK, layer, same, otherwise, weights, figure, figure, figure, None)


def swapped(whole: float, singles: float) -> Swapped:
    return Swapped(
        10, 10, 10, make_estimate(whole, 0.01), make_estimate(singles, 0.01), make_estimate(whole - singles, 0.01)
    )


ROWS = (part(1), part(2, 0.4, weights=0.2), part(3))


def test_the_same_network() -> None:
    words = headline(NOTHING, Swapped(9, 9, 9, NOTHING, NOTHING, NOTHING), (part(1, same=True),), (), ())
    assert words == "the same network: all weights are the same, and what is computed of them"


def test_a_part_and_its_share() -> None:
    words = headline(make_estimate(0.6, 0.05), swapped(0.6, 0.6), ROWS, (1,), ())
    assert words == (
        "NEW's loss is 0.6000 nats/token (0.5500 to 0.6450) above BASE's; block 2 alone costs +0.4000 "
        "(+0.3900..+0.4090), 67 % of that"
    )
    assert "all of that" in headline(make_estimate(0.4), swapped(0.4, 0.4), ROWS, (1,), ())


def test_a_loss_that_falls_and_one_that_cannot_be_told() -> None:
    assert "0.3000 nats/token (0.2550 to 0.3500) below BASE's" in headline(
        make_estimate(-0.3), swapped(-0.3, -0.3), ROWS, (1,), ()
    )
    told = headline(make_estimate(0.01), swapped(0.01, 0.01), ROWS, (1,), ())
    assert told.startswith("NEW's loss can't be told from BASE's, +0.0100 (-0.0400..+0.0550) nats/token")
    assert "%" not in told


def test_where_none_stands_out_the_one_that_does_most() -> None:
    words = headline(make_estimate(0.6), swapped(0.6, 0.6), ROWS, (), ())
    assert "no part stands out; block 2 moves BASE's predictions most, and costs +0.4000" in words


def test_a_part_whose_cost_cannot_be_told_is_named_by_the_predictions() -> None:
    rows = (part(1), dataclasses.replace(part(2, 0.4), in_base=make_estimate(-0.005, 0.01)), part(3))
    words = headline(make_estimate(0.6), swapped(0.6, 0.6), rows, (1,), ())
    assert "block 2 moves BASE's predictions most, KL 0.4000, at a cost that can't be told from 0, -0.0050" in words
    assert "%" not in words
    assert "block 2 and block 1 stand out; block 2 moves" in headline(
        make_estimate(0.6), swapped(0.6, 0.6), rows, (1, 0), ()
    )


def test_several_are_listed_and_of_many_the_first() -> None:
    rows = tuple(part(layer, 0.4) for layer in range(1, 8))
    words = headline(make_estimate(0.6), swapped(0.6, 0.6), rows, (2, 1), ())
    assert "block 3 and block 2 stand out; block 3 alone costs" in words
    words = headline(make_estimate(0.6), swapped(0.6, 0.6), rows, (2, 1, 0, 3, 4), ())
    assert "block 3, block 2, block 1 and 2 more stand out" in words


def test_the_weights_that_are_changed_most() -> None:
    words = headline(make_estimate(0.6), swapped(0.6, 0.6), ROWS, (), (1,))
    assert "the weights of block 2 are changed most, by 20.0%, where 10.0% is usual" in words


@pytest.mark.parametrize(("whole", "singles", "told"), [(0.6, 0.1, True), (-0.2, 0.1, True), (0.6, 0.5, False)])
def test_what_the_parts_do_together(whole: float, singles: float, told: bool) -> None:
    words = headline(make_estimate(whole), swapped(whole, singles), ROWS, (1,), ())
    assert (f"{whole - singles:+.4f} is what the parts do together, and none alone" in words) is told


def change(within: str, kind: ChangeKind, *layers: int, size: float = 1.0, constant: float | None = None):
    return [TensorChange(f"model.layers.{layer}.{within}", layer, within, kind, size, constant) for layer in layers]


def test_tensors_of_one_kind_and_the_same_blocks_are_one_sentence() -> None:
    tensors = [
        *change("k_proj.weight", ChangeKind.PAIRED, 1, 2, 3, 5),
        *change("q_proj.weight", ChangeKind.PAIRED, 1, 2, 3, 5),
        *change("v_proj.weight", ChangeKind.PAIRED, 2),
    ]
    first, second = findings(tensors, (), ROWS)
    assert first.startswith("k_proj.weight and q_proj.weight of blocks 1–3, 5: the rows are BASE's in another order")
    assert second.startswith("v_proj.weight of block 2: ")


def test_constants_are_told_apart() -> None:
    norm = TensorChange("model.norm.weight", None, "model.norm.weight", ChangeKind.SHIFTED, 1.0, -0.5)
    tensors = [
        *change("norm.weight", ChangeKind.SHIFTED, 1, 2, constant=1.0001),
        norm,
        *change("o_proj.weight", ChangeKind.SCALED, 2, constant=1.4142),
    ]
    assert findings(tensors, (), ROWS) == (
        "norm.weight of blocks 1–2: BASE's plus 1 (some formats keep norms plus one)",
        "model.norm.weight: BASE's less 0.5",
        "o_proj.weight of block 2: BASE's times 1.41",
    )


@pytest.mark.parametrize("kind", [kind for kind in ChangeKind if kind is not ChangeKind.CHANGED])
def test_every_kind_has_its_words(kind: ChangeKind) -> None:
    (words,) = findings(change("x.weight", kind, 1, constant=2.0), (), ROWS)
    assert len(words) > 20


@pytest.mark.parametrize(("size", "words"), [(0.0, "the same values"), (1.0, "other values")])
def test_a_head_of_its_own(size: float, words: str) -> None:
    head = TensorChange("lm_head.weight", None, "lm_head.weight", ChangeKind.UNTIED, size)
    (told,) = findings([head], (), ROWS)
    assert told == f"lm_head.weight: tied to the embedding in BASE, a matrix of its own with {words} in NEW"
    (told,) = findings([dataclasses.replace(head, kind=ChangeKind.TIED)], (), ROWS)
    assert told == f"lm_head.weight: tied to the embedding in NEW, a matrix of its own with {words} in BASE"


def test_a_little_everywhere_is_no_finding() -> None:
    tensors = [*change("a.weight", ChangeKind.CHANGED, 1), *change("c.weight", ChangeKind.TRANSPOSED, 2)]
    assert findings(tensors, (), ROWS) == ("c.weight of block 2: BASE's, transposed",)


def test_of_very_many_findings_the_first() -> None:
    tensors = [one for layer in range(1, 30) for one in change(f"{layer}.weight", ChangeKind.UNRELATED, layer)]
    told = findings(tensors, (), ROWS)
    assert len(told) == 10
    assert told[-1] == "20 more findings on tensors"


def test_the_configuration_comes_first() -> None:
    rows = (part(1, otherwise=True), part(2, otherwise=True), part(3))
    norm = dataclasses.replace(part(1, otherwise=True), part=PartKind.NORM, layer=None)
    setting = SettingChange("rope_theta", "10000", "500000")
    first, _ = findings(change("c.weight", ChangeKind.TRANSPOSED, 2), (setting,), (*rows, norm))
    assert first == (
        "configuration: rope_theta is 500000 in NEW and 10000 in BASE; with the same weights blocks 1–2 and the final "
        "norm would compute something else"
    )
