"""What the paper's studies consist of: the sizes, the networks, the runs (arXiv 2605.02853)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from fixtures.low_bit import constrain
from fixtures.train import Recipe
from peelaudit.errors import ConfigError
from peelaudit.network.lowbit.constraints import Binary, Constraint, Ternary
from peelaudit.settings.audit import SolverKind

LAYERS = 4
END_OF_TEXT = 0
"""The tokenizer's one special token."""


class Architecture(StrEnum):
    """The two styles of decoder."""

    LLAMA = "llama"
    GPT2 = "gpt2"


class Bits(StrEnum):
    """What the constrained matrices may hold."""

    FLOAT = "float"
    BINARY = "binary"
    TERNARY = "ternary"


CONSTRAINTS: Mapping[Bits, Constraint] = {Bits.BINARY: Binary(), Bits.TERNARY: Ternary()}
"""Binary has a scale for each output, ternary one for each matrix (BitNet b1.58)."""

PROJECTIONS: Mapping[Architecture, Sequence[str]] = {
    Architecture.LLAMA: ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    Architecture.GPT2: ("attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
}
"""The matrices that are constrained: MLP, gate and output projections. Queries, keys, values, embeddings stay float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a decoder is built of.

    Attributes:
        architecture: its style.
        layers: blocks.
        width: of the residual stream.
        heads: of the attention.
        vocabulary: tokens that it knows.
        context: positions.
        dropout: share of values that training leaves out, wherever GPT-2 has it; LLaMA has none.
    """

    architecture: Architecture
    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int
    dropout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Sizes and settings of all runs. The defaults are the paper's where it gives one, and else small.

    Attributes:
        train_tokens: of TRAIN, whole documents from its beginning, the last one cut.
        fit_tokens: training tokens that references are fitted to.
        select_tokens: what they are chosen on.
        test_tokens: of TEST, held out from everything.
        vocabulary: of a byte-level BPE trained on TRAIN.
        width: of the residual stream.
        heads: of the attention.
        context: positions, also of a calibration sequence.
        rows: sequences of a training step.
        epochs: an epoch is as many steps as hold `train_tokens`.
        audited: after which epochs there is a checkpoint.
        learning_rates: one that serves, and one too low.
        solver: of the reference blocks.
        steps: of Adam a block, where the solver has any.
        seed: of everything.
    """

    train_tokens: int = 100_000
    fit_tokens: int = 8_192
    select_tokens: int = 4_096
    test_tokens: int = 10_240
    vocabulary: int = 1_000
    width: int = 64
    heads: int = 4
    context: int = 128
    rows: int = 8
    epochs: int = 8
    audited: tuple[int, ...] = (2, 4, 8)
    learning_rates: tuple[float, ...] = (3e-3, 3e-4)
    solver: SolverKind = "ridge"
    steps: int = 150
    seed: int = 0

    @property
    def epoch_steps(self) -> int:
        """Updates of an epoch."""
        return round(self.train_tokens / (self.rows * self.context))


@dataclass(frozen=True, slots=True)
class Run:
    """One training run."""

    architecture: Architecture
    bits: Bits
    learning_rate: float

    @property
    def name(self) -> str:
        """Of its directory: `llama-ternary-0.003`."""
        return f"{self.architecture}-{self.bits}-{self.learning_rate:g}"


def runs(study: Study) -> tuple[Run, ...]:
    """Every run of the study."""
    return tuple(Run(*parts) for parts in product(Architecture, Bits, study.learning_rates))


def recipe(run: Run, study: Study) -> Recipe:
    """How a run is trained: half an epoch of warm-up, then a cosine to zero, so that any run's curve ends flat."""
    return Recipe(
        steps=study.epochs * study.epoch_steps,
        rows=study.rows,
        context=study.context,
        learning_rate=run.learning_rate,
        seed=study.seed,
        warmup_steps=max(1, study.epoch_steps // 2),
        saved=tuple(epoch * study.epoch_steps for epoch in study.audited),
    )


def network(run: Run, study: Study) -> PreTrainedModel:
    """The run's network before training, its constrained matrices parametrised. Equal weights for all bits."""
    torch.manual_seed(study.seed)
    model = untrained(
        Shape(
            architecture=run.architecture,
            layers=LAYERS,
            width=study.width,
            heads=study.heads,
            vocabulary=study.vocabulary,
            context=study.context,
        )
    )
    if run.bits is not Bits.FLOAT:
        constrain(model, CONSTRAINTS[run.bits], PROJECTIONS[run.architecture])
    return model


def untrained(shape: Shape) -> PreTrainedModel:
    """A network of that shape, drawn from torch's generator."""
    return _llama(shape) if shape.architecture is Architecture.LLAMA else _gpt2(shape)


def _llama(shape: Shape) -> PreTrainedModel:
    if shape.dropout:
        raise ConfigError("transformers' LLaMA has dropout in its attention alone; take another architecture")
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=round(8 / 3 * shape.width / 8) * 8,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.context,
        bos_token_id=END_OF_TEXT,
        eos_token_id=END_OF_TEXT,
    )
    return LlamaForCausalLM(config)


def _gpt2(shape: Shape) -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.context,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=shape.dropout,
        bos_token_id=END_OF_TEXT,
        eos_token_id=END_OF_TEXT,
    )
    return GPT2LMHeadModel(config)
