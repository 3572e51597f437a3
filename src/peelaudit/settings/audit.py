"""The settings of one audit, checked together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from peelaudit.errors import ConfigError
from peelaudit.settings.bits import parse_bits

__all__ = ["AuditConfig", "BitsOn", "Device", "Dtype", "Initial", "ReadoutKind", "RepairKind", "SolverKind"]

SolverKind = Literal["ridge", "adam", "ridge+adam"]
ReadoutKind = Literal["own", "refit", "lens"]
RepairKind = Literal["off", "cheap", "thorough"]
Initial = Literal["trained", "random"]
BitsOn = Literal["all", "mlp-and-output"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]

_MOST = 2**32 - 1  # what every generator takes as a seed; far more than there can be of anything else


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """Everything that an audit's result depends on.

    Attributes:
        checkpoint: a file or a directory.
        data: text or token files or directories; empty means the fallbacks of `calibration`.
        field: the key of the text in .jsonl and .parquet records.
        separator: what stands between documents in a .txt; None finds `<|endoftext|>`, form feeds, WikiText headings.
        config: a config.json for a plain state dict.
        tokenizer: a tokenizer's file or directory, or a nanoGPT meta.pkl; None takes the checkpoint's.
        tokens: how many calibration tokens are used at most, all three splits together.
        seq_len: positions per sequence; None chooses by `tokens` and the model's context.
        split: the shares of fit, select and held-out.
        schedules: names of families, explicit mappings, or `default`.
        solver: how reference blocks are fitted.
        init: where `adam` starts.
        steps: Adam steps per block.
        bits: what the blocks' weights are held to, and those of references: `auto` for what the checkpoint has,
            `float` for references without bits, or a set (`peelaudit.settings.bits`), to which weights that aren't of
            it are rounded first: the network that latent weights stand for.
        bits_on: which matrices such a set is for: all, or the MLP's and the attention's output.
        float_reference: fit float references too, beside low-bit ones, to tell what the bits cost.
        readout: the network row's readout.
        depth_readout: the readout of peel depths below the network's own.
        repair: whether each block is repaired alone as well: one step, or until *select* stops improving.
        device: where it runs.
        dtype: what the blocks compute in; `auto` is float32.
        seed: of the splits, the minibatches and the bootstrap.
        resamples: bootstrap draws.
    """

    checkpoint: str
    data: tuple[str, ...] = ()
    field: str = "text"
    separator: str | None = None
    config: str | None = None
    tokenizer: str | None = None
    tokens: int = 16_384
    seq_len: int | None = None
    split: tuple[float, float, float] = (0.6, 0.15, 0.25)
    schedules: tuple[str, ...] = ("default",)
    solver: SolverKind = "ridge"
    init: Initial = "trained"
    steps: int = 150
    bits: str = "auto"
    bits_on: BitsOn = "all"
    float_reference: bool = False
    readout: ReadoutKind = "refit"
    depth_readout: ReadoutKind = "lens"
    repair: RepairKind = "off"
    device: Device = "auto"
    dtype: Dtype = "auto"
    seed: int = 0
    resamples: int = 2_000

    def __post_init__(self) -> None:
        """Raise one `ConfigError` that names every setting which is out of range.

        Each problem begins with the setting's name: `settings` puts there where the value came from.
        """
        problems = [
            f"{name} is {value!r}: expected {' | '.join(get_args(kind))}"
            for name, value, kind in (
                ("solver", self.solver, SolverKind),
                ("init", self.init, Initial),
                ("bits-on", self.bits_on, BitsOn),
                ("readout", self.readout, ReadoutKind),
                ("depth-readout", self.depth_readout, ReadoutKind),
                ("repair", self.repair, RepairKind),
                ("device", self.device, Device),
                ("dtype", self.dtype, Dtype),
            )
            if value not in get_args(kind)
        ]
        problems += [
            f"{name} is {value}: expected {least} or more"
            if value < least
            else f"{name} is {value}: expected {_MOST} or less"
            for name, value, least in (
                ("tokens", self.tokens, 1),
                ("seq-len", 2 if self.seq_len is None else self.seq_len, 2),
                ("steps", self.steps, 1),
                ("seed", self.seed, 0),
                ("resamples", self.resamples, 100),
            )
            if not least <= value <= _MOST
        ]
        if len(self.split) != 3 or not all(0 < share < 1 for share in self.split) or abs(sum(self.split) - 1) > 1e-9:
            problems.append(f"split is {self.split}: expected three shares above 0 that add up to 1")
        if not self.schedules:
            problems.append("schedules is empty")
        try:
            parse_bits(self.bits)
        except ConfigError as error:
            problems += error.problems
        if self.init == "random" and self.solver != "adam":
            problems.append("init random needs solver adam: a ridge solution is a change from the trained weights")
        if problems:
            raise ConfigError(*problems)
