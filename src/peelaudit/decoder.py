"""A checkpoint as a decoder: the one table of families, and one block at a time out of the meta device.

All attention, norm and rotary code is transformers'. The module is built on the meta device, its blocks are taken
out and replaced by recorders; what is left (embeddings, rotary tables, final norm, head) is small and loaded for
good. Running that shell once tells, for every block, the very arguments that the model's own forward would pass it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from peelaudit.checkpoints import Checkpoint
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.network.lowbit.constraints import Constraint, Held, Scales

__all__ = ["FAMILIES", "Block", "Decoder", "Family", "Writer", "family_of"]


@dataclass(frozen=True, slots=True)
class Writer:
    """A matrix whose product is added to the residual stream: `path` within the block.

    `norm` is the normalisation that its product goes through before it is added, None where there is none.
    """

    path: str
    norm: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Where things are in a family's module: its blocks, the final norm, and each block's residual-writing matrices."""

    blocks: str
    norm: str
    attention: Writer
    mlp: Writer

    def is_mlp_or_output(self, name: str) -> bool:
        """Whether a parameter of a block, by its path in the skeleton, is the MLP's or the attention's output."""
        path = name.removeprefix(f"{self.blocks}.").partition(".")[2]
        attention = self.attention.path.rpartition(".")[0]
        return not path.startswith(f"{attention}.") or path == f"{self.attention.path}.weight"


_LLAMA = Family("model.layers", "model.norm", Writer("self_attn.o_proj"), Writer("mlp.down_proj"))
_POST_NORM = Family(
    "model.layers",
    "model.norm",
    Writer("self_attn.o_proj", "post_attention_layernorm"),
    Writer("mlp.down_proj", "post_feedforward_layernorm"),
)

FAMILIES: Mapping[str, Family] = {
    "gpt2": Family("transformer.h", "transformer.ln_f", Writer("attn.c_proj"), Writer("mlp.c_proj")),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "phi3": _LLAMA,
    "smollm3": _LLAMA,
    "bitnet": _LLAMA,
    "gemma3_text": _POST_NORM,
    "olmo2": _POST_NORM,
    "gpt_neox": Family(
        "gpt_neox.layers", "gpt_neox.final_layer_norm", Writer("attention.dense"), Writer("mlp.dense_4h_to_h")
    ),
    "opt": Family(
        "model.decoder.layers", "model.decoder.final_layer_norm", Writer("self_attn.out_proj"), Writer("fc2")
    ),
    "phi": Family("model.layers", "model.final_layernorm", Writer("self_attn.dense"), Writer("mlp.fc2")),
}
"""By transformers' `model_type`. A family stands here when a test proves it against transformers' own loss."""


NOTHING_HELD: Mapping[str, Held] = {}


class _Recorder(nn.Module):
    """Stands where a block was: remembers what it was called with and passes the hidden states on."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.hidden, self.arguments = hidden, (args, kwargs)
        return hidden


class Block:
    """One decoder block with its weights, callable on hidden states.

    Attributes:
        layer: 1 … L.
        module: transformers' own module.
        writers: the modules of the attention output and of the MLP down projection.
        norms: what each writer's product passes before it is added to the residual stream, or None.
        biased: whether each writer has a bias of its own.
        held: the parameters that are low-bit, by name: a reference block's must be too.
    """

    def __init__(
        self,
        layer: int,
        module: nn.Module,
        family: Family,
        arguments: tuple[tuple[Any, ...], dict[str, Any]],
        absent: frozenset[str] = frozenset(),
        held: Mapping[str, Held] = NOTHING_HELD,
        scales: Mapping[str, Scales] | None = None,
    ) -> None:
        self.layer = layer
        self.module = module
        self.held = held
        self._scales = scales
        self.writers = tuple(module.get_submodule(writer.path) for writer in (family.attention, family.mlp))
        self.norms = tuple(
            None if writer.norm is None else module.get_submodule(writer.norm)
            for writer in (family.attention, family.mlp)
        )
        self.biased = tuple(
            getattr(writer, "bias", None) is not None and f"{named.path}.bias" not in absent
            for writer, named in zip(self.writers, (family.attention, family.mlp), strict=True)
        )
        self._family, self._arguments, self._absent = family, arguments, absent

    def __call__(self, hidden: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The block's output, [sequences, positions, d_model], for hidden states of that shape.

        Args:
            hidden: the block's input.
            weights: parameters by name that stand in for the block's own in this call.
        """
        args, kwargs = self._arguments
        if weights is None:
            output = self.module(hidden, *args, **kwargs)
        else:
            output = torch.func.functional_call(self.module, dict(weights), (hidden, *args), kwargs)
        return cast("Tensor", output[0] if isinstance(output, tuple) else output)

    def take(self, states: Tensor) -> Tensor:
        """The states where this block computes, in what it computes in."""
        parameter = next(self.module.parameters())
        return states.to(device=parameter.device, dtype=parameter.dtype)

    def linears(self) -> dict[str, nn.Module]:
        """The block's linear maps by path: every module whose weight is a matrix that multiplies hidden states."""
        return {
            path: module
            for path, module in self.module.named_modules()
            if isinstance(weight := getattr(module, "weight", None), Tensor)
            and weight.ndim == 2
            and not isinstance(module, nn.Embedding)
        }

    def has_bias(self, path: str) -> bool:
        """Whether the linear map at `path` has a bias that the checkpoint has too."""
        return getattr(self.module.get_submodule(path), "bias", None) is not None and f"{path}.bias" not in self._absent

    def copy(self) -> Block:
        """The same block with weights of its own."""
        module = copy.deepcopy(self.module)
        return Block(self.layer, module, self._family, self._arguments, self._absent, self.held, self._scales)

    def unconstrained(self) -> Block:
        """The same block, its weights shared, whose references may be floats."""
        return Block(self.layer, self.module, self._family, self._arguments, self._absent)

    def scales(self) -> dict[str, Scales]:
        """Those of the low-bit parameters, which are of their sets.

        They were read before the weights were rounded to float16 or bfloat16: what that moves them by is as large as
        some grids' steps.
        """
        parameters = dict(self.module.named_parameters())
        known = {} if self._scales is None else self._scales
        return {name: known.get(name) or held.scales(parameters[name]) for name, held in self.held.items()}

    @torch.no_grad()
    def rounded(self, scales: Mapping[str, Scales] | None = None) -> Block:
        """A copy whose low-bit parameters are rounded to their sets, with these scales; without any, those that aren't
        of their sets yet with scales of their own.
        """
        copied = self.copy()
        copied.module.requires_grad_(requires_grad=False)
        parameters = dict(copied.module.named_parameters())
        known = None if self._scales is None else dict(self._scales)
        for name, held in self.held.items():
            weight = parameters[name]
            if scales is not None:
                rounded = held.rounded(weight, scales[name])
            elif known is None:
                rounded = held.quantise(weight)
            else:
                rounded = weight if held.fits(weight, known[name]) else held.quantise(weight.float())
            if known is not None and rounded is not weight:
                known[name] = held.scales(rounded) if scales is None else scales[name]
            weight.copy_(rounded)
        copied._scales = known
        return copied

    def writer_held(self, index: int) -> Held | None:
        """What holds the weight of a writer, None where it is float."""
        writer = (self._family.attention, self._family.mlp)[index]
        return self.held.get(f"{writer.path}.weight")

    def digest(self) -> str:
        """SHA-256 of the weights and their names: equal where two checkpoints have the same block, in any format."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def present(self) -> dict[str, Tensor]:
        """The weights and buffers that the checkpoint has, by name within the block."""
        return {name: tensor for name, tensor in self.module.state_dict().items() if name not in self._absent}

    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The weights that a reference may change: all that the checkpoint has."""
        return tuple(p for name, p in self.module.named_parameters() if name not in self._absent)


class Decoder:
    """A checkpoint's network, embedding and head in memory, blocks on demand.

    Args:
        checkpoint: open, with complete weights.
        seq_len: positions of every sequence that will be run.
        device: where blocks compute.
        dtype: what they compute in; the readout's losses are always summed in float64.
        constraints: of the low-bit matrices, by their names in the checkpoint.
        rounding: whether matrices that aren't of their sets yet (the latent weights of quantisation-aware training) are
            rounded when they are read: the network that they stand for.

    Raises:
        UnsupportedCheckpoint: if the family is not in `FAMILIES` or this variant of it can't be peeled.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        seq_len: int,
        device: torch.device,
        dtype: torch.dtype,
        constraints: Mapping[str, Constraint] | None = None,
        rounding: bool = False,
    ) -> None:
        self._checkpoint = checkpoint
        self._constraints, self._rounding = constraints or {}, rounding
        self.low_bit = bool(self._constraints)
        self.family = family_of(checkpoint)
        self.device, self.dtype = device, dtype
        shell = checkpoint.skeleton()
        self.config = shell.config
        blocks = cast("nn.ModuleList", shell.get_submodule(self.family.blocks))
        self._blueprints = list(blocks)
        self.n_layers = len(self._blueprints)
        self._recorders = [_Recorder() for _ in self._blueprints]
        for index, recorder in enumerate(self._recorders):
            blocks[index] = recorder
        self._shell = _load_shell(shell, checkpoint, device, dtype)
        self.norm = shell.get_submodule(self.family.norm)
        self.head = cast("nn.Linear", self._shell.get_output_embeddings())
        self.softcap: float | None = getattr(self.config, "final_logit_softcapping", None)
        self.width = self.head.in_features
        self.vocabulary = self.head.out_features
        self._run_shell(torch.zeros(1, seq_len, dtype=torch.long, device=device))
        self._arguments = [recorder.arguments for recorder in self._recorders]
        self._replaced: Mapping[int, Block] = {}

    def replacing(self, block: Block) -> Decoder:
        """The same network with another block in the place of the one of that layer."""
        other = copy.copy(self)
        other._replaced = {**self._replaced, block.layer: block}
        return other

    @torch.no_grad()
    def embed(self, tokens: Tensor) -> Tensor:
        """h_0, [sequences, positions, d_model], of token ids [sequences, positions]."""
        return self._run_shell(tokens.to(self.device))

    def _run_shell(self, tokens: Tensor) -> Tensor:
        base = getattr(self._shell, self._shell.base_model_prefix)
        with torch.no_grad():
            base(input_ids=tokens, use_cache=False)
        hidden = self._recorders[0].hidden
        for recorder in self._recorders:
            recorder.hidden = None
        return cast("Tensor", hidden)

    def block(self, layer: int) -> Block:
        """Block `layer`, 1 … L, freshly read from the checkpoint, its weights not requiring gradients."""
        if layer in self._replaced:
            return self._replaced[layer].copy()
        module = copy.deepcopy(self._blueprints[layer - 1])
        prefix = f"{self.family.blocks}.{layer - 1}."
        held = self._held(module, prefix)
        weights, scales = {}, {}
        for name in module.state_dict():
            weight = self._checkpoint.tensor(prefix + name)
            weight = held[name].quantise(weight.float()) if self._rounding and name in held else weight
            weights[name] = weight.to(device=self.device, dtype=self.dtype)
            if name in held and self.dtype in (torch.float16, torch.bfloat16):
                scales[name] = held[name].scales(weight.float().to(self.device))
        module.load_state_dict(weights, strict=True, assign=True)
        module.requires_grad_(requires_grad=False).eval()
        absent = frozenset(name for name in weights if prefix + name in self._checkpoint.absent)
        return Block(layer, module, self.family, self._arguments[layer - 1], absent, held, scales or None)

    def _held(self, module: nn.Module, prefix: str) -> dict[str, Held]:
        """The block's low-bit parameters."""
        held = {}
        for name, _ in module.named_parameters():
            if (constraint := self._constraints.get(prefix + name)) is not None:
                owner = module.get_submodule(name.rpartition(".")[0])
                held[name] = Held(constraint, transposed=not isinstance(owner, nn.Linear))
        return held


def family_of(checkpoint: Checkpoint) -> Family:
    """The table's entry.

    Raises:
        UnsupportedCheckpoint: there is none, or this variant of the family can't be peeled.
    """
    config = checkpoint.config
    family = FAMILIES.get(config.model_type)
    name = checkpoint.info.path
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedCheckpoint(f"{name}: family {config.model_type!r} is not one that can be audited ({known})")
    if not getattr(config, "do_layer_norm_before", True):
        raise UnsupportedCheckpoint(f"{name}: blocks that end in a norm (do_layer_norm_before false) can't be peeled")
    if getattr(config, "word_embed_proj_dim", config.hidden_size) != config.hidden_size:
        raise UnsupportedCheckpoint(f"{name}: embeddings narrower than the residual stream can't be audited")
    return family


def _load_shell(shell: nn.Module, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """Everything but the blocks, with real weights and buffers, on `device`."""
    model = cast("Any", shell)
    model.to_empty(device=device)
    weights = {
        name: checkpoint.tensor(name).to(device=device, dtype=dtype)
        for name, _ in model.named_parameters(remove_duplicate=False)
    }
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # transformers then fills the buffers alone
    model.initialize_weights()
    return model.requires_grad_(requires_grad=False).eval()
