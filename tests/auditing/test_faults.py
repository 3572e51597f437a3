"""Planted faults do what they say, to a copy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from peelaudit.auditing.faults import damaged
from peelaudit.network.block import Block
from peelaudit.network.lowbit.constraints import Ternary
from peelaudit.records import FaultKind, ScaleLayout
from tests.checkpoints import models
from tests.networks import Network

Opener = Callable[..., Network]
OF_EXPERTS = (FaultKind.EXPERT_REINITIALISED, FaultKind.ROUTER_REINITIALISED)
PLANTED = [kind for kind in FaultKind if kind not in (FaultKind.ROLLED_BACK, *OF_EXPERTS)]


def matrices(block: Block) -> dict[str, torch.Tensor]:
    return {path: linear.weight.detach().clone() for path, linear in block.linears().items()}


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi", "gpt_oss", "qwen2_moe"])
def test_a_fault_changes_a_copy_the_same_way_every_time(network: Opener, family: str) -> None:
    made = network(family)
    block = made.decoder.block(1)
    before = block.digest()
    for kind in (*PLANTED, *OF_EXPERTS) if family in models.MIXTURES else PLANTED:
        one, again = (damaged(block, kind, heads=4, seed=5) for _ in range(2))
        assert block.digest() == before, kind
        assert one.digest() == again.digest() != before, kind
        assert torch.isfinite(one(made.states[0])).all(), kind


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_fault_touches_what_it_names(network: Opener, family: str) -> None:
    block = network(family).decoder.block(1)
    old = matrices(block)
    names = [writer.path for writer in block.writers]

    def changed(kind: FaultKind) -> dict[str, torch.Tensor]:
        new = matrices(damaged(block, kind, heads=4, seed=5))
        return {path: weight for path, weight in new.items() if not torch.equal(weight, old[path])}

    for kind, name in zip((FaultKind.ATTENTION_ZEROED, FaultKind.MLP_ZEROED), names, strict=True):
        assert changed(kind).keys() == {name}
        assert not changed(kind)[name].any()
    for kind in (FaultKind.REINITIALISED, FaultKind.NOISED, FaultKind.ONE_BIT):
        assert changed(kind).keys() == old.keys()
    for path, weight in changed(FaultKind.REINITIALISED).items():
        assert float(weight.std() / old[path].std()) == pytest.approx(1, rel=0.2)
    for path, weight in changed(FaultKind.NOISED).items():
        assert float((weight - old[path]).std() / old[path].std()) == pytest.approx(0.3, rel=0.2)
    for path, weight in changed(FaultKind.ONE_BIT).items():
        by_output = weight.T if family == "gpt2" else weight
        assert all(len(row.abs().unique()) == 1 for row in by_output)
        assert torch.equal(weight.sign(), old[path].sign())
    scrambled = changed(FaultKind.HEAD_SCRAMBLED)
    assert scrambled.keys() == {names[0]}
    moved = (scrambled[names[0]] != old[names[0]]).any(dim=1 if family == "gpt2" else 0).nonzero().flatten()
    assert 1 < len(moved) <= 8
    assert moved[0] // 8 == moved[-1] // 8
    assert torch.equal(scrambled[names[0]].flatten().sort().values, old[names[0]].flatten().sort().values)


@pytest.mark.parametrize("family", models.MIXTURES)
def test_faults_of_experts_touch_one_of_them_or_the_router(network: Opener, family: str) -> None:
    block = network(family).decoder.block(2)
    old = matrices(block)
    touched = []
    for kind in OF_EXPERTS:
        new = matrices(damaged(block, kind, heads=4, seed=5))
        touched.append({path for path, weight in new.items() if not torch.equal(weight, old[path])})
    expert, router = touched
    (number,) = {path.rpartition(".")[2] for path in expert}
    assert expert == {path for path in old if ".experts." in path and path.endswith(f".{number}")}
    assert router == {"mlp.router" if family == "gpt_oss" else "mlp.gate"}
    mlp = matrices(damaged(block, FaultKind.MLP_ZEROED, heads=4, seed=5))
    assert {path for path, weight in mlp.items() if not weight.any()} == {one.path for one in block.writers[1:]}


@pytest.mark.parametrize("kind", OF_EXPERTS)
def test_faults_of_experts_change_nothing_where_there_are_none(network: Opener, kind: FaultKind) -> None:
    block = network("llama").decoder.block(1)
    assert damaged(block, kind, heads=4, seed=5).digest() == block.digest()


def test_one_bit_of_ternary_weights_has_no_zeros(network: Opener) -> None:
    block = network("llama", bits=Ternary(ScaleLayout.TENSOR)).decoder.block(1)
    assert all(bool((weight == 0).any()) for weight in matrices(block).values())
    old = matrices(block)
    for path, weight in matrices(damaged(block, FaultKind.ONE_BIT, heads=4, seed=5)).items():
        assert len(weight.abs().unique()) == 1
        zeros = old[path] == 0
        assert torch.equal(weight.sign()[~zeros], old[path].sign()[~zeros])
        assert 0.3 < float((weight[zeros] > 0).double().mean()) < 0.7


def test_rolling_back_takes_another_checkpoint(network: Opener) -> None:
    with pytest.raises(ValueError, match="earlier checkpoint"):
        damaged(network("llama").decoder.block(1), FaultKind.ROLLED_BACK, heads=4, seed=0)
