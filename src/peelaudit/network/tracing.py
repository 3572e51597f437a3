"""What is computed from what, in a forward pass on the meta device: tensors without values, operations as they come.

Nothing is calculated, so that a network of any size takes milliseconds and no memory. Where a forward asks for a value
(whether all of a mask is ones), it is told yes, or 0: what is found so is held to real values when a network is loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from peelaudit.network.experts import are_experts
from peelaudit.network.linear import is_linear

__all__ = ["Made", "Node", "Trace"]


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """Which module a value came out of, by its path, and what the module was given."""

    path: str
    module: nn.Module
    given: Node


@dataclass(slots=True, eq=False)
class Node:
    """A value that follows from those traced.

    Attributes:
        operation: by which it was made: aten's name, without overload or the mark of working in place; empty for
            what is traced itself.
        parents: the traced values that it was made of.
        others: the numbers and tensors that it was made with besides.
        shape: of the value.
        made: by which module, if it is a module's output.
    """

    operation: str
    parents: tuple[Node, ...]
    others: tuple[Any, ...]
    shape: torch.Size
    made: Made | None = field(default=None)


def _name(func: Any) -> str:
    """An operation's name, the same where it works in place."""
    name: str = func.overloadpacket.__name__
    return name.removesuffix("_")


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows values through all operations while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._nodes: dict[int, tuple[Tensor, Node]] = {}  # with the tensors, whose ids stay theirs so

    def start(self, tensor: Tensor) -> Node:
        """Follow a tensor from here on, whatever it came from."""
        return self._keep(tensor, Node("", (), (), tensor.shape))

    def node(self, tensor: Tensor) -> Node | None:
        """What a tensor is, None where it doesn't follow from what is traced."""
        found = self._nodes.get(id(tensor))
        return None if found is None else found[1]

    def _keep(self, tensor: Tensor, node: Node) -> Node:
        self._nodes[id(tensor)] = (tensor, node)
        return node

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and keep what it made of what is traced."""
        given = pytree.tree_leaves((args, kwargs))
        if func is torch.ops.aten._local_scalar_dense.default and given[0].is_meta:
            return given[0].dtype is torch.bool
        result = func(*args, **(kwargs or {}))
        parents = tuple(node for one in given if isinstance(one, Tensor) and (node := self.node(one)) is not None)
        if parents:
            others = tuple(one for one in given if not isinstance(one, Tensor) or self.node(one) is None)
            for one in pytree.tree_leaves(result):
                if isinstance(one, Tensor):
                    self._keep(one, Node(_name(func), parents, others, one.shape))
        return result

    @contextlib.contextmanager
    def marking(self, modules: Iterable[tuple[str, nn.Module]]) -> Iterator[None]:
        """Note at every value which of these modules it came out of, the innermost: linear maps, experts, and modules
        without parts of their own.
        """
        handles = [
            module.register_forward_hook(self._mark(path), with_kwargs=True)
            for path, module in modules
            if is_linear(module) or are_experts(module) or next(module.children(), None) is None
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _mark(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = next((one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)), None)
            if isinstance(output, Tensor) and given is not None:
                made, before = self.node(output), self.node(given)
                if made is not None and before is not None and made is not before and made.made is None:
                    made.made = Made(path, module, before)

        return hook
