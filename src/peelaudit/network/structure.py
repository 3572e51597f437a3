"""A network's structure, found by a forward pass of transformers' own module on the meta device.

Looked for are the one list of modules, as many as there are layers, through which the hidden states go; the two linear
maps of a block whose products come to the residual stream by additions alone, and what a product passes on its way; and
what stands between the last block and the logits. No name is known beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from peelaudit.network.linear import is_linear
from peelaudit.network.tracing import Node, Trace

__all__ = ["Family", "Tail", "Unclear", "Writer", "find_structure"]

POSITIONS = 8
"""Of the sequence that is traced."""

_UNCHANGED = frozenset(
    {"view", "reshape", "_unsafe_view", "clone", "_to_copy", "alias", "detach", "slice", "expand", "contiguous"}
)
"""Operations that leave a value as it is where they leave its shape."""
_RESHAPED = frozenset({"view", "reshape", "_unsafe_view"})
_NORMALISING = ("rsqrt", "layer_norm", "rms_norm")
_MIXING = ("softmax", "scaled_dot_product")
"""By which parts of operations' names attention is known: nothing else weighs positions by what they hold."""
_RECURRENT = ("conv", "cumsum", "scan")
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


NO_PRODUCT = "what its blocks add to the residual stream isn't a linear map's product"
POST_NORM = "its blocks end in a norm of the residual stream, and can't be peeled"
NO_LAYERS = "its layers are not modules that are called one after another"
EXPERTS = "it is a mixture of experts"


class Unclear(Exception):
    """Why a network's structure isn't one that can be audited: half a sentence, after the network's name."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A matrix whose product is added to the residual stream: `path` within the block.

    `norm` is the normalisation that its product goes through before it is added, None where there is none. `scale` is
    what the product is multiplied by in all on its way into the block's output.
    """

    path: str
    norm: str | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows the blocks: a norm, by its path, the head, a factor of the logits and then a soft cap of them."""

    norm: str | None
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Where things are in a network's module: its blocks, each block's residual-writing matrices, what follows.

    `extras` is how many values a block returns behind the hidden states, None where it returns them alone.
    """

    blocks: str
    attention: Writer
    mlp: Writer
    tail: Tail
    extras: int | None = None

    def is_mlp_or_output(self, name: str) -> bool:
        """Whether a parameter of a block, by its path in the skeleton, is the MLP's or the attention's output."""
        path = name.removeprefix(f"{self.blocks}.").partition(".")[2]
        attention = self.attention.path.rpartition(".")[0]
        return not path.startswith(f"{attention}.") or path == f"{self.attention.path}.weight"


def find_structure(skeleton: nn.Module) -> Family:
    """The structure of a CausalLM module on the meta device, which is used up: its blocks are replaced.

    Raises:
        Unclear: it has none that an audit knows.
    """
    _check_experts(skeleton)
    path, blocks = _find_blocks(skeleton)
    looks: list[_Look] = []
    trace = Trace()
    for index, block in enumerate(blocks):
        looks.append(_Look(block, trace, looks[-1] if looks else None))
        blocks[index] = looks[-1]
    with trace, trace.marking(skeleton.named_modules()):
        logits = _logits(skeleton)
    if looks[-1].output is None:
        raise Unclear(NO_LAYERS)
    writers, extras = {look.writers for look in looks}, {look.extras for look in looks}
    if len(writers) > 1 or len(extras) > 1:
        raise Unclear("its blocks are not of one kind")
    attention, mlp = writers.pop()
    tail = _find_tail(trace.node(logits), looks[-1].output, skeleton)
    return Family(path, attention, mlp, tail, extras.pop())


def _check_experts(skeleton: nn.Module) -> None:
    """Raise Unclear where a module holds several matrices in one tensor, and isn't a convolution, or lists of MLPs."""
    for path, module in skeleton.named_modules():
        stacked = any(weight.ndim == 3 for weight in module.parameters(recurse=False)) and not _is_convolution(module)
        if stacked or (path.rpartition(".")[2] == "experts" and next(module.children(), None) is not None):
            raise Unclear(EXPERTS)


def _is_convolution(module: nn.Module) -> bool:
    return hasattr(module, "kernel_size")


def _logits(skeleton: nn.Module) -> Tensor:
    tokens = torch.zeros(1, POSITIONS, dtype=torch.long, device="meta")
    try:
        with torch.no_grad():
            output = skeleton(input_ids=tokens, use_cache=False)
    except Unclear:
        raise
    except Exception as error:
        raise Unclear(f"transformers can't run it on tokens alone ({type(error).__name__})") from None
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise Unclear("it returns no logits")
    return logits


def _find_blocks(skeleton: nn.Module) -> tuple[str, nn.ModuleList]:
    """The one list of as many modules as there are layers whose members are called one after another, once each."""
    layers = cast("Any", skeleton).config.num_hidden_layers
    lists = {
        path: module
        for path, module in skeleton.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == layers
    }
    if len(lists) > 1:
        called = [path for path, order in _calls(skeleton, lists).items() if order == list(range(layers))]
        lists = {p: lists[p] for p in called if not any(p.startswith(f"{other}.") for other in called)}
    if len(lists) != 1:
        raise Unclear(NO_LAYERS)
    return next(iter(lists.items()))


def _calls(skeleton: nn.Module, lists: Mapping[str, nn.ModuleList]) -> Mapping[str, list[int]]:
    """In which order a forward pass calls the members of lists."""
    calls: dict[str, list[int]] = {path: [] for path in lists}
    handles = [
        block.register_forward_pre_hook(lambda _module, _args, path=path, index=index: calls[path].append(index))
        for path, blocks in lists.items()
        for index, block in enumerate(blocks)
    ]
    with Trace():
        _logits(skeleton)
    for handle in handles:
        handle.remove()
    return calls


class _Look(nn.Module):
    """Stands where a block was, calls it, and finds its writers in what it does."""

    def __init__(self, block: nn.Module, outer: Trace, before: _Look | None) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not as a part of this module
        self._outer, self._before = outer, before
        self.output: Node | None = None
        self.writers: tuple[Writer, Writer]
        self.extras: int | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs.get("hidden_states")
        if not isinstance(hidden, Tensor) or not args:
            raise Unclear("its blocks aren't called on hidden states")
        if self.output is not None or (self._before is not None and self._before.output is None):
            raise Unclear(NO_LAYERS)
        if self._before is not None and not _is_same(self._outer.node(hidden), self._before.output):
            raise Unclear("hidden states are changed between one block and the next")
        block = self.__dict__["block"]
        trace = Trace()
        source = trace.start(hidden)
        with trace, trace.marking(block.named_modules()):
            result = block(*args, **kwargs)
        _check_arguments((args[1:], kwargs))
        self.extras = len(result) - 1 if isinstance(result, tuple) else None
        output = result[0] if isinstance(result, tuple) else result
        if not isinstance(output, Tensor) or output.shape != hidden.shape:
            raise Unclear("its blocks don't return hidden states")
        self.writers = _find_writers(trace.node(output), source)
        fresh = torch.empty_like(output)
        self.output = self._outer.start(fresh)
        return fresh if self.extras is None else (fresh, *result[1:])


def _check_arguments(arguments: Any) -> None:
    """Raise Unclear where a block is given anything that others may change."""
    for one in pytree.tree_leaves(arguments):
        if not isinstance(one, (Tensor, *_PLAIN)) and not (isinstance(one, Mapping) and not one):
            raise Unclear(f"its blocks hand things to one another ({type(one).__name__})")


@dataclass(frozen=True, slots=True)
class _Branch:
    """A product on its way to the residual stream."""

    writer: Writer
    given: Node
    product: Node


def _find_writers(output: Node | None, source: Node) -> tuple[Writer, Writer]:
    """The attention's and the MLP's, of a block that makes `output` of `source`."""
    branches = list(_branches(output, source))
    products = {branch.product for branch in branches}
    mixing = [_operations(branch.given, products, _MIXING) for branch in branches]
    if any(_operations(branch.given, products, _RECURRENT) for branch in branches):
        raise Unclear("its blocks are recurrent or convolutions, not attention alone")
    if sorted(mixing) != [False, True]:
        raise Unclear(
            f"{len(branches)} linear maps of a block write to the residual stream, {sum(mixing)} of them an attention's"
        )
    attention = mixing.index(True)
    return branches[attention].writer, branches[1 - attention].writer


def _branches(output: Node | None, source: Node) -> Iterator[_Branch]:
    """All that is added up to `output`, but the residual stream itself."""
    pending: list[tuple[Node | None, float]] = [(output, 1.0)]
    residual = False
    while pending:
        node, scale = pending.pop()
        if node is None:
            raise Unclear("its blocks' output doesn't follow from their input")
        if node is source:
            residual = True
        elif node.made is not None and is_linear(node.made.module):
            yield _Branch(Writer(node.made.path, None, scale), node.made.given, node)
        elif node.made is not None:
            yield _normed(node, scale)
        else:
            pending += list(_step(node, scale))
    if not residual:
        raise Unclear("its blocks don't add to a residual stream")


def _normed(node: Node, scale: float) -> _Branch:
    """A writer whose product passes a norm, or some other module, before it is added."""
    norm = node.made
    if norm is None or node.shape != norm.given.shape or not _operations(node, {norm.given}, _NORMALISING):
        raise Unclear(f"{NO_PRODUCT} ({_kind(node)})")
    inner = norm.given
    while inner.made is None:
        terms = _step(inner, scale)
        if len(terms) != 1:
            raise Unclear(POST_NORM)
        ((inner, scale),) = terms
    if not is_linear(inner.made.module):
        raise Unclear(POST_NORM)
    if isinstance(norm.module, nn.LayerNorm):
        raise Unclear("the products that its blocks add are centred by a norm first")
    return _Branch(Writer(inner.made.path, norm.path, scale), inner.made.given, inner)


def _step(node: Node, scale: float) -> list[tuple[Node, float]]:
    """What a sum or a multiple was made of, each with its factor; the value itself where it was only copied.

    Raises:
        Unclear: it was made in another way.
    """
    operation, parents = node.operation, node.parents
    if operation in ("add", "sub") and all(one.shape == node.shape for one in parents):
        numbers = [one for one in node.others if isinstance(one, float | int) and not isinstance(one, bool)]
        if len(parents) == 1 and not any(one != 1 for one in numbers):
            return [(parents[0], scale)]
        if len(parents) == 2 and operation == "add" and not numbers:
            return [(parents[0], scale), (parents[1], scale)]
    if operation in ("mul", "div") and len(parents) == 1 and (factor := _number(node.others)) is not None:
        return [(parents[0], scale * factor if operation == "mul" else scale / factor)]
    if operation in _UNCHANGED and len(parents) == 1 and _keeps(node, parents[0]):
        return [(parents[0], scale)]
    raise Unclear(f"{NO_PRODUCT} ({_kind(node)})")


def _keeps(node: Node, parent: Node) -> bool:
    """Whether an operation that leaves values as they are left all of them: a view may name rows another way."""
    if node.operation in _RESHAPED:
        return node.shape[-1:] == parent.shape[-1:]
    return node.shape == parent.shape


def _number(others: Sequence[Any]) -> float | None:
    """The one number that a value was multiplied by; None where it is a tensor of several, or isn't known."""
    values = [one for one in others if isinstance(one, Tensor | float | int) and not isinstance(one, bool)]
    if len(values) != 1:
        return None
    (value,) = values
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 and not value.is_meta else None
    return float(value)


def _operations(start: Node, stops: set[Node], names: Sequence[str]) -> bool:
    """Whether an operation whose name holds one of these lies behind a value, short of other values."""
    seen: set[Node] = set()
    pending = [start]
    while pending:
        node = pending.pop()
        if node in seen or node in stops:
            continue
        seen.add(node)
        if any(name in node.operation for name in names):
            return True
        pending += node.parents
    return False


def _is_same(node: Node | None, wanted: Node | None) -> bool:
    """Whether a value is another one, copied at most."""
    while node is not None and node is not wanted and node.operation in _UNCHANGED:
        node = node.parents[0] if len(node.parents) == 1 and _keeps(node, node.parents[0]) else None
    return node is not None and node is wanted


def _find_tail(logits: Node | None, states: Node | None, skeleton: nn.Module) -> Tail:
    """What makes the logits of the last block's output."""
    head = cast("Any", skeleton).get_output_embeddings()
    node, scale, capped = logits, 1.0, None
    while node is not None and not (node.made is not None and node.made.module is head):
        if node.operation == "tanh" and capped is None:
            (node,), scale, capped = node.parents, 1.0, scale
        else:
            node, scale = _one_step(node, scale)
    if node is None or node.made is None:
        raise Unclear("its logits don't follow from its head")
    softcap = capped
    scale *= 1.0 if capped is None else capped
    node, scale = _down_to(node.made.given, scale, states)
    norm = None
    if node.made is not None and node is not states:
        if node.shape != node.made.given.shape or not _operations(node, {node.made.given}, _NORMALISING):
            raise Unclear(f"between its blocks and its head stands more than a norm ({_kind(node)})")
        norm = node.made.path
        node, factor = _down_to(node.made.given, 1.0, states)
        if factor != 1:
            raise Unclear("hidden states are multiplied before the final norm")
    if node is not states:
        raise Unclear(f"between its blocks and its head stands more than a norm ({_kind(node)})")
    return Tail(norm, 1.0 if math.isclose(scale, 1.0, rel_tol=1e-9) else scale, softcap)


def _down_to(node: Node, scale: float, states: Node | None) -> tuple[Node, float]:
    """The value behind factors and copies: the output of a module, or of the blocks."""
    while node is not states and node.made is None:
        node, scale = _one_step(node, scale)
    return node, scale


def _one_step(node: Node, scale: float) -> tuple[Node, float]:
    """As `_step`, of what stands between the blocks and the logits."""
    try:
        terms = [] if node.operation in ("add", "sub") else _step(node, scale)
    except Unclear:
        terms = []
    if len(terms) != 1:
        raise Unclear(f"its logits are more than a norm, a head, a factor and a soft cap ({_kind(node)})")
    return terms[0]


def _kind(node: Node) -> str:
    return type(node.made.module).__name__ if node.made is not None else node.operation or "an input"
