"""Does `diff` name what is otherwise? Copies of a model rounded with one layer coarser, and broken conversions of it.

    python -m bench.differences MODEL --data TEXT [--gguf FILE] [--passes N] [--tokens N]

MODEL is a Llama directory. Of it, and written to a temporary directory:

rounded     every matrix of the blocks at so many bits (rows symmetric, the largest at the last level), one layer at
            fewer: each layer in turn, 8 and 4, 4 and 3, 3 and 2, 2 and 1 bits
broken      norms plus one, q and k with rotary channels in pairs, a head of its own where it was tied, a square
            projection transposed, another rope base

and with --gguf of that file, against float directories of its values: one block at 2 bits and the others as they are,
all at 8 bits and it at 2, all at 4 bits and it at 3.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from peelaudit.auditing.differing import PASSES, difference
from peelaudit.checkpoints import open_checkpoint
from peelaudit.checkpoints.gguf_undo import Heads, paired_queries
from peelaudit.network.families import admit
from peelaudit.records.difference import Difference
from peelaudit.settings.audit import AuditConfig

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors, dict[str, Any]], None]
WEIGHTS, CONFIG = "model.safetensors", "config.json"
BITS = ((8, 4), (4, 3), (3, 2), (2, 1))


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """To 2^bits values a row, the largest at the last; to one bit, signs times the row's mean size."""
    size = weight.abs()
    if bits == 1:
        return weight.sign() * size.mean(dim=1, keepdim=True)
    levels = 2 ** (bits - 1)
    scale = size.amax(dim=1, keepdim=True) / levels
    return (weight / scale).round().clamp(-levels, levels - 1) * scale


def layer_of(name: str) -> int | None:
    """The block, from 1 on, that a tensor is of."""
    return int(name.split(".")[2]) + 1 if name.startswith("model.layers.") else None


def rounding(bits: Mapping[int, int]) -> Change:
    """Every matrix of these layers at so many bits."""

    def change(tensors: Tensors, config: dict[str, Any]) -> None:
        for name, weight in tensors.items():
            if (layer := layer_of(name)) is not None and layer in bits and weight.ndim == 2:
                tensors[name] = rounded(weight.float(), bits[layer]).to(weight.dtype)

    return change


def norms_plus_one(tensors: Tensors, config: dict[str, Any]) -> None:
    for name in tensors:
        if name.endswith("norm.weight"):
            tensors[name] += 1


def pairs_left(tensors: Tensors, config: dict[str, Any]) -> None:
    """The rows of queries and keys as GGUF has them."""
    for name, weight in tensors.items():
        for path, key in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if name.endswith(f"{path}.weight"):
                order = paired_queries(torch.arange(len(weight)), Heads(config[key], config[key])).argsort()
                tensors[name] = weight[order].contiguous()


def untied(tensors: Tensors, config: dict[str, Any]) -> None:
    """The head is left as it was drawn."""
    embedding = tensors["model.embed_tokens.weight"]
    generator = torch.Generator().manual_seed(0)
    tensors["lm_head.weight"] = 0.02 * torch.randn(embedding.shape, generator=generator)
    config["tie_word_embeddings"] = False


def transposed(tensors: Tensors, config: dict[str, Any]) -> None:
    name = "model.layers.1.self_attn.o_proj.weight"
    tensors[name] = tensors[name].T.contiguous()


def other_base(tensors: Tensors, config: dict[str, Any]) -> None:
    config.pop("rope_parameters", None)
    config["rope_theta"] = 500_000.0


BROKEN: Mapping[str, Change] = {
    "norms plus one": norms_plus_one,
    "q and k in pairs": pairs_left,
    "head untied": untied,
    "projection transposed": transposed,
    "rope base": other_base,
}


def copied(model: Path, folder: Path, change: Change) -> Path:
    """A copy of a directory with something changed."""
    shutil.copytree(model, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    tensors, config = load_file(model / WEIGHTS), json.loads((model / CONFIG).read_text())
    change(tensors, config)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def unpacked(file: Path, folder: Path, change: Change) -> Path:
    """A float directory of a checkpoint's values, as they are read, with something changed."""
    with open_checkpoint(file, admit=admit) as checkpoint:
        tied = {"lm_head.weight"} if checkpoint.info.tied_head else set()
        tensors = {name: checkpoint.tensor(name).clone() for name in checkpoint.names() if name not in tied}
        config = checkpoint.config.to_dict() | {"architectures": [checkpoint.info.architecture]}
    change(tensors, config)
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


class Bench:
    """The model, the text, and differences from copies of it."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder, self._copies = options, folder, 0

    def folder(self) -> Path:
        """A new one's path."""
        self._copies += 1
        return self._folder / str(self._copies)

    def differing(self, base: Path, new: Path, tokens: int) -> Difference:
        """`peelaudit diff BASE NEW`; NEW is removed."""
        config = AuditConfig(checkpoint=str(base), data=tuple(self._options.data), tokens=tokens)
        found = difference(config, new, passes=self._options.passes)
        if new.parent == self._folder:
            shutil.rmtree(new)
        return found

    def rounded(self) -> Iterator[str]:
        """Every layer in turn as the coarser one."""
        model, tokens = Path(self._options.model), self._options.tokens
        found = self.differing(model, model, tokens)
        layers = found.base.layers
        sums = [found.whole, found.kl, found.swapped.left_over, *(row.in_base for row in found.rows)]
        yield f"itself: the largest figure is {max(abs(end) for one in sums for end in (one.low, one.high))}\n"
        yield from HEADER
        for bits, coarser in BITS:
            for layer in range(1, layers + 1):
                each = {other: coarser if other == layer else bits for other in range(1, layers + 1)}
                copy = copied(model, self.folder(), rounding(each))
                yield row(f"{bits} and {coarser} bits", self.differing(model, copy, tokens), layer)

    def broken(self) -> Iterator[str]:
        """Each broken conversion, and what is said of it."""
        model = Path(self._options.model)
        for name, change in BROKEN.items():
            found = self.differing(model, copied(model, self.folder(), change), self._options.tokens)
            yield f"\n{name}: {found.headline}"
            yield from (f"  ! {finding}" for finding in found.findings)

    def unpacked(self, file: Path) -> Iterator[str]:
        """A GGUF file against directories of its values."""
        with open_checkpoint(file, admit=admit) as checkpoint:
            layers = checkpoint.info.layers
        layer = 2 * layers // 5
        yield from ("", *HEADER)
        for name, bits in (("one block at 2 bits", {layer: 2}), ("8 and 2 bits", {}), ("4 and 3 bits", {})):
            rest, coarser = (8, 2) if "8" in name else (4, 3)
            each = bits or {other: coarser if other == layer else rest for other in range(1, layers + 1)}
            yield row(name, self.differing(file, unpacked(file, self.folder(), rounding(each)), 2_048), layer)


HEADER = (
    "| copy | layer | by KL | by weights | in BASE | KL | next KL | singles | left over | whole | off | on | passes |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
)
"""`by KL` and `by weights`: the layers named; `off`: what the sum lacks; `passes`: of a direction."""


def row(name: str, found: Difference, layer: int) -> str:
    """A line of the table: whether that layer was named, and the figures."""
    named, changed = ([found.rows[place].layer for place in places] for places in (found.named, found.changed))
    only = [row for row in found.rows if row.layer is not None and not row.same]
    (planted,) = [row for row in only if row.layer == layer]
    following = max((row.kl.value for row in only if row is not planted), default=0.0)
    swapped, cost = found.swapped, planted.in_base
    rest = swapped.whole.value - swapped.left_over.value - sum(row.in_base.value for row in found.rows)
    passes = sum(done for stage, done in found.passes if stage != "what sequences begin with")
    cells = (
        name,
        layer,
        _shown(named),
        _shown(changed),
        f"{cost.value:+.4f} ({cost.low:+.4f}..{cost.high:+.4f})",
        f"{planted.kl.value:.5f}",
        f"{following:.5f}",
        *(f"{one.value:+.4f}" for one in (swapped.singles, swapped.left_over, swapped.whole)),
        f"{rest:.0e}",
        f"{swapped.sequences} of {swapped.of}",
        f"{passes / 2:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _shown(layers: list[int | None]) -> str:
    return ", ".join(map(str, layers)) or "-"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--passes", type=float, default=PASSES)
    parser.add_argument("--tokens", type=int, default=16_384)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(options, Path(place))
        for line in bench.rounded():
            print(line, flush=True)
        for line in bench.broken():
            print(line, flush=True)
        for line in bench.unpacked(options.gguf) if options.gguf else ():
            print(line, flush=True)


if __name__ == "__main__":
    main()
