"""The settings of one audit, declared once and checked together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from peelaudit.errors import ConfigError
from peelaudit.settings.bits import parse_bits
from peelaudit.settings.declared import Group, declared, out_of_range, setting
from peelaudit.settings.kinds import NUMBER, PATH, PATHS, SCHEDULES, SPLIT, SWITCH, TEXT, WHOLE
from peelaudit.settings.sizes import parse_size

__all__ = [
    "SETTINGS",
    "AuditConfig",
    "BitsOn",
    "Bos",
    "Device",
    "Dtype",
    "Effort",
    "Initial",
    "ReadoutKind",
    "SolverKind",
]

SolverKind = Literal["ridge", "adam", "ridge+adam"]
ReadoutKind = Literal["own", "refit", "lens"]
Effort = Literal["quick", "default", "thorough"]
Initial = Literal["trained", "random"]
Bos = Literal["auto", "sequence", "document", "never"]
BitsOn = Literal["all", "mlp-and-output"]
Device = Literal["auto", "cpu", "cuda", "mps"]
DEFAULT_SCHEDULES = ("default",)
"""What `AuditConfig.schedules` is where nothing was asked for: the effort decides."""
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """Everything that an audit's result depends on.

    Attributes:
        checkpoint: a file or a directory.
        data: text or token files or directories, with a weight behind `=` where each is to have its share; empty means
            the fallbacks of `calibration`.
        field: the key of the text, or of the chat, in rows of .jsonl, .parquet and .arrow.
        separator: what stands between documents in a .txt; None finds `<|endoftext|>`, form feeds, WikiText headings.
        config: a config.json for a plain state dict, or a directory that holds one.
        adapter: the directory of a LoRA adapter, which is merged into the checkpoint's weights.
        tokenizer: a tokenizer's file or directory, or a nanoGPT meta.pkl; None takes the checkpoint's, else that beside
            `config`.
        tokens: how many calibration tokens are used at most, all three splits together.
        seq_len: positions per sequence; None chooses by `tokens` and the model's context.
        bos: where the token stands that the tokenizer puts in front: before each sequence, before documents alone, or
            nowhere; `auto` is before each sequence if the trained network's loss on *select* is lower then.
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
        effort: how much is computed: `quick` fits the fewest references and refines nothing, `thorough` goes on until
            nothing improves.
        tolerance: nats/token of gap_layers that count as none.
        parent: a checkpoint of the same architecture, such as what this one was rounded from, whose blocks take the
            place of its own, one at a time.
        device: where it runs.
        dtype: what the blocks compute in; `auto` is float32.
        max_memory: of its own that the process has at most, such as `2GiB`; what can't be planned so is refused.
        seed: of the splits, the minibatches and the bootstrap.
        resamples: bootstrap draws.
    """

    checkpoint: str
    data: tuple[str, ...] = setting(
        (),
        PATHS,
        Group.DATA,
        "PATH",
        "Text or token files, or directories of them; PATH=WEIGHT for its share of the tokens. Repeatable.",
    )
    field: str = setting("text", TEXT, Group.DATA, "NAME", "The key of a row's text, or chat.", seldom=True)
    separator: str | None = setting(
        None, TEXT, Group.DATA, "TEXT", "What stands between documents in a .txt; found if not given.", seldom=True
    )
    config: str | None = setting(
        None, PATH, Group.COMPUTING, "PATH", "A config.json, or its directory, for a checkpoint that has none."
    )
    adapter: str | None = setting(
        None, PATH, Group.COMPUTING, "DIR", "A LoRA adapter of peft, merged into the checkpoint's weights.", seldom=True
    )
    tokenizer: str | None = setting(
        None, PATH, Group.DATA, "PATH", "A tokenizer, if the checkpoint has none or another.", seldom=True
    )
    tokens: int = setting(16_384, WHOLE, Group.DATA, "N", "Tokens to use at most, all splits together.", least=1)
    seq_len: int | None = setting(
        None, WHOLE, Group.DATA, "N", "Tokens a sequence; chosen by --tokens and the context if not given.", least=2
    )
    bos: Bos = setting(
        "auto",
        TEXT,
        Group.DATA,
        "WHERE",
        "auto, sequence, document or never: what the tokenizer's first token stands before; auto takes sequence where "
        "the trained network does better with it.",
        choices=get_args(Bos),
        seldom=True,
    )
    split: tuple[float, float, float] = setting(
        (0.6, 0.15, 0.25), SPLIT, Group.DATA, "A,B,C", "Per cent for fit, select and held-out."
    )
    schedules: tuple[str, ...] = setting(
        DEFAULT_SCHEDULES,
        SCHEDULES,
        Group.METHOD,
        "SPEC",
        "Which references to fit: refined, direct, final, prefix:m, every:m, via:a,b, without:a,b, yes:k, search:k, "
        "all, default, or one target a layer such as 1,1,1,4. Several are separated by ; or blanks. Repeatable.",
    )
    solver: SolverKind = setting(
        "ridge",
        TEXT,
        Group.METHOD,
        "NAME",
        "ridge, adam or ridge+adam: how a block is fitted.",
        choices=get_args(SolverKind),
    )
    init: Initial = setting(
        "trained", TEXT, Group.METHOD, "NAME", "trained or random: where adam starts.", choices=get_args(Initial)
    )
    steps: int = setting(150, WHOLE, Group.METHOD, "N", "Adam steps a block.", least=1)
    bits: str = setting(
        "auto",
        TEXT,
        Group.METHOD,
        "SET",
        "What weights and references are held to: auto (as the checkpoint is), float (no bits for references), "
        "binary, ternary, int2, int3, int4 or int8; behind it :tensor, :row or :g32, what shares a scale, and "
        ":zero or :free for integers that aren't symmetric. Other weights are rounded to it first.",
    )
    bits_on: BitsOn = setting(
        "all",
        TEXT,
        Group.METHOD,
        "NAME",
        "all or mlp-and-output: the matrices that such a set is for.",
        choices=get_args(BitsOn),
    )
    float_reference: bool = setting(
        False, SWITCH, Group.METHOD, "", "Fit float references too, beside low-bit ones: what the bits cost."
    )
    readout: ReadoutKind = setting(
        "refit",
        TEXT,
        Group.METHOD,
        "NAME",
        "own, refit or lens: how the network's states become predictions.",
        choices=get_args(ReadoutKind),
    )
    depth_readout: ReadoutKind = setting(
        "lens", TEXT, Group.METHOD, "NAME", "The same, for the layers below the last.", choices=get_args(ReadoutKind)
    )
    effort: Effort = setting(
        "default",
        TEXT,
        Group.METHOD,
        "NAME",
        "quick, default or thorough: how many references are fitted, and how far blocks are refined.",
        choices=get_args(Effort),
    )
    tolerance: float = setting(
        0.01, NUMBER, Group.METHOD, "NATS", "The gap of the layers, in nats/token, that counts as none.", least=0
    )
    parent: str | None = setting(
        None,
        PATH,
        Group.METHOD,
        "CKPT",
        "A checkpoint of the same architecture, such as what this one was rounded from or the step before: what each "
        "layer loses to its.",
    )
    device: Device = setting("auto", TEXT, Group.COMPUTING, "NAME", "auto, cpu, cuda or mps.", choices=get_args(Device))
    dtype: Dtype = setting(
        "auto",
        TEXT,
        Group.COMPUTING,
        "NAME",
        "What blocks compute in: float32 (auto), bfloat16, float16 or float64.",
        choices=get_args(Dtype),
    )
    max_memory: str | None = setting(
        None,
        TEXT,
        Group.COMPUTING,
        "SIZE",
        "Main memory to stay within, such as 2GiB: less is computed at once, and states lie on disk.",
        seldom=True,
    )
    seed: int = setting(0, WHOLE, Group.METHOD, "N", "Of splits, minibatches and bootstrap.", least=0, seldom=True)
    resamples: int = setting(2_000, WHOLE, Group.METHOD, "N", "Bootstrap draws for the intervals.", least=100)

    def __post_init__(self) -> None:
        """Raise one `ConfigError` that names every setting which is out of range.

        Each problem begins with the setting's name: `settings` puts there where the value came from. A path may be
        given as a PathLike, and one text alone where several are expected: from here on they are texts and tuples.
        """
        problems = self._normalise()
        problems += out_of_range(self, SETTINGS.values())
        if len(self.split) != 3 or not all(0 < share < 1 for share in self.split) or abs(sum(self.split) - 1) > 1e-9:
            problems.append(f"split is {self.split}: expected three shares above 0 that add up to 1")
        if self.schedules == ():
            problems.append("schedules is empty")
        for parse, text in ((parse_bits, self.bits), (parse_size, self.max_memory)):
            try:
                if text is not None:
                    parse(text)
            except ConfigError as error:
                problems += error.problems
        if self.init == "random" and self.solver != "adam":
            problems.append("init random needs solver adam: a ridge solution is a change from the trained weights")
        if problems:
            raise ConfigError(*problems)

    @property
    def runs_refined(self) -> bool:
        """Whether the reference `refined` is among those that are run."""
        if self.schedules == DEFAULT_SCHEDULES:
            return self.effort != "quick"
        return not {"default", "refined"}.isdisjoint(self.schedules)

    def _normalise(self) -> list[str]:
        """Make texts of paths and tuples of what is several; the problems with what can't be made so."""
        problems: list[str] = []
        for name in ("checkpoint", "config", "adapter", "tokenizer", "parent"):
            value = getattr(self, name)
            if isinstance(value, os.PathLike):
                object.__setattr__(self, name, os.fspath(value))
            elif not isinstance(value, str) and (value is not None or name == "checkpoint"):
                problems.append(f"{name} is {value!r}: expected a path")
        for name, one in (("data", "path"), ("schedules", "schedule")):
            try:
                object.__setattr__(self, name, _several(name, getattr(self, name), one))
            except ConfigError as error:
                problems += error.problems
        return problems


def _several(name: str, value: object, one: str) -> tuple[str, ...]:
    """The setting's items. A text is one of them, though Python would take it for a sequence of letters.

    Raises:
        ConfigError: an item isn't what `one` says, or is empty: an empty path would be the whole working directory.
    """
    single = (str, os.PathLike) if one == "path" else str
    if isinstance(value, single):
        value = (value,)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        raise ConfigError(f"{name} is {value!r}: expected a {one} or a list of {one}s")
    for item in value:
        if not isinstance(item, single):
            raise ConfigError(f"{name} has {item!r}: expected a {one}")
        if item == "":
            raise ConfigError(f"{name} has an empty {one}")
    return tuple(os.fspath(item) for item in value)


SETTINGS = declared(AuditConfig)
"""Every field of `AuditConfig` but the checkpoint, which is an argument."""
