"""Two checkpoints of one architecture side by side: which tensors, which parts and which settings differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from peelaudit.checkpoints import Checkpoint
from peelaudit.checkpoints.matching import tied_names
from peelaudit.errors import ConfigError
from peelaudit.escape import printable
from peelaudit.network.decoder import Decoder
from peelaudit.network.families import family_of
from peelaudit.network.likeness import likeness
from peelaudit.network.parts import Family
from peelaudit.progress import SILENT, Progress
from peelaudit.records.difference import ChangeKind, PartKind, SettingChange, TensorChange

__all__ = [
    "Counterparts",
    "Place",
    "Tensors",
    "changed_settings",
    "check_alike",
    "compare_tensors",
    "differing_blocks",
    "otherwise",
    "places",
]

_ALIKE = ("layers", "width", "heads", "kv_heads", "mlp_width", "vocabulary")
"""What two checkpoints have to have in common, for a part of one to do in the other."""
_MUTE = frozenset(
    {
        *("_name_or_path", "architectures", "attn_implementation", "_attn_implementation_internal", "auto_map"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "id2label", "label2id"),
        *("initializer_range", "is_llama_config", "output_attentions", "output_hidden_states", "return_dict"),
        *("tie_word_embeddings", "transformers_version", "use_cache", "quantization_config", "model_type"),
    }
)
"""Keys of a configuration that nothing is computed by, or, of tied embeddings, that the tensors tell."""
_EQUAL = 1e-6
"""How far two numbers of a configuration may be apart, relative to their size: some formats keep them as float32."""


@dataclass(frozen=True, slots=True)
class Place:
    """A part that two networks can exchange: `members` are its places among 0, all before the blocks, 1 … L, the
    blocks, L + 1, the final norm, and L + 2, the head.
    """

    part: PartKind
    layer: int | None
    members: frozenset[int]


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors that differ, and how many others there are. Of each place (as `Place.members` has them) at which some
    do, `squares` are the sums of squares of the difference, and of both, of all its weights.
    """

    changes: tuple[TensorChange, ...]
    same: int
    squares: Mapping[int, tuple[float, float]]

    def size(self, members: Iterable[int]) -> float:
        """The size of the difference of all weights at some places."""
        found = [self.squares[place] for place in members if place in self.squares]
        both = sum(one for _, one in found)
        return math.sqrt(2 * sum(one for one, _ in found) / both) if both else 0.0


@dataclass(frozen=True, slots=True)
class Counterparts:
    """Two networks on the same device; `differing` are the places at which they do."""

    base: Decoder
    new: Decoder
    differing: frozenset[int]


def check_alike(base: Checkpoint, new: Checkpoint) -> None:
    """Raise ConfigError, which says what differs, unless they are of one architecture.

    The family may go by another name, as it does in some formats, where all tensors have theirs.
    """
    one, other = base.info, new.info
    families = () if set(base.names()) == set(new.names()) else ("family",)
    differing = [
        f"{name.replace('_', ' ')} {getattr(one, name)} and {getattr(other, name)}"
        for name in (*families, *_ALIKE)
        if getattr(one, name) != getattr(other, name)
    ]
    if differing:
        raise ConfigError(f"{one.path} and {other.path} are not of one architecture: {', '.join(differing)}")


def places(base: Checkpoint, new: Checkpoint) -> tuple[Place, ...]:
    """The parts, from the bottom up; embedding and head are one where they are tied in both."""
    layers, tied = base.info.layers, base.info.tied_head and new.info.tied_head
    blocks = (Place(PartKind.BLOCK, layer, frozenset({layer})) for layer in range(1, layers + 1))
    first = Place(PartKind.TIED, None, frozenset({0, layers + 2})) if tied else Place(PartKind.EMBEDDING, None, _at(0))
    norm = () if family_of(base).tail.norm is None else (Place(PartKind.NORM, None, _at(layers + 1)),)
    head = () if tied else (Place(PartKind.HEAD, None, _at(layers + 2)),)
    return (first, *blocks, *norm, *head)


def _at(place: int) -> frozenset[int]:
    return frozenset({place})


def compare_tensors(base: Checkpoint, new: Checkpoint, progress: Progress = SILENT) -> Tensors:
    """Hold every tensor of one checkpoint to its counterpart in the other.

    Raises:
        MalformedCheckpoint: the bytes are damaged.
    """
    found = list(_found(base, new, progress))
    changes = tuple(change for _, change, _ in found if change is not None)
    differing = {place for place, change, _ in found if change is not None and change.size}
    squares = {place: _squares([one for one in found if one[0] == place]) for place in differing}
    return Tensors(changes, len(found) - len(changes), squares)


_Found = tuple[int, TensorChange | None, float]
"""Of a tensor its place, how it differs, and the sum of squares of both."""


def _squares(found: Sequence[_Found]) -> tuple[float, float]:
    """Of the difference, and of both, summed over tensors."""
    both = [own for _, _, own in found]
    difference = [change.size**2 * own / 2 for _, change, own in found if change is not None]
    return sum(difference), sum(both)


def _found(base: Checkpoint, new: Checkpoint, progress: Progress) -> Iterator[_Found]:
    ours, theirs = tied_names(base.skeleton()), tied_names(new.skeleton())
    family, head = family_of(base), _head(base)
    heads = (base.info.heads, base.info.kv_heads)
    names = tuple(dict.fromkeys((*base.names(), *new.names())))
    progress.stage("compare the tensors", len(names))
    for name in names:
        progress.advance()
        place, layer, within = _placed(name, family, base.info.layers, head)
        one, other = (tied.get(name) for tied in (ours, theirs))
        if one is None or other is None:
            kind = ChangeKind.ADDED if one is None else ChangeKind.MISSING
            tensor = (new if one is None else base).tensor(name)
            if tensor.any():
                yield place, TensorChange(name, layer, within, kind, math.sqrt(2)), _square(tensor)
            continue
        if one == other != name:
            continue
        a, b = base.tensor(name), new.tensor(name)
        like = likeness(a, b, heads)
        if one != other:
            kind, size = ChangeKind.UNTIED if one != name else ChangeKind.TIED, like.size if like else 0.0
            yield place, TensorChange(name, layer, within, kind, size), _square(a, b)
        elif like is None:
            yield place, None, _square(a, b)
        else:
            yield place, TensorChange(name, layer, within, like.kind, like.size, like.constant), _square(a, b)


def _square(*tensors: Tensor) -> float:
    return sum(float(torch.linalg.vector_norm(tensor.float(), dtype=torch.float64)) ** 2 for tensor in tensors)


def _head(checkpoint: Checkpoint) -> str:
    """The head's path in transformers' module."""
    skeleton: Any = checkpoint.skeleton()
    head = skeleton.get_output_embeddings()
    return str(next(name for name, module in skeleton.named_modules() if module is head))


def _placed(name: str, family: Family, layers: int, head: str) -> tuple[int, int | None, str]:
    """A tensor's place, the block that it is in, and its name there."""
    if name.startswith(f"{family.blocks}."):
        number, _, within = name.removeprefix(f"{family.blocks}.").partition(".")
        return int(number) + 1, int(number) + 1, within
    if family.tail.norm is not None and name.startswith(f"{family.tail.norm}."):
        return layers + 1, None, name
    return layers + 2 if name.startswith(f"{head}.") else 0, None, name


def changed_settings(base: Any, new: Any) -> tuple[SettingChange, ...]:
    """The keys of two configurations that may change what is computed and have other values."""
    ours, theirs = (dict(_flat(config.to_dict())) for config in (base, new))
    return tuple(
        SettingChange(printable(key), _text(ours.get(key)), _text(theirs.get(key)))
        for key in dict.fromkeys((*ours, *theirs))
        if not _equal(ours.get(key), theirs.get(key))
    )


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if not before and key in _MUTE:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _equal(one: Any, other: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return math.isclose(one, other, rel_tol=_EQUAL) if numbers else bool(one == other)


def _text(value: Any) -> str:
    text = "not there" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return printable(text if len(text) <= 60 else f"{text[:59]}…")


def differing_blocks(base: Decoder, new: Decoder) -> frozenset[int]:
    """The layers whose blocks have other weights, as they are computed with."""
    layers = range(1, base.n_layers + 1)
    return frozenset(layer for layer in layers if base.block(layer).digest() != new.block(layer).digest())


@torch.no_grad()
def otherwise(base: Decoder, new: Decoder, tokens: Tensor, progress: Progress = SILENT) -> frozenset[int]:
    """The places at which two networks compute other things of the same inputs with the same weights, BASE's.

    Blocks are given random states. Of the embedding this is told where its weights are the same, else it isn't among
    them.

    Args:
        base: a network.
        new: another one, of the same architecture, whose configuration says something else.
        tokens: [sequences, positions], of which the first sequence is embedded.
        progress: told of each block.
    """
    layers = base.n_layers
    progress.stage("compare what is computed", layers)
    found = set()
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, tokens.shape[1], base.width, generator=generator).to(base.device, base.dtype)
    for layer in range(1, layers + 1):
        ours, theirs = base.block(layer), new.block(layer)
        weights, others = (dict(block.module.named_parameters()) for block in (ours, theirs))
        if weights.keys() != others.keys() or not torch.equal(ours(states), theirs.replaced(weights)(states)):
            found.add(layer)
        progress.advance()
    if not torch.equal(*(_normed(decoder, base, states) for decoder in (base, new))):
        found.add(layers + 1)
    if (base.family.tail.scale, base.family.tail.softcap) != (new.family.tail.scale, new.family.tail.softcap):
        found.add(layers + 2)
    return frozenset(found)


def _normed(decoder: Decoder, base: Decoder, states: Tensor) -> Tensor:
    """The states through a network's final norm, its weights BASE's."""
    weights = dict(base.norm.named_parameters())
    return cast("Tensor", torch.func.functional_call(decoder.norm, weights, (states,)))
