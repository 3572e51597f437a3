"""Experts as linear maps of their own: transformers keeps those of a mixture in a few tensors, [experts, …].

Here each expert's matrices become modules like any other of a block, so that whatever looks at a linear map, changes
it or fits it does so with an expert's: only the tokens that are routed to an expert go through it. What is computed
around the matrices (the gate's activation, a limit) is transformers' own code, called as its other implementations of
experts call it; `separate` holds the result to transformers' plain one.

Llama 4's are given all tokens once for each expert, times the router's score: 0 but for the experts of a token.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peelaudit.network.linear import InputsFirst, is_linear
from peelaudit.network.parts import Unclear
from peelaudit.network.routes import Routing, assigned

__all__ = [
    "are_experts",
    "check_experts",
    "down_maps",
    "exchange",
    "expert_maps",
    "map_names",
    "routers",
    "routing_of",
    "separate",
    "stacked",
    "stacks",
    "trace_experts",
    "unstacked",
]

_IMPLEMENTATION = "one_by_one"
_PROBED = 16
"""Tokens that both ways of computing are compared on."""
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
_WAYS = ("num_experts", "has_gate", "has_bias", "is_transposed", "has_post_expert_norm")
"""What transformers says of experts whose implementation it lets one choose."""

_ALL_TOKENS = frozenset({"Llama4TextExperts"})
"""Classes of experts that are called so, and with nothing else. Their `forward` is all that is known of them."""

NOT_OURS = "its experts are computed in a way that isn't known"


def are_experts(module: nn.Module) -> bool:
    """Whether a module is the routed experts of a mixture, as transformers keeps them or made separate."""
    known = _sees_all_tokens(module) or all(hasattr(module, name) for name in _WAYS)
    return known and _first(module) is not None


def _sees_all_tokens(module: nn.Module) -> bool:
    return type(module).__name__ in _ALL_TOKENS


def _first(module: nn.Module) -> str | None:
    """The name of the experts' first matrices, None where there are none."""
    name = "gate_up_proj" if getattr(module, "has_gate", True) else "up_proj"
    return name if hasattr(module, name) and hasattr(module, "down_proj") else None


def _maps(module: nn.Module) -> tuple[str, str]:
    return _first(module) or "", "down_proj"


def check_experts(skeleton: nn.Module) -> None:
    """Look at every module that holds several matrices in one tensor, and isn't a convolution, and at lists of MLPs.

    Raises:
        Unclear: they aren't experts that are known.
    """
    for path, module in skeleton.named_modules():
        stacks = {name for name, weight in module.named_parameters(recurse=False) if weight.ndim == 3}
        if not stacks or hasattr(module, "kernel_size"):
            if path.rpartition(".")[2] == "experts" and next(module.children(), None) is not None and not stacks:
                raise Unclear(NOT_OURS)
            continue
        own = {name for name, _ in module.named_parameters(recurse=False)}
        biases = {f"{name}_bias" for name in stacks} if getattr(module, "has_bias", False) else set()
        if not are_experts(module) or stacks != set(_maps(module)) or own != stacks | biases:
            raise Unclear(NOT_OURS)
        if getattr(module, "has_post_expert_norm", False):
            raise Unclear("a norm stands behind each of its experts")


def stacks(module: nn.Module) -> dict[str, bool]:
    """The tensors in which transformers keeps several experts' matrices, by name, and whether these are [inputs,
    outputs].
    """
    found = [(path, one) for path, one in module.named_modules() if are_experts(one)]
    return {
        f"{path}.{name}": bool(getattr(one, "is_transposed", _sees_all_tokens(one)))
        for path, one in found
        for name in _maps(one)
    }


def map_names(stack: str, count: int) -> list[str]:
    """The names of the weights that so many matrices of a stack have once they are maps of their own."""
    return [f"{stack}.{expert}.weight" for expert in range(count)]


def routers(skeleton: nn.Module) -> frozenset[str]:
    """The names of the matrices that decide on each token's experts."""
    found = [(path, one) for path, one in skeleton.named_modules() if are_experts(one)]
    return frozenset(
        f"{beside}.{name}.weight"
        for path, experts in found
        for beside in [path.rpartition(".")[0]]
        for name, one in skeleton.get_submodule(beside).named_modules()
        if is_linear(one) and len(cast("Tensor", one.weight)) == cast("Any", experts).num_experts
    )


def trace_experts(skeleton: nn.Module) -> None:
    """Let experts be computed without a look at values: all of their operations depend on shapes alone."""
    for module in skeleton.modules():
        if are_experts(module) and not _sees_all_tokens(module):
            cast("Any", module).config._experts_implementation = "batched_mm"


def _one_by_one(module: Any, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of each token's experts, [tokens, d_model]: one expert after another, on its tokens.

    Args:
        module: made by `separate`.
        hidden: [tokens, d_model]
        experts: [tokens, experts of a token], their numbers.
        weights: of that shape.
    """
    tokens, each = experts.shape
    weights = module.routing(experts, weights)
    order, counts = assigned(experts, module.num_experts)
    first, last = (getattr(module, name) for name in _maps(module))
    products = []
    for expert, given in enumerate(torch.split(hidden[order // each], counts)):
        if len(given):
            inner = first[expert](given)
            products.append(last[expert](module._apply_gate(inner) if module.has_gate else module.act_fn(inner)))
    weighted = torch.cat(products) * weights.flatten()[order, None]
    return weighted[order.argsort()].view(tokens, each, -1).sum(dim=1).to(hidden.dtype)


class _GivenAll(nn.Module):
    """Llama 4's experts, of which each is given the rows of its part that aren't 0."""

    has_gate, has_bias, is_transposed, has_post_expert_norm = True, False, True, False
    gate_up_proj: Any
    down_proj: Any
    routing: Routing

    def __init__(self, experts: Any, each: int) -> None:
        """`experts` are transformers', of which a token is given to `each`; their tensors are shared."""
        super().__init__()
        self.num_experts, self.each, self.act_fn = experts.num_experts, each, experts.act_fn
        self.gate_up_proj, self.down_proj = experts.gate_up_proj, experts.down_proj

    def forward(self, hidden: Tensor) -> Tensor:
        """[experts × tokens, d_model] of the tokens once for each expert, times the router's score, of that shape."""
        rows = hidden.view(self.num_experts, -1, hidden.shape[-1])
        experts = rows.detach().abs().amax(dim=-1).topk(self.each, dim=0).indices.T
        self.routing(experts, rows.new_ones(experts.shape))
        order, counts = assigned(experts, self.num_experts)
        first = torch.arange(self.num_experts, device=hidden.device) * rows.shape[1]
        chosen = torch.repeat_interleave(first, torch.tensor(counts, device=hidden.device)) + order // self.each
        products = [
            self.down_proj[expert](self._apply_gate(self.gate_up_proj[expert](given)))
            for expert, given in enumerate(torch.split(hidden[chosen], counts))
            if len(given)
        ]
        return torch.zeros_like(hidden).index_copy(0, chosen, torch.cat(products))

    def _apply_gate(self, inner: Tensor) -> Tensor:
        gate, up = inner.chunk(2, dim=-1)
        return cast("Tensor", up * self.act_fn(gate))


@torch.no_grad()
def separate(block: nn.Module) -> None:
    """Make the experts of a block, weights and all, maps of their own, which share the stacked tensors' memory.

    Args:
        block: changed in place.

    Raises:
        Unclear: what they compute then isn't what transformers' plain implementation does, or a router doesn't return
            the products with its weights.
    """
    found = [(path, module) for path, module in block.named_modules() if are_experts(module)]
    if found:
        _check_routers(block)
    for path, module in found:
        made, probe, wanted = _one_given_all(block, path) if _sees_all_tokens(module) else _one_given_its_own(module)
        if not _agree(made(*probe), wanted):
            raise Unclear(f"{NOT_OURS} ({path})")


_Separated = tuple[nn.Module, tuple[Tensor, ...], Tensor]
"""Experts made separate, arguments to call them with, and what transformers made of these."""


def _one_given_its_own(module: nn.Module) -> _Separated:
    """Experts that are told of their tokens, changed in place."""
    probe = _probe(module)
    _implement(module, "eager")
    wanted = module(*probe)
    _split(module)
    _implement(module, _IMPLEMENTATION)
    return module, probe, wanted


def _one_given_all(block: nn.Module, path: str) -> _Separated:
    """Experts that see all tokens, replaced in the block."""
    whole = block.get_submodule(path)
    made = _GivenAll(whole, cast("Any", block.get_submodule(path.rpartition(".")[0])).top_k)
    hidden, experts, weights = _probe(made)
    scores = hidden.new_zeros(len(hidden), made.num_experts).scatter(1, experts[:, : made.each], weights)
    rows = (hidden * scores.T[..., None]).flatten(0, 1)
    wanted = whole(rows)
    _split(made)
    block.set_submodule(path, made)
    return made, (rows,), wanted


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether they are the same but for rounding."""
    least = _TOLERANCES[one.dtype] * max(float(other.abs().max()), torch.finfo(one.dtype).tiny)
    return one.shape == other.shape and bool(((one - other).abs() <= least).all())


def _check_routers(block: nn.Module) -> None:
    """Find the product with its weights, which a router is taken for, among what it returns: its `product`th value."""
    for path, module in block.named_modules():
        if not is_linear(module) or type(module).forward is nn.Linear.forward:
            continue
        router = cast("Any", module)
        hidden = torch.randn(_PROBED, router.weight.shape[1], generator=torch.Generator().manual_seed(0))
        others = list(inspect.signature(router.forward).parameters.values())[1:]
        missing = [one.name for one in others if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
        zeros = router.weight.new_zeros(len(router.weight))  # for a correction of each expert's score
        returned = router(hidden.to(router.weight), **dict.fromkeys(missing, zeros))
        product = F.linear(hidden.to(router.weight), router.weight, getattr(router, "bias", None))
        alike = [
            isinstance(one, Tensor) and _agree(one.to(product.dtype), product)
            for one in (returned if isinstance(returned, tuple) else ())
        ]
        if True not in alike:
            raise Unclear(f"its router returns something else than its weights' product ({path})")
        router.product = alike.index(True)


def _implement(module: Any, name: str) -> None:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    if _IMPLEMENTATION not in ALL_EXPERTS_FUNCTIONS:
        ALL_EXPERTS_FUNCTIONS.register(_IMPLEMENTATION, _one_by_one)
    module.config._experts_implementation = name


def _probe(module: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Random tokens, each given to two experts that take turns, or to the only one."""
    stack = getattr(module, _maps(module)[0])
    generator = torch.Generator().manual_seed(0)
    each = min(2, module.num_experts)
    hidden = torch.randn(_PROBED, stack.shape[1 if module.is_transposed else 2], generator=generator)
    experts = (torch.arange(_PROBED)[:, None] + torch.arange(each)) % module.num_experts
    weights = torch.rand(_PROBED, each, generator=generator)
    return hidden.to(stack), experts.to(stack.device), weights.to(stack)


def _split(module: Any) -> None:
    """Replace each stacked tensor by a list of maps that are views of it."""
    for name in _maps(module):
        stack = getattr(module, name)
        biases = getattr(module, f"{name}_bias") if module.has_bias else [None] * len(stack)
        maps = [
            _map(weight, bias, inputs_first=module.is_transposed) for weight, bias in zip(stack, biases, strict=True)
        ]
        delattr(module, name)
        if module.has_bias:
            delattr(module, f"{name}_bias")
        setattr(module, name, nn.ModuleList(maps))
    module.routing = Routing()


def _map(weight: Tensor, bias: Tensor | None, *, inputs_first: bool) -> nn.Module:
    made = InputsFirst() if inputs_first else nn.Linear(1, 1, bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    if isinstance(made, nn.Linear):
        made.out_features, made.in_features = weight.shape
    return made


def routing_of(module: nn.Module) -> nn.Module:
    """What experts that `separate` made are told of their tokens by: to be tapped by `Routes.keep`."""
    return cast("nn.Module", module.routing)


def exchange(module: nn.Module, order: Sequence[int]) -> None:
    """Put in each expert's place the one that `order` names there, of experts that `separate` made."""
    for name in _maps(module):
        maps = cast("nn.ModuleList", getattr(module, name))
        setattr(module, name, nn.ModuleList([maps[number] for number in order]))


def expert_maps(module: nn.Module, path: str) -> Iterator[tuple[str, int]]:
    """The paths of the maps of experts at `path` that `separate` made, and which expert's each is."""
    for name in _maps(module):
        for number in range(len(cast("nn.ModuleList", getattr(module, name)))):
            yield f"{path}.{name}.{number}", number


def down_maps(module: nn.Module, path: str) -> Iterator[str]:
    """The paths of the experts' last maps, of experts at `path` that `separate` made."""
    last = f"{path}.{_maps(module)[1]}."
    return (path for path, _ in expert_maps(module, path) if path.startswith(last))


def stacked(block: nn.Module) -> dict[str, Tensor]:
    """A block's weights and buffers by transformers' names, experts' in one tensor again."""
    state = dict(block.state_dict())
    for whole, parts in _names(block).items():
        state[whole] = torch.stack([state.pop(part) for part in parts])
    return state


def unstacked(block: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by transformers' names as a block with separate experts has them."""
    names = _names(block)
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        found.update(zip(names[name], weight, strict=True) if name in names else [(name, weight)])
    return found


def _names(block: nn.Module) -> dict[str, list[str]]:
    """Transformers' names of experts' tensors, with those of the parts that they were separated into."""
    found = {}
    for path, module in block.named_modules():
        if are_experts(module):
            for name in _maps(module):
                maps = cast("nn.ModuleList", getattr(module, name))
                found[f"{path}.{name}"] = map_names(f"{path}.{name}", len(maps))
                if cast("Any", module).has_bias:
                    found[f"{path}.{name}_bias"] = [f"{path}.{name}.{expert}.bias" for expert in range(len(maps))]
    return found
