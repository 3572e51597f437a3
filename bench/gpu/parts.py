"""The parts of an audit on a device, each held to the same part in float64 on the CPU.

How far a result in a dtype may be off is measured, not guessed: the part is run in float64 once more with every weight
moved by at most one rounding of that dtype, twice, and the larger move of the result is what a dtype's roundings do
to it (its condition included: a part that chooses among candidates may choose another). A result may be `MANY` times
as far off, for roundings happen at every step and not in the weights alone, and no result is held to less than one
rounding. A product in TF32 in place of float32 is 8,000 roundings off. On a CPU no part was more than 9 times as far
off in float32 (slopes, for the singular vectors behind them are float32's too), or 3 times in bfloat16, where sums and
factorisations are in float32 at least.

Adam in bfloat16 is held to Adam in bfloat16 on the CPU: steps of less than half a rounding are lost, so that it comes
to something else than in float64, by more than its roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.gpu.networks import FAMILIES, Network, Nudge, opened
from bench.gpu.table import Check, Found, Skipped
from peelaudit.method.bits.trials import Trials, parts_of
from peelaudit.method.diagnosis.slopes import block_slopes
from peelaudit.method.diagnosis.symptoms import signs
from peelaudit.method.linalg.precision import exact_float32
from peelaudit.method.readouts.factory import ReadoutFactory
from peelaudit.method.readouts.shortlist import Nearby, held_words
from peelaudit.method.references.distances import squared_deviation
from peelaudit.method.references.peel import Peeler, projection_map
from peelaudit.method.references.schedules import prefix_tree, staircase
from peelaudit.method.references.solvers import SolverSettings
from peelaudit.method.refinement.downstream import Downstream
from peelaudit.method.refinement.reach import Reach
from peelaudit.method.refinement.refine import Refiner
from peelaudit.network.lowbit.constraints import Binary, Constraint, Integer, Ternary
from peelaudit.network.states import NO_TARGET, StateStore
from peelaudit.records import ScaleLayout
from peelaudit.settings.audit import ReadoutKind, SolverKind

__all__ = ["cases", "part_checks", "relative", "tf32_check"]

CPU = torch.device("cpu")
MANY = {torch.float32: 32.0, torch.bfloat16: 8.0}
SETS: dict[str, Constraint] = {
    "binary": Binary(),
    "ternary": Ternary(),
    "int4 in groups": Integer(ScaleLayout.GROUP, 16),
}
STEP, STEPS, CURVATURE = Reach(steps=1), Reach(steps=4), Reach(steps=0, products=3)

Values = NDArray[np.float64]
Part = Callable[[Network], Values]


def states(network: Network) -> Values:
    """The last hidden states."""
    return network.states[-1].double().cpu().numpy()


def solver(network: Network, kind: SolverKind) -> Values:
    """The errors on *select* of the blocks of the schedule `final`, over the target's spread."""
    settings = SolverSettings(kind, steps=24)
    n_layers = network.decoder.n_layers
    peeler = Peeler(network.decoder, network.states, network.data.rows, settings, _store(network))
    *_, leaf = peeler.peel(prefix_tree([staircase((), n_layers)]))
    return np.array([block.select_error for block in leaf.blocks])


def peel_map(network: Network) -> Values:
    """The errors of every block to every later state on *select*, over the state's spread."""
    rows = network.data.rows
    spread = [squared_deviation(state, rows.select) for state in network.states]
    found = projection_map(network.decoder, network.states, rows)
    return np.concatenate([row.select / spread[layer:] for layer, row in enumerate(found, 1)])


def readout(network: Network, kind: ReadoutKind) -> Values:
    """Each sequence's loss after the first block."""
    state, tokens = network.states[1], network.data.tokens
    factory = ReadoutFactory(network.decoder, network.data, network.states[-1], _store(network))
    return factory.fit(kind, state, kind).losses(state, tokens, torch.arange(len(tokens)), kind)


def nearby(network: Network) -> Values:
    """Each sequence's loss by a shortlist, of the last states and of others near them."""
    targets, state = network.data.tokens, network.states[-1]
    own = ReadoutFactory(network.decoder, network.data, state, _store(network)).own
    some = held_words(targets)[::2].contiguous()
    found = Nearby(own, state, _of(some, targets), some, _store(network))
    return np.stack([found.losses(state), found.losses(state + (network.states[1] - network.states[0]) / 16)])


def _of(words: Tensor, tokens: Tensor) -> Tensor:
    """The tokens that are among these words; nothing is to be predicted elsewhere."""
    return torch.where(torch.isin(tokens, words), tokens, NO_TARGET)


def slopes(network: Network) -> Values:
    """Each held-out sequence's, of every block, by scale and by bulk."""
    found = block_slopes(_downstream(network), network.states, network.data.rows.held_out)
    return np.array([(one.scale, one.bulk) for one in found if one is not None])


def alone(network: Network, reach: Reach) -> Values:
    """Each held-out sequence's loss with each block refined alone, the last first."""
    refiner = Refiner(_downstream(network), network.states, readout_of_last(network))
    return np.array([refiner.losses(refined, network.data.rows.held_out) for refined in refiner.each(reach)])


def together(network: Network, reach: Reach) -> Values:
    """Each held-out sequence's loss with all blocks refined at once."""
    refiner = Refiner(_downstream(network), network.states, readout_of_last(network))
    return refiner.losses(refiner.all(reach), network.data.rows.held_out)


def temperature(network: Network) -> Values:
    """Each sequence's loss under the own head with the temperature that its logits want."""
    state, tokens = network.states[-1], network.data.tokens
    factory = ReadoutFactory(network.decoder, network.data, state, _store(network))
    cooled = factory.own.unembedding.scaled(1 / factory.final_losses("the network").temperature)
    return replace(factory.own, unembedding=cooled).losses(state, tokens, torch.arange(len(tokens)), "the network")


def looks(network: Network) -> Values:
    """What each block shows by itself."""
    rows = network.data.rows.held_out
    blocks = [network.decoder.block(layer) for layer in range(1, network.decoder.n_layers + 1)]
    found = [signs(block, network.states[block.layer - 1], rows) for block in blocks]
    return np.array([(one.attention_rms, one.mlp_rms, one.spectral_excess) for one in found])


def rounded(network: Network) -> Values:
    """Each sequence's loss with a matrix of each block rounded alone, and with all of them."""
    parts = parts_of(network.decoder, 16)
    trials = Trials(network.decoder, parts, 16, network.data, _store(network))
    _, each = trials.alone(parts[0].name, 3)
    _, whole = trials.whole((4,) * len(parts))
    return np.array([*(one.losses for one in each.values()), whole.losses])


def readout_of_last(network: Network) -> Values:
    tokens, state = network.data.tokens, network.states[-1]
    own = ReadoutFactory(network.decoder, network.data, state, _store(network)).own
    return own.losses(state, tokens, torch.arange(len(tokens)), "own")


def _store(network: Network) -> StateStore:
    return StateStore(dtype=network.decoder.dtype, device=network.decoder.device, device_budget=1 << 30)


def _downstream(network: Network) -> Downstream:
    own = ReadoutFactory(network.decoder, network.data, network.states[-1], _store(network)).own
    return Downstream(network.decoder, network.data, own, _store(network))


@dataclass(frozen=True)
class Case:
    """A part on a network, which may be held to a low-bit set; `trains` says that it is Adam's."""

    name: str
    path: Path
    part: Part
    bits: Constraint | None = None
    trains: bool = False

    def values(self, device: torch.device, dtype: torch.dtype, nudge: Nudge | None = None) -> Values:
        with exact_float32(), opened(self.path, device, dtype, bits=self.bits, nudge=nudge) as network:
            return self.part(network)

    def check(self, device: torch.device, dtype: torch.dtype) -> Found:
        """The device's error beside what the dtype's roundings may do, and the CPU's own."""
        wide = dtype if self.trains and dtype == torch.bfloat16 else torch.float64
        if device == CPU and wide == dtype:
            raise Skipped("it would be held to itself")
        reference, size = _reference(self, wide), torch.finfo(dtype).eps
        moves = [relative(self.values(CPU, wide, Nudge(size, seed)), reference) for seed in (1, 2)]
        error = relative(self.values(device, dtype), reference)
        note = "" if device == CPU else f"the CPU's {relative(self.values(CPU, dtype), reference):.1e}"
        return Found(error, MANY[dtype] * max(size, *moves), note)


@cache
def _reference(case: Case, dtype: torch.dtype) -> Values:
    return case.values(CPU, dtype)


def relative(found: Values, reference: Values) -> float:
    """The norm of the difference over that of the reference; infinite where the shapes differ or a value is NaN."""
    if found.shape != reference.shape:
        return np.inf
    error = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
    return error if np.isfinite(error) else np.inf


def cases(models: dict[str, Path], trained: Path) -> Iterator[Case]:
    """Every part, most telling first.

    Args:
        models: tiny random ones by family.
        trained: a network that learnt something: on random ones some parts have nothing to find.
    """
    llama = models["llama"]
    for name in FAMILIES:
        yield Case(f"states, {name}", models[name], states)
        yield Case(f"ridge, {name}", models[name], partial(solver, kind="ridge"))
        yield Case(f"matrices rounded, {name}", models[name], rounded)
    for name, path in (("llama", llama), ("trained", trained)):
        for kind in ("own", "lens", "refit"):
            yield Case(f"readout {kind}, {name}", path, partial(readout, kind=kind))
        yield Case(f"nearby losses, {name}", path, nearby)
        yield Case(f"peel map, {name}", path, peel_map)
        yield Case(f"slopes, {name}", path, slopes)
        yield Case(f"looks, {name}", path, looks)
        yield Case(f"gaps by a step, {name}", path, partial(alone, reach=STEP))
        yield Case(f"temperature, {name}", path, temperature)
    for name, bits in SETS.items():
        yield Case(f"ridge, {name}", llama, partial(solver, kind="ridge"), bits)
    trained_by: tuple[SolverKind, ...] = ("adam", "ridge+adam")
    for kind in trained_by:
        yield Case(f"{kind}, llama", llama, partial(solver, kind=kind), trains=True)
        yield Case(f"{kind}, ternary", llama, partial(solver, kind=kind), SETS["ternary"], trains=True)
    yield Case("slopes, ternary", llama, slopes, SETS["ternary"])
    yield Case("gaps by a step, ternary", llama, partial(alone, reach=STEP), SETS["ternary"])
    yield Case("gaps by curvature, llama", llama, partial(alone, reach=CURVATURE))
    yield Case("refined, llama", llama, partial(together, reach=STEPS))
    yield Case("refined, ternary", llama, partial(together, reach=STEPS), SETS["ternary"])


def part_checks(models: dict[str, Path], trained: Path, device: torch.device) -> Iterator[Check]:
    """Each case in each dtype."""
    for case in cases(models, trained):
        for dtype in MANY:
            yield Check(case.name, device.type, str(dtype).removeprefix("torch."), partial(case.check, device, dtype))


def tf32_check(device: torch.device) -> Check:
    """A product of float32 matrices, which in TF32 would be 8,000 times as far off."""

    def run() -> Found:
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(512, 512, generator=generator, dtype=torch.float64) for _ in range(2))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")  # what an application may have asked for
        try:
            with exact_float32():
                product = (a.float().to(device) @ b.float().to(device)).cpu().double()
        finally:
            torch.set_float32_matmul_precision(before)
        return Found(relative(product.numpy(), (a @ b).numpy()), MANY[torch.float32] * torch.finfo(torch.float32).eps)

    return Check("float32 without TF32", device.type, "float32", run)
