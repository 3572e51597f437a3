"""Every part of an audit on a pretend device: nothing is left on the CPU that meets something there.

The same as on the CPU but for attention, which is in plain products there.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.gpu.networks import FAMILIES, opened, save_model
from bench.gpu.parts import Case, cases, relative
from peelaudit.auditing.faults import damaged
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.method.refinement.files import load_block, load_head, save_block, save_head
from peelaudit.records import FaultKind
from tests.places import NANOGPT
from tests.pretend import pretend

CPU = torch.device("cpu")
NAMES = [
    case.name
    for case in cases(dict.fromkeys(FAMILIES, Path()), Path())
    if not case.name.startswith("gaps by curvature")
]
"""All but the parts with forward-mode derivatives: torch crashes where one is of a tensor that stands for another."""
SLOW = (
    *("adam", "refit, trained", "int4", "ridge, ternary", "step, ternary", "refined, ternary"),
    *("peel map, trained", "slopes, trained", "looks, trained", "temperature, trained", "step, trained"),
    *("matrices rounded, gemma3_text", "matrices rounded, gpt2", "matrices rounded, phi"),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder: Path = tmp_path_factory.mktemp("models")
    models = {family: save_model(family, folder / family) for family in FAMILIES}
    return {case.name: case for case in cases(models, NANOGPT / "ckpt.pt")}


# ---- The double is as strict as a GPU ----


@pytest.mark.parametrize(
    "mistake",
    [
        lambda there: there + torch.ones(3),
        lambda there: torch.cat([there, torch.zeros(1)]),
        lambda there: torch.ones(3)[there.long()],
        lambda there: torch.where(torch.ones(3) > 0, there, 0.0),
        lambda there: torch.nn.functional.linear(there, torch.ones(2, 3)),
        lambda there: there.numpy(),
        lambda there: there.addmm_(torch.ones(3, 3), there[None]),
    ],
)
def test_a_tensor_here_and_one_there_are_an_error(mistake: object) -> None:
    with pretend() as device, pytest.raises((RuntimeError, TypeError)):
        mistake(torch.zeros(3, device=device))  # type: ignore[operator]


def test_what_a_gpu_allows_is_allowed() -> None:
    with pretend() as device:
        there = torch.arange(4.0, device=device)
        assert there.device.type == "pretend"
        assert float((there * torch.tensor(2.0))[torch.tensor([3])]) == 6  # a number here, and an index here
        here = torch.zeros(4)
        here.copy_(there)
        assert torch.equal(here, there.cpu())
        there[1:] = here[:3].to(there)
        assert there.cpu().tolist() == [0, 0, 1, 2]


# ---- An audit on it ----


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if any(map(name.__contains__, SLOW)) else ()) for name in NAMES]
)
def test_a_part_comes_to_the_same_there(name: str, found: dict[str, Case]) -> None:
    here = found[name].values(CPU, torch.float32)
    with pretend() as device:
        there = found[name].values(device, torch.float32)
    assert relative(there, here) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_bfloat16_no_part_meets_another_device(name: str, found: dict[str, Case]) -> None:
    with pretend() as device:
        assert found[name].values(device, torch.bfloat16).size


OF_OTHERS = (FaultKind.ROLLED_BACK, FaultKind.EXPERT_REINITIALISED, FaultKind.ROUTER_REINITIALISED)
"""Faults that take an earlier checkpoint or a mixture."""


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind not in OF_OTHERS])
def test_a_fault_is_planted_there(kind: FaultKind, found: dict[str, Case]) -> None:
    with pretend() as device, opened(found["states, gpt2"].path, device, torch.float32) as network:
        healthy = network.decoder.block(2)
        assert damaged(healthy, kind, heads=4, seed=0).digest() != healthy.digest()


def test_a_refined_block_and_its_head_are_saved_and_read_there(found: dict[str, Case], tmp_path: Path) -> None:
    path = found["states, llama"].path
    with opened(path, CPU, torch.float32) as network:
        digest, weight = network.decoder.block(1).digest(), network.decoder.head.weight.clone()
    with pretend() as device, opened(path, device, torch.float32) as network:
        save_block(tmp_path, network.decoder, network.decoder.block(1), {"gap": "0.5"})
        loaded = load_block(tmp_path, network.decoder, 1)
        assert next(loaded.module.parameters()).device.type == "pretend"
        assert loaded.digest() == digest
        own = Readout("own", Unembedding.of(network.decoder))
        save_head(tmp_path, network.decoder, own)
        head = load_head(tmp_path, network.decoder, own).unembedding.weight
        assert head.device.type == "pretend"
        assert torch.equal(head.cpu(), weight)
