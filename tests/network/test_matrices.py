"""The matrices that can be rounded by themselves: which there are, their groups, and blocks with some rounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from peelaudit.network.matrices import group_of, matrices, rounded
from tests.networks import Network

Make = Callable[..., Network]
NAMES = {
    "llama": {
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    },
    "gpt2": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
    "mixtral": {
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.experts.{name}_proj" for name in ("gate_up", "down")),
    },
}


@pytest.mark.parametrize("family", NAMES)
def test_every_matrix_has_its_name_and_experts_share_theirs(network: Make, family: str) -> None:
    block = network(family).decoder.block(1)
    found = matrices(block)
    assert set(found) == NAMES[family]
    assert {name for name, maps in found.items() if len(maps) > 1} == {n for n in NAMES[family] if "experts" in n}
    assert all(len(maps) == 4 for name, maps in found.items() if "experts" in name)


def test_what_decides_on_experts_is_not_rounded(network: Make) -> None:
    block = network("mixtral").decoder.block(1)
    assert block.router is not None
    every = {one.path for maps in matrices(block).values() for one in maps}
    assert every == set(block.linears()) - {block.router.path}


@pytest.mark.parametrize(
    ("inputs", "wanted", "length"), [(64, 32, 32), (172, 32, 43), (48, 32, 24), (16, 32, 16), (31, 32, 31), (37, 4, 1)]
)
def test_groups_are_as_near_as_the_inputs_can_be_cut(inputs: int, wanted: int, length: int) -> None:
    assert group_of(inputs, wanted) == length


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("bits", [2, 4])
def test_what_is_rounded_has_so_many_values_a_group_and_the_rest_is_the_block_s(
    network: Make, family: str, bits: int
) -> None:
    block = network(family).decoder.block(1)
    name = next(name for name in matrices(block) if name.endswith(("o_proj", "attn.c_proj")))
    found = rounded(block, {name: bits}, 8)
    for path, one in found.linears().items():
        before = block.linears()[path].weight
        if path != name:
            assert torch.equal(one.weight, before)
            continue
        groups = one.turned(one.weight).T.reshape(one.outputs, -1, 8) if one.inputs_first else one.weight.reshape(-1, 8)
        assert max(len(group.unique()) for group in groups.reshape(-1, 8)) <= 2**bits
        assert 0 < (one.weight - before).abs().max() < before.abs().max()
    assert torch.equal(block.linears()[name].weight, network(family).decoder.block(1).linears()[name].weight)


def test_more_bits_are_nearer(network: Make) -> None:
    block = network("llama").decoder.block(1)
    (one,) = matrices(block)["mlp.up_proj"]
    off = [
        float((rounded(block, {"mlp.up_proj": bits}, 16).linears()[one.path].weight - one.weight).norm())
        for bits in (2, 3, 4, 5, 6, 8)
    ]
    assert off == sorted(off, reverse=True)
    assert off[-1] < off[0] / 50
