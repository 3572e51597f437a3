"""A checkpoint that has been opened: its facts, its module without weights, and one tensor at a time."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch

from peelaudit.checkpoints.files import Snapshot, quoted
from peelaudit.checkpoints.matching import Matched, Origin, tied_names
from peelaudit.checkpoints.store import FLOATS, Store, aligned
from peelaudit.errors import (
    ImplausibleWeights,
    MismatchedWeights,
    NonFiniteWeights,
    UnsupportedCheckpoint,
    is_out_of_memory,
)
from peelaudit.progress import SILENT, Progress
from peelaudit.records import CheckpointInfo, TensorInfo

__all__ = ["Checkpoint", "gather_info"]

IMPLAUSIBLE = 2.0**15
"""How many times the root mean square of a tensor's other values one may be. In large networks some weights are a few
hundred times the others; a flipped bit of a float's exponent makes one 2^16 times what it was, or more."""
UNLIMITED = 2048
"""The context, in tokens, of a network that has no table of positions and says nothing of one (BLOOM's)."""
FEWEST_VALUES = 8
"""In a tensor, for one to be compared with the others."""
_LOOK = 32
"""Times a tensor's bytes that a look at its values may take: they are sorted as float64."""

Visit = Callable[[str, torch.Tensor, TensorInfo], None]


class Checkpoint:
    """A decoder-only checkpoint, open until `close` or the end of its `with` block.

    Attributes:
        info: what it is, from headers and configuration alone.
        config: transformers' configuration of the text decoder.
        absent: parameters that the checkpoint does without and transformers' module has, as zeros (nanoGPT's biases).
        notes: what of the network's quantisation an audit leaves out, and what else to say of it, each a sentence.
        ignored: stored tensors that the decoder has no use for (masks, rotary tables, a vision tower), as stored.
    """

    def __init__(
        self,
        info: CheckpointInfo,
        config: Any,
        skeleton: torch.nn.Module,
        store: Store,
        matched: Matched,
        snapshot: Snapshot,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Made by `open_checkpoint`, which has compared everything here."""
        self.info = info
        self.config = config
        self.absent = frozenset(name for name, origin in matched.origins.items() if origin.stored is None)
        self.ignored = matched.ignored
        self.notes = notes
        self._skeleton = skeleton
        self._store = store
        self._matched = matched
        self._snapshot = snapshot
        self._tied = tied_names(skeleton)
        self._where = quoted(info.path)

    def skeleton(self) -> torch.nn.Module:
        """A new CausalLM module of the configuration on the meta device: shapes without weights, in eval mode.

        It computes what the checkpoint's quantisation does beside its weights: BitNet rounds the inputs of layers.
        """
        return copy.deepcopy(self._skeleton)

    def names(self) -> tuple[str, ...]:
        """The parameters and persistent buffers, under the names of `skeleton().state_dict()`."""
        return tuple(self._matched.origins)

    def parts(self, name: str) -> int:
        """Of how many matrices, stored apart, a tensor is made, one's outputs behind the other's."""
        return self._matched.origins[name].parts

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor under the name that `skeleton()` has for it, on the CPU, in the stored float dtype.

        A GGUF file's tensors are float32, and so are packed ones. Tied names give the same values. Nothing is cached.

        Raises:
            KeyError: the skeleton has no such name.
            MalformedCheckpoint: the bytes are damaged, or the file was changed since it was opened.
        """
        return self._read(self._matched.origins[name])

    def _read(self, origin: Origin) -> torch.Tensor:
        if origin.stored is None:
            return torch.zeros(origin.shape)
        tensor = self._store.read(origin.stored)
        return aligned(tensor if origin.change is None else origin.change(tensor))

    def origin(self, name: str) -> Origin:
        """Where the tensor of that name comes from."""
        return self._matched.origins[name]

    def dtype(self, name: str) -> torch.dtype:
        """What it is stored as; float32 where it is packed, or isn't stored."""
        stored = self._matched.origins[name].stored
        return FLOATS.get(self._store.tensors[stored].dtype, torch.float32) if stored else torch.float32

    def stored(self, name: str) -> torch.Tensor:
        """The tensor of that name in the dtype that it is stored in, a packed one as float32."""
        return self.tensor(name).to(self.dtype(name))

    @property
    def packed(self) -> bool:
        """Whether any of the weights is stored as something else than plain floats."""
        stored = (origin.stored for origin in self._matched.origins.values())
        return any(self._store.tensors[name].dtype not in FLOATS for name in stored if name is not None)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that hold the weights."""
        return self._store.paths

    @property
    def tied(self) -> Mapping[str, str]:
        """Every name of `skeleton().state_dict()` with the first name of the same tensor."""
        return self._tied

    @property
    def head(self) -> str:
        """The name of the head's weight."""
        return _name_of(self._skeleton, self._skeleton.get_output_embeddings())  # type: ignore[operator]

    def check_weights(
        self,
        progress: Progress = SILENT,
        *,
        visit: Visit | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Read every tensor once and refuse what isn't finite.

        Args:
            progress: told of each tensor.
            visit: called with each tensor's name in the skeleton, its values, and what is stored.
            device: where values are looked at, if it is a CUDA device with room for them; else on the CPU.

        Raises:
            NonFiniteWeights: a tensor holds NaN or Inf.
            ImplausibleWeights: one of a tensor's values is so far from all others that a bit of it was flipped.
            MismatchedWeights: two tensors that the configuration ties are stored with different values.
            MalformedCheckpoint: the bytes are damaged.
        """
        names = [name for name in self.names() if self._tied[name] == name]
        progress.stage("check the weights", len(names))
        for name in names:
            tensor = self.tensor(name)
            try:
                self._look(name, _near(tensor, device), visit)
            except Exception as error:
                if device is None or device.type != "cuda" or not is_out_of_memory(error):
                    raise
                self._look(name, tensor, visit)
            progress.advance()
        for name, second in self._matched.copies.items():
            if not _same(self.tensor(name), self._read(second)):
                raise MismatchedWeights(
                    f"{self._where}: the configuration ties {quoted(name)} to another tensor, but it is stored with"
                    " other values"
                )

    def _look(self, name: str, tensor: torch.Tensor, visit: Visit | None) -> None:
        self._check_finite(name, tensor)
        stored = self._matched.origins[name].stored
        if visit is not None and stored is not None:
            visit(name, tensor, self._store.tensors[stored])

    def _check_finite(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.numel() == 0 or not tensor.is_floating_point():
            return
        low, high = (float(end) for end in tensor.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = torch.isfinite(tensor)
            first = [int(index) for index in torch.unravel_index(finite.flatten().byte().argmin(), finite.shape)]
            raise NonFiniteWeights(
                f"{self._where}: the tensor {quoted(name)} holds {int((~finite).sum())} NaN or Inf among"
                f" {tensor.numel()} values, the first at {first}"
            )
        if tensor.numel() >= FEWEST_VALUES:
            self._check_plausible(name, tensor, max(-low, high))

    def _check_plausible(self, name: str, tensor: torch.Tensor, largest: float) -> None:
        norm = float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
        if norm**2 - largest**2 >= 2 * (tensor.numel() - 1) * (largest / IMPLAUSIBLE) ** 2:
            return  # told in one pass over the values, with a factor in hand for what its sum rounds off
        sizes = tensor.double().abs().flatten()
        index = sizes.argmax()
        others = torch.cat([sizes[:index], sizes[index + 1 :]])
        usual = float(others.square().mean().sqrt())
        if largest > IMPLAUSIBLE * usual > 0:
            place = [int(at) for at in torch.unravel_index(index, tensor.shape)]
            raise ImplausibleWeights(
                f"{self._where}: the tensor {quoted(name)} holds {float(tensor.flatten()[index]):.3g} at {place}, where"
                f" the others are of size {usual:.3g}: a flipped bit, as no training leaves a value"
            )

    def check_unchanged(self) -> None:
        """Raise MalformedCheckpoint if the files aren't those any more that were hashed when they were opened."""
        self._snapshot.check(self._where)

    def close(self) -> None:
        """Release the files."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _near(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    """The values on a CUDA device, if it has room for them and for what a look at them makes."""
    if device is None or device.type != "cuda" or _LOOK * tensor.nbytes > torch.cuda.mem_get_info(device)[0]:
        return tensor
    return tensor.to(device)


def gather_info(
    path: Path,
    *,
    format_name: str,
    config: Any,
    skeleton: torch.nn.Module,
    store: Store,
    matched: Matched,
    tokenizer: str | None,
    training_step: int | None,
    sha256: str,
    size: int | None = None,
) -> CheckpointInfo:
    """What the checkpoint is. `sha256` is of its weight files and configuration, `size` in bytes that of the files if
    None.
    """
    heads = config.num_attention_heads
    used = {origin.stored: origin.shape for origin in matched.origins.values() if origin.stored is not None}
    root = path if path.is_dir() else path.parent
    tied = tied_names(skeleton)
    head = _name_of(skeleton, skeleton.get_output_embeddings())  # type: ignore[operator]
    return CheckpointInfo(
        path=str(path),
        format=format_name,
        family=config.model_type,
        architecture=type(skeleton).__name__,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        mlp_width=_mlp_width(config),
        vocabulary=config.vocab_size,
        context=_context(config),
        dtype=_dtypes(store, used),
        parameters=sum(math.prod(shape) for shape in used.values()),
        bytes=sum(file.stat().st_size for file in store.paths) if size is None else size,
        tied_head=tied.get(head) != head,
        tokenizer=tokenizer,
        training_step=training_step,
        files=tuple(str(file.relative_to(root)) for file in store.paths),
        sha256=sha256,
        tensors=tuple(store.tensors.values()),
    )


def check_floats(store: Store, matched: Matched) -> None:
    """Raise UnsupportedCheckpoint where a parameter is stored as something that can't be read as floats."""
    for origin in matched.origins.values():
        if origin.stored is None:
            continue
        dtype = store.tensors[origin.stored].dtype
        if dtype not in store.floats:
            raise UnsupportedCheckpoint(
                f"{quoted(store.paths[0])}: the tensor {quoted(origin.stored)} is stored as {dtype};"
                " only plain floats can be audited"
            )


def _dtypes(store: Store, used: Iterable[str]) -> str:
    size: Counter[str] = Counter()
    for name in used:
        size[store.tensors[name].dtype] += store.tensors[name].bytes
    return "+".join(dtype for dtype, _ in size.most_common())


def _context(config: Any) -> int:
    """The longest sequence that it is made for, under whichever name the family has for it; `UNLIMITED` where it says
    none.
    """
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(length := getattr(config, name, None), int) and length > 0:
            return length
    return UNLIMITED


def _mlp_width(config: Any) -> int:
    """The width of a block's MLP, under whichever name the family has for it."""
    for name in ("intermediate_size", "ffn_dim", "n_inner"):
        if isinstance(width := getattr(config, name, None), int):
            return width
    return 4 * int(config.hidden_size)


def _same(tensor: torch.Tensor, copy: torch.Tensor) -> bool:
    """Whether two are equal, or one is the other rounded to 16 bits: DeepSpeed writes a tied weight by both its names,
    as its optimizer has it and as its module does.
    """
    if torch.equal(tensor, copy):
        return True
    if tensor.shape != copy.shape:
        return False
    pairs = ((tensor, copy), (copy, tensor))
    return any(
        torch.equal(whole.to(half).to(other.dtype), other)
        for half in (torch.bfloat16, torch.float16)
        for whole, other in pairs
    )


def _name_of(skeleton: torch.nn.Module, module: object) -> str:
    """The name of the weight of one of the skeleton's modules."""
    names: Mapping[int, str] = {id(found): name for name, found in skeleton.named_modules()}
    return f"{names.get(id(module), '')}.weight"
