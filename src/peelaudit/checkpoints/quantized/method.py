"""What a quantisation method has to say: which stored tensors are a packed matrix, its size, and its values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.matching import Origin
from peelaudit.checkpoints.quantized.config_keys import KEYS
from peelaudit.checkpoints.store import FLOATS
from peelaudit.errors import MalformedCheckpoint, MismatchedWeights, UnsupportedCheckpoint
from peelaudit.records import TensorInfo

__all__ = ["Layout", "Method", "Settings", "StoredModule"]


class Settings:
    """The values of a `quantization_config`, each checked as it is asked for.

    Args:
        values: as in the JSON.
        method: the `quant_method`.
        subject: the file, which begins every message.
    """

    def __init__(self, values: Mapping[str, Any], method: str, subject: str) -> None:
        self.values, self.method, self.subject = values, method, subject

    def choice(self, name: str, allowed: Collection[Any], default: Any) -> Any:
        """A value that must be one of several; `default` where it is left out or null."""
        found = self.values.get(name)
        found = default if found is None else found
        if any(type(found) is type(value) and found == value for value in allowed):
            return found
        *first, last = map(str, allowed)
        known = f"{', '.join(first)} or {last}" if first else last
        raise self.unsupported(f"{name} {quoted(found, 40)}: only {known} can be read")

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false."""
        return bool(self.choice(name, (False, True), default))

    def group_size(self) -> int | None:
        """How many neighbouring inputs share a scale; None for -1, which means all of them."""
        found = self.values.get("group_size")
        found = 128 if found is None else found
        if type(found) is not int or not (found == -1 or found > 0):
            raise self.malformed(f"group_size is {quoted(found, 40)}")
        return None if found == -1 else found

    def refuse_unknown(self, values: object, known: Collection[str]) -> None:
        """Raise UnsupportedCheckpoint if the settings, or an object among them, have a name that isn't known."""
        for name, value in values.items() if isinstance(values, dict) else ():
            if value is not None and name not in known:
                raise UnsupportedCheckpoint(
                    f"{self.subject}: the quantization_config ({self.method}) has {quoted(name, 60)}, which isn't known"
                    " and may change the network; take it out if it doesn't"
                )

    def names(self, name: str) -> tuple[str, ...] | None:
        """A list of names; None where it is left out or null."""
        found = self.values.get(name)
        if found is None:
            return None
        if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
            raise self.malformed(f"{name} isn't a list of names")
        return tuple(found)

    def refuse(self, *names: str) -> None:
        """Raise UnsupportedCheckpoint if one of the values is there and isn't empty."""
        for name in names:
            if self.values.get(name):
                raise self.unsupported(f"{name}, which isn't read")

    def left_out(self, what: str) -> str:
        """The sentence for something that the configuration asks for and an audit doesn't do."""
        return f"the quantization_config asks for {what} as the network runs; the audit rounds the weights alone"

    def unsupported(self, what: str) -> UnsupportedCheckpoint:
        """The error for something that the configuration asks for."""
        return UnsupportedCheckpoint(f"{self.subject}: the quantization_config ({self.method}) asks for {what}")

    def malformed(self, what: str) -> MalformedCheckpoint:
        """The error for a value that makes no sense."""
        return MalformedCheckpoint(f"{self.subject}: in the quantization_config ({self.method}), {what}")


@dataclass(frozen=True, slots=True)
class Layout:
    """A packed matrix: its size as it computes, and the word for how it is packed (a `PackedType` or a float dtype).

    A stack of experts' matrices is [experts, inputs, outputs], as transformers computes with it. `in_rows` means that
    the sizes are those of rows of codes, several of which may make one row of the matrix.
    """

    outputs: int
    inputs: int
    dtype: str
    experts: int | None = None
    in_rows: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        if self.experts is None:
            return self.outputs, self.inputs
        return self.experts, self.inputs, self.outputs


@dataclass(frozen=True, slots=True)
class StoredModule:
    """The stored tensors of one linear layer.

    Attributes:
        name: the layer's stored name.
        tensors: by what follows the name.
        subject: the file, which begins every message.
        fetch: one of the tensors as it is stored.
    """

    name: str
    tensors: Mapping[str, TensorInfo]
    subject: str
    fetch: Callable[[str], Tensor]

    def read(self, part: str) -> Tensor:
        """One of the tensors, as it is stored."""
        return self.fetch(self.tensors[part].name)

    def shape(self, part: str, rank: int, dtypes: Collection[str] = FLOATS) -> tuple[int, ...]:
        """The shape of a tensor that must be there, with `rank` dimensions, none of them 0, and one of the dtypes."""
        info = self.tensors.get(part)
        if info is None:
            raise self.mismatched(f"its {part} is missing")
        if info.dtype not in dtypes:
            raise self.mismatched(f"its {part} is stored as {info.dtype}, not as {' or '.join(dtypes)}")
        if len(info.shape) != rank or 0 in info.shape:
            raise self.mismatched(f"its {part} has the shape {list(info.shape)}")
        return info.shape

    def rank(self, part: str, most: int) -> int:
        """How many dimensions a tensor has, up to `most`; so many for one that isn't there."""
        info = self.tensors.get(part)
        return most if info is None else min(len(info.shape), most)

    def number(self, part: str) -> float:
        """A tensor that must be there and hold one float."""
        info = self.tensors.get(part)
        if info is None or info.dtype not in FLOATS or info.shape not in ((), (1,), (1, 1)):
            raise self.mismatched(f"its {part} is missing" if info is None else f"its {part} isn't one float")
        return float(self.read(part))

    def mismatched(self, what: str) -> MismatchedWeights:
        """The error for a layer whose tensors don't fit together."""
        return MismatchedWeights(f"{self.subject}: the packed layer {quoted(self.name)} can't be read: {what}")

    def malformed(self, what: str) -> MalformedCheckpoint:
        """The error for a layer whose tensors hold impossible values."""
        return MalformedCheckpoint(f"{self.subject}: the packed layer {quoted(self.name)} can't be read: {what}")


class Method(ABC):
    """One `quant_method` of transformers: how it packs a linear layer, and what else it makes of the network.

    Attributes:
        parts: the tensors that a packed layer may store besides its bias, as they follow the layer's name.
        marks: those of them of which every packed layer has one.
        joint: what stands between the layer's name and a part's.
        stands_for: what follows the layer's name in the name of the matrix.
        notes: what of the method an audit leaves out, each a sentence.
    """

    parts: ClassVar[tuple[str, ...]]
    marks: ClassVar[tuple[str, ...]]
    joint: ClassVar[str] = "."
    stands_for: ClassVar[str] = ".weight"

    def __init__(self, settings: Settings) -> None:
        """Read the settings.

        Raises:
            UnsupportedCheckpoint: they ask for something that can't be read.
            MalformedCheckpoint: a value makes no sense.
        """
        settings.refuse_unknown(settings.values, KEYS[settings.method])
        self.settings = settings
        self.notes: tuple[str, ...] = ()

    @abstractmethod
    def layout(self, module: StoredModule) -> Layout | None:
        """The packed matrix that the tensors are, by their headers; None where they aren't packed.

        Raises:
            MismatchedWeights: one is missing or has the wrong shape.
        """

    @abstractmethod
    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """The matrix, float32, of the layout's shape.

        Raises:
            MalformedCheckpoint: a tensor holds an impossible value.
        """

    def prepare(self, skeleton: nn.Module) -> nn.Module:
        """The module, with what the method computes beside the products with its weights."""
        return skeleton

    def adapt(
        self, origins: Mapping[str, Origin], skeleton: nn.Module, packed: Collection[str]
    ) -> Mapping[str, Origin]:
        """The origins of the skeleton's tensors, with what the method does to weights that aren't packed.

        Args:
            origins: by the skeleton's names.
            skeleton: the prepared module.
            packed: the stored names that `layout` knows.

        Raises:
            UnsupportedCheckpoint: a layer that must be packed isn't.
        """
        if not packed:
            raise UnsupportedCheckpoint(
                f"{self.settings.subject}: says that weights are packed by {quoted(self.settings.method, 40)}, but no"
                f" layer has {' or '.join(self.marks)}"
            )
        return origins
