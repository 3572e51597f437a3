"""What a block adds to the residual stream, and what is made of its last state, told from how they were computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from peelaudit.network.experts import are_experts
from peelaudit.network.linear import is_linear
from peelaudit.network.parts import Tail, Unclear, Writer
from peelaudit.network.tracing import Made, Node

__all__ = ["find_tail", "find_writers", "is_same"]

_UNCHANGED = frozenset(
    {"view", "reshape", "_unsafe_view", "clone", "_to_copy", "alias", "detach", "slice", "expand", "contiguous"}
)
"""Operations that leave a value as it is where they leave its shape."""
_RESHAPED = frozenset({"view", "reshape", "_unsafe_view"})
_NORMALISING = ("rsqrt", "mean", "layer_norm", "rms_norm")
_MIXING = ("softmax", "scaled_dot_product")
"""By which parts of operations' names attention is known: nothing else weighs positions by what they hold."""
_RECURRENT = ("conv", "cumsum", "scan")

NO_PRODUCT = "what its blocks add to the residual stream isn't a linear map's product"
POST_NORM = "its blocks end in a norm of the residual stream, and can't be peeled"


@dataclass(frozen=True, slots=True)
class _Branch:
    """A product on its way to the residual stream."""

    writer: Writer
    given: Node
    product: Node


@dataclass(frozen=True, slots=True)
class _Scale:
    """By what a value is multiplied on its way: a number, and one-element tensors of the block, by their names."""

    names: Mapping[int, str]
    number: float = 1.0
    learned: tuple[str, ...] = ()
    gate: str | None = None

    def times(self, factor: float | Tensor | Made) -> _Scale:
        if isinstance(factor, Made):
            if self.gate is not None:
                raise Unclear(f"{NO_PRODUCT} (two gates)")
            return replace(self, gate=factor.path)
        if not isinstance(factor, Tensor):
            return replace(self, number=self.number * factor)
        if id(factor) not in self.names:
            raise Unclear(f"{NO_PRODUCT} (mul)")
        return replace(self, learned=(*self.learned, self.names[id(factor)]))

    def writer(self, path: str, norm: str | None) -> Writer:
        return Writer(path, norm, self.number, self.learned, self.gate)


def find_writers(output: Node | None, source: Node, block: nn.Module) -> tuple[Writer, ...]:
    """The attention's and then the MLP's, of a block that makes `output` of `source`.

    Raises:
        Unclear: the block adds other things than one product of each, or a mixture's experts and some beside them.
    """
    names = {id(tensor): name for name, tensor in (*block.named_parameters(), *block.named_buffers())}
    branches = list(_branches(output, source, _Scale(names)))
    products = {branch.product for branch in branches}
    mixing = [_operations(branch.given, products, _MIXING) for branch in branches]
    if any(_operations(branch.given, products, _RECURRENT) for branch in branches):
        raise Unclear("its blocks are recurrent or convolutions, not attention alone")
    experts = [are_experts(block.get_submodule(branch.writer.path)) for branch in branches]
    if sum(mixing) != 1 or sum(experts) > 1 or (len(branches) != 2 and not any(experts)):
        raise Unclear(
            f"{len(branches)} linear maps of a block write to the residual stream, {sum(mixing)} of them an attention's"
        )
    attention = mixing.index(True)
    others = [branch.writer for index, branch in enumerate(branches) if index != attention]
    return branches[attention].writer, *sorted(others, key=lambda writer: writer.path)


def _branches(output: Node | None, source: Node, unscaled: _Scale) -> Iterator[_Branch]:
    """All that is added up to `output`, but the residual stream itself."""
    pending = [(output, unscaled)]
    residual = False
    while pending:
        node, scale = pending.pop()
        if node is None:
            raise Unclear("its blocks' output doesn't follow from their input")
        if node is source:
            residual = True
        elif node.made is not None and _writes(node.made):
            yield _Branch(scale.writer(node.made.path, None), node.made.given, node)
        elif node.made is not None:
            yield from _normed(node, source, scale)
        else:
            pending += [(parent, scale.times(factor)) for parent, factor in _step(node)]
    if not residual:
        raise Unclear("its blocks don't add to a residual stream")


def _normed(node: Node, source: Node, scale: _Scale) -> Iterator[_Branch]:
    """Writers whose products pass a norm before they are added: one, or a mixture's experts and those beside them."""
    norm = node.made
    if norm is None or node.shape != norm.given.shape or not _operations(node, {norm.given}, _NORMALISING):
        raise Unclear(f"{NO_PRODUCT} ({_kind(node)})")
    found: list[_Branch] = []
    pending = [(norm.given, scale)]
    while pending:
        inner, within = pending.pop()
        if inner is source or (inner.made is not None and not _writes(inner.made)):
            raise Unclear(POST_NORM)
        if inner.made is None:
            pending += [(parent, within.times(factor)) for parent, factor in _step(inner)]
        elif within.gate is not None:
            raise Unclear(f"{NO_PRODUCT} (gated)")
        else:
            found.append(_Branch(within.writer(inner.made.path, norm.path), inner.made.given, inner))
    if len(found) > 1 and not any(are_experts(one.product.made.module) for one in found if one.product.made):
        raise Unclear(POST_NORM)
    if isinstance(norm.module, nn.LayerNorm):
        raise Unclear("the products that its blocks add are centred by a norm first")
    yield from found


def _writes(made: Made) -> bool:
    """Whether a module is one whose products may be added to the residual stream."""
    return is_linear(made.module) or are_experts(made.module)


def _of_experts(node: Node) -> bool:
    """Whether a value is what experts made, copies aside."""
    while node.made is None and node.operation in _UNCHANGED and len(node.parents) == 1:
        node = node.parents[0]
    return node.made is not None and are_experts(node.made.module)


def _step(node: Node) -> list[tuple[Node, float | Tensor | Made]]:
    """What a sum or a multiple was made of, each with its factor (a gate's is the linear map that its sigmoid is taken
    of); the value itself where it was only copied.

    Raises:
        Unclear: it was made in another way.
    """
    operation, parents, others = node.operation, node.parents, node.others
    if operation == "add" and all(one.shape == node.shape for one in parents) and not _numbers(others):
        return [(parent, 1.0) for parent in parents]
    if operation == "mul" and len(parents) == len(others) == 1 and _is_single(others[0]):
        return [(parents[0], others[0] if isinstance(others[0], Tensor) else float(others[0]))]
    if operation == "mul" and len(parents) == 2 and not others and (gated := _gated(*parents)) is not None:
        return [gated]
    if operation == "div" and len(parents) == len(others) == 1 and (by := _numbers(others)) and by[0]:
        return [(parents[0], 1 / by[0])]
    if operation in _UNCHANGED and len(parents) == 1 and _keeps(node, parents[0]):
        return [(parents[0], 1.0)]
    if operation == "sum" and parents[0].shape[1:] == node.shape and others == (0,) and _of_experts(parents[0]):
        return [(parents[0], 1.0)]  # over experts, each of which has rows of its own
    raise Unclear(f"{NO_PRODUCT} ({_kind(node)})")


def _gated(one: Node, other: Node) -> tuple[Node, Made] | None:
    """Which of two values the other one is a gate of, and of which linear map the gate is the sigmoid."""
    for gate, value in ((one, other), (other, one)):
        given = gate.parents[0] if gate.operation == "sigmoid" else None
        if given is not None and gate.shape[-1:] == (1,) and given.made is not None and is_linear(given.made.module):
            return value, given.made
    return None


def _keeps(node: Node, parent: Node) -> bool:
    """Whether an operation that leaves values as they are left all of them: a view may name rows another way."""
    if node.operation in _RESHAPED:
        return node.shape[-1:] == parent.shape[-1:]
    return node.shape == parent.shape


def _numbers(others: Sequence[Any]) -> list[float]:
    return [float(one) for one in others if isinstance(one, float | int) and not isinstance(one, bool)]


def _is_single(other: Any) -> bool:
    """Whether a value was multiplied by one number, known or not."""
    return other.numel() == 1 if isinstance(other, Tensor) else bool(_numbers([other]))


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


def is_same(node: Node | None, wanted: Node | None) -> bool:
    """Whether a value is another one, copied at most."""
    while node is not None and node is not wanted and node.operation in _UNCHANGED:
        node = node.parents[0] if len(node.parents) == 1 and _keeps(node, node.parents[0]) else None
    return node is not None and node is wanted


def find_tail(logits: Node | None, states: Node | None, head: nn.Module) -> Tail:
    """What makes the logits of the last block's output, `states`, with this head.

    Raises:
        Unclear: more than a norm, the head, a factor and a soft cap.
    """
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
        terms = [] if node.operation == "add" else _step(node)
    except Unclear:
        terms = []
    if len(terms) != 1 or isinstance(factor := terms[0][1], Tensor | Made):
        raise Unclear(f"its logits are more than a norm, a head, a factor and a soft cap ({_kind(node)})")
    return terms[0][0], scale * factor


def _kind(node: Node) -> str:
    return type(node.made.module).__name__ if node.made is not None else node.operation or "an input"
