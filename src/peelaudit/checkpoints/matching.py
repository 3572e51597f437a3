"""Which stored tensor belongs to which parameter of transformers' module, and whether all are there.

Stored names differ from the module's in an outer name (`transformer.` left out, `net.` put in front), in the names of
what torch wraps modules in (`_orig_mod`), in families that transformers renamed since, and in multimodal files where
the decoder is one part of several. The outer name that fits most parameters is taken for the whole file.
"""

from __future__ import annotations

import copy
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.store import Store
from peelaudit.errors import MismatchedWeights, UnsupportedCheckpoint

__all__ = [
    "Matched",
    "Origin",
    "conversions",
    "match",
    "outer_changes",
    "rename",
    "stored_vocabulary",
    "tied_names",
    "unwrapped",
]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")
_ADAPTER = re.compile(r"(^|\.)(lora_|base_layer\.)", re.IGNORECASE)
_MASK = re.compile(r"\.(attn|attention|self_attn)\.(bias|mask|causal_mask)$")
_NO_EFFECT = re.compile(
    r"(^|\.)(original_)?inv_freq$|\.(cos|sin)_cached$|(^|\.)freqs_cis$"  # made anew from the configuration
    r"|(^|\.)position_ids$|\.masked_bias$|^n_averaged$"
    r"|\.([qkv]|kv|prob)_scale$|\.[qkv]_proj\.output_scale$"  # of a cache in 8 bits
    r"|\._extra_state$"  # what a training library remembers of scales
)
"""Names of stored tensors that change nothing in what the network computes."""
_WRAPPERS = frozenset(
    {
        "_orig_mod",  # torch.compile
        "_checkpoint_wrapped_module",  # activation checkpointing
        "_fsdp_wrapped_module",
        "_fpw_module",  # FSDP of torch 1
        "_forward_module",  # Lightning's Fabric
        "module",  # data parallelism, DeepSpeed, averages of weights
    }
)
"""What a module is called within one that is wrapped around it. No module of transformers' decoders has such a name."""
_SHOWN = 3
_DEEPEST = 4


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a parameter comes from: a stored tensor, changed or not, or zeros where the format leaves it out.

    `parts` is how many matrices, stored apart, it is made of, one's outputs behind the other's.
    """

    stored: str | None
    shape: tuple[int, ...]
    change: Callable[[torch.Tensor], torch.Tensor] | None = None
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Matched:
    """An origin for every name of the module, and the stored names that have no use.

    `copies` has, for a tied name that is stored although its partner is too, the stored copy's own origin.
    """

    origins: Mapping[str, Origin]
    ignored: tuple[str, ...]
    copies: Mapping[str, Origin]


def tied_names(skeleton: torch.nn.Module) -> Mapping[str, str]:
    """Every name of the module's state dict with the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in _state(skeleton).items()}


def unwrapped(name: str) -> str:
    """A stored name without what modules were wrapped in, wherever in it that stands."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def rename(
    store: Store, skeleton: torch.nn.Module, *, within_wrapper: bool, made: Mapping[str, int] | None = None
) -> Mapping[str, Origin]:
    """Every stored tensor under the module's name for it, where it has one, else under its own.

    Args:
        store: of the tensors.
        skeleton: the module.
        within_wrapper: whether it is the text part of a multimodal file.
        made: those of the store's names that are the module's already, whatever the others' outer name, and of how many
            parts each is.
    """
    made = made or {}
    wanted = set(_state(skeleton))
    renamed = _renamings(skeleton)
    best: dict[str, str] = {}
    fits = -1
    bare = {stored: unwrapped(stored) for stored in store.tensors}
    outside = tuple(name for stored, name in bare.items() if stored not in made)
    for outer in outer_changes(outside, skeleton, within_wrapper=within_wrapper):
        names = {stored: renamed(outer(name)) for stored, name in bare.items()}
        names = {stored: bare[stored] if bare[stored] in wanted else name for stored, name in names.items()}
        fit = len(wanted.intersection(names.values()))
        if fit > fits:
            best, fits = names, fit
    origins: dict[str, Origin] = {}
    for stored, name in best.items():
        if name in origins:
            raise MismatchedWeights(f"{quoted(store.paths[0])}: the tensor {quoted(name)} is stored twice")
        origins[name] = Origin(stored, store.tensors[stored].shape, parts=made.get(stored, 1))
    return origins


def match(
    found: Mapping[str, Origin], skeleton: torch.nn.Module, subject: str, *, within_wrapper: bool = False
) -> Matched:
    """Compare the names and shapes found with those that the module has.

    Args:
        found: by the module's names, or their own where it has none.
        skeleton: the module.
        subject: the file, which begins the messages.
        within_wrapper: whether the module is the text part of a multimodal file, whose other parts are left alone.

    Raises:
        MismatchedWeights: one is missing, has another shape, or has no place in the module and isn't known to be
            without effect.
        UnsupportedCheckpoint: an adapter's weights stand beside the model's.
    """
    _check_adapters(found, subject)
    wanted = _state(skeleton)
    tied = tied_names(skeleton)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, source in tied.items():
        groups[source].append(name)
    origins: dict[str, Origin] = {}
    copies: dict[str, Origin] = {}
    missing: list[str] = []
    for source, names in groups.items():
        present = [name for name in names if name in found]
        if not present:
            missing.append(source)
            continue
        copies.update((name, found[name]) for name in present[1:])
        origins.update((name, found[present[0]]) for name in names)
    if missing:
        head = _names_of_words(skeleton)[1]
        base = ", the head: a base model, of which the whole is needed" if missing == [tied.get(head)] else ""
        raise MismatchedWeights(f"{subject}: {_count(missing, len(groups))} missing: {_shown(missing)}{base}")
    for name in wanted:
        if origins[name].shape != tuple(wanted[name].shape):
            raise MismatchedWeights(
                f"{subject}: the tensor {quoted(name)} is {_size(origins[name].shape)},"
                f" but the configuration makes it {_size(tuple(wanted[name].shape))}"
            )
    _check_extra(found, skeleton, subject, within_wrapper=within_wrapper)
    ignored = tuple(origin.stored for name, origin in found.items() if name not in wanted and origin.stored is not None)
    return Matched({name: origins[name] for name in wanted}, ignored, copies)


def stored_vocabulary(found: Mapping[str, Origin], skeleton: torch.nn.Module) -> int | None:
    """How many words the embedding and the head hold, where both hold the same number and it isn't the module's; None
    where they are of its size, or disagree.
    """
    names = _names_of_words(skeleton)
    is_tied = len({tied_names(skeleton).get(name) for name in names}) == 1
    shapes = {found[name].shape for name in names if name in found}
    whole = is_tied or all(name in found for name in names)
    if not whole or len(shapes) != 1:
        return None
    stored, own = shapes.pop(), tuple(_state(skeleton)[names[0]].shape)
    return stored[0] if len(stored) == 2 and stored[1:] == own[1:] and 0 < stored[0] != own[0] else None


def _names_of_words(skeleton: torch.nn.Module) -> tuple[str, str]:
    """The names of the embedding's and the head's weight."""
    names = {id(module): f"{name}.weight" for name, module in skeleton.named_modules()}
    ends = (skeleton.get_input_embeddings(), skeleton.get_output_embeddings())  # type: ignore[operator]
    return names.get(id(ends[0]), ""), names.get(id(ends[1]), "")


def _state(skeleton: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    return skeleton.state_dict(keep_vars=True)


def outer_changes(
    names: Collection[str], skeleton: torch.nn.Module, *, within_wrapper: bool
) -> tuple[Callable[[str], str], ...]:
    """The changes of the outer name worth trying, the identity first."""
    wanted = _state(skeleton)
    base = f"{skeleton.base_model_prefix}."
    outer = Counter(name[: dot.end()] for name in names for dot in islice(re.finditer(r"\.", name), _DEEPEST))
    prefixes = ["", *(prefix for prefix, count in outer.items() if 2 * count >= len(names))]
    if within_wrapper:
        prefixes += ["language_model."]
        return (
            *(lambda name, cut=prefix: name.removeprefix(cut) for prefix in prefixes),
            lambda name: re.sub(r"^model\.language_model\.", base, name),
        )

    def within_base(name: str) -> str:
        return name if name in wanted else base + name

    return (
        *(lambda name, cut=prefix: name.removeprefix(cut) for prefix in prefixes),
        *(lambda name, cut=prefix: within_base(name.removeprefix(cut)) for prefix in prefixes),
    )


def _renamings(skeleton: torch.nn.Module) -> Callable[[str], str]:
    """The renaming that transformers has for a family's older names; the identity for most."""
    entries = copy.deepcopy([entry for entry in conversions(skeleton) if not getattr(entry, "operations", None)])

    def renamed(name: str) -> str:
        for entry in entries:
            name = entry.rename_source_key(name)[0]
        return name

    return renamed


def conversions(skeleton: torch.nn.Module) -> list[Any]:
    """What transformers does to a family's stored tensors as it reads them, in its order: renamings, and conversions,
    which have `operations`.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping

    found: list[Any] = get_model_conversion_mapping(skeleton, add_legacy=False)
    return found


def _check_extra(found: Mapping[str, Origin], skeleton: torch.nn.Module, subject: str, *, within_wrapper: bool) -> None:
    """Raise MismatchedWeights for a stored tensor without a place, unless it is known to be without effect."""
    wanted = _state(skeleton)
    extra = [name for name in found if name not in wanted]
    layers = [name for name in extra if any(zeroed in wanted for zeroed in _zeroed(name))]
    if layers:
        raise MismatchedWeights(f"{subject}: layers beyond the configuration's are stored: {_shown(layers)}")
    places = _places(skeleton)
    unused = [
        name
        for name in extra
        if not _has_no_effect(name, found[name].shape)
        and not (within_wrapper and not name.startswith(places) and not _of_text(found[name].stored))
    ]
    if unused:
        raise MismatchedWeights(
            f"{subject}: the configuration has no place for {_shown(unused)}: what these tensors do to the network"
            " would be left out"
        )


def _has_no_effect(name: str, shape: tuple[int, ...]) -> bool:
    is_mask = bool(_MASK.search(name)) and len(shape) == 4 and shape[:2] == (1, 1)
    return is_mask or bool(_NO_EFFECT.search(name))


def _of_text(stored: str | None) -> bool:
    """Whether a multimodal file's own name puts a tensor into the text decoder."""
    return "language_model." in (stored or "")


def _places(skeleton: torch.nn.Module) -> tuple[str, ...]:
    """What the names of the decoder's own parts begin with."""
    base = skeleton.base_model_prefix
    inner = [f"{base}.{name}." for name, _ in skeleton.get_submodule(str(base)).named_children()]
    return (*inner, *(f"{name}." for name, _ in skeleton.named_children() if name != base))


def _check_adapters(names: Collection[str], subject: str) -> None:
    """Raise UnsupportedCheckpoint where weights of an adapter stand among those of the model."""
    if found := [name for name in names if _ADAPTER.search(name)]:
        raise UnsupportedCheckpoint(
            f"{subject}: holds an adapter that isn't merged ({_shown(found)}); merge it into its model (in peft,"
            " merge_and_unload) and save that"
        )


def _zeroed(name: str) -> tuple[str, ...]:
    """`name` with each of its first numbers in turn replaced by 0."""
    numbers = islice(_NUMBER.finditer(name), _DEEPEST)
    return tuple(f"{name[: found.start()]}0{name[found.end() :]}" for found in numbers)


def _shown(names: Collection[str]) -> str:
    first = ", ".join(quoted(name) for name in list(names)[:_SHOWN])
    return first if len(names) <= _SHOWN else f"{first} and {len(names) - _SHOWN} more"


def _count(names: Collection[str], of: int) -> str:
    return f"{len(names)} of {of} tensors {'is' if len(names) == 1 else 'are'}"


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"
