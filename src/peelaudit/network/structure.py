"""A network's structure, found by a forward pass of transformers' own module on the meta device.

Looked for are the one list of modules, as many as there are layers, through which the hidden states go; the two linear
maps of a block whose products come to the residual stream by additions alone (of a mixture its experts, and the MLP
beside them), and what a product passes on its way; and what stands between the last block and the logits. No name is
known beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from peelaudit.checkpoints.unheard import unheard
from peelaudit.network.experts import check_experts, trace_experts
from peelaudit.network.parts import Family, Unclear, Writer
from peelaudit.network.residual import find_tail, find_writers, is_same
from peelaudit.network.tracing import Node, Trace

__all__ = ["find_structure"]

POSITIONS = 8
"""Of the sequence that is traced."""

NO_LAYERS = "its layers are not modules that are called one after another"
SHARED = "its blocks are given the tokens besides, or other blocks' keys and values"


def find_structure(skeleton: nn.Module) -> Family:
    """The structure of a CausalLM module on the meta device, which is used up: its blocks are replaced.

    Raises:
        Unclear: it has none that an audit knows.
    """
    check_experts(skeleton)
    trace_experts(skeleton)
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
    extras = {look.extras for look in looks}
    if len(extras) > 1:
        raise Unclear("its blocks are not of one kind")
    tail = find_tail(trace.node(logits), looks[-1].output, cast("Any", skeleton).get_output_embeddings())
    return Family(path, tuple(look.writers for look in looks), tail, extras.pop())


def _logits(skeleton: nn.Module) -> Tensor:
    tokens = torch.zeros(1, POSITIONS, dtype=torch.long, device="meta")
    try:
        with torch.no_grad(), unheard():
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
        self.writers: tuple[Writer, ...] = ()
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
        if self._before is not None and not is_same(self._outer.node(hidden), self._before.output):
            raise Unclear("hidden states are changed between one block and the next")
        block = self.__dict__["block"]
        args, kwargs = pytree.tree_map(_guarded, (args, kwargs))
        trace = Trace()
        source = trace.start(hidden)
        with trace, trace.marking(block.named_modules()):
            result = block(*args, **kwargs)
        self.extras = len(result) - 1 if isinstance(result, tuple) else None
        output = result[0] if isinstance(result, tuple) else result
        if not isinstance(output, Tensor) or output.shape != hidden.shape:
            raise Unclear("its blocks don't return hidden states")
        self.writers = find_writers(trace.node(output), source, block)
        fresh = torch.empty_like(output)
        self.output = self._outer.start(fresh)
        return fresh if self.extras is None else (fresh, *result[1:])


class _Unread(dict[Any, Any]):
    """A place that blocks may leave things in, as long as no block looks at them."""

    def _read(self, *_: Any) -> Any:
        raise Unclear(SHARED)

    __getitem__ = __contains__ = __iter__ = get = pop = keys = values = items = _read


def _guarded(argument: Any) -> Any:
    """An argument of a block, if it can be one that no block changes for another; what they could share, unread.

    Raises:
        Unclear: it is something else.
    """
    if isinstance(argument, Tensor | int | float | str | torch.dtype | torch.device | None):
        return argument
    if isinstance(argument, MutableMapping) and not argument:
        return _Unread()
    raise Unclear(f"{SHARED} ({type(argument).__name__})")
