"""ZeRO stage 3 of DeepSpeed: every parameter cut into as many parts as there are ranks, put together as it is read.

    zero_pp_rank_<n>_mp_rank_00_model_states.pt     "param_shapes": a list of {name: shape}, in the order of the parts
    zero_pp_rank_<n>_mp_rank_00_optim_states.pt     "fp32_flat_groups": the rank's parts in a row, in float32

A parameter of k elements has parts of ⌈k/n⌉, of which the last is filled up. DeepSpeed's zero_to_fp32.py reads it so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from peelaudit.checkpoints.files import quoted, within
from peelaudit.checkpoints.inert import StoredTensor, sizes_of
from peelaudit.checkpoints.store import FLOATS, MAX_TENSORS
from peelaudit.checkpoints.torch_file import TorchFile
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint
from peelaudit.filenames import DEEPSPEED_STAGE_3
from peelaudit.records import TensorInfo

__all__ = ["Stage3Tensors", "param_shapes"]

_OPTIMIZER = re.compile(r"(?:bf16_)?zero_pp_rank_(\d{1,5})_mp_rank_00_optim_states\.pt")


@dataclass(frozen=True, slots=True)
class _Parts:
    """A parameter's shape, and where its part begins in each rank's row, of `size` elements."""

    shape: tuple[int, ...]
    begin: int
    size: int


class Stage3Tensors:
    """The parameters of such a directory, as a store."""

    floats: Collection[str] = FLOATS

    def __init__(self, step: Path, names: Collection[str], format_name: str) -> None:
        """Read the shapes, and hold every rank's row to them.

        Args:
            step: the directory.
            names: of its files.
            format_name: the store's.

        Raises:
            UnreadableCheckpoint: a file isn't there.
            MalformedCheckpoint: a rank is missing, or its row isn't as long as the shapes make it.
            UnsupportedCheckpoint: parameters are frozen, or buffers saved with them.
        """
        self.format = format_name
        ranks = {int(found[1]): name for name in names if (found := _OPTIMIZER.fullmatch(name))}
        if not ranks or sorted(ranks) != list(range(len(ranks))):
            raise MalformedCheckpoint(f"{quoted(step)}: the optimizer states of some ranks are missing")
        states = within(step, DEEPSPEED_STAGE_3)
        shapes = _shapes(states)
        self._parts, length = _laid_out(shapes, len(ranks))
        rows = tuple(within(step, ranks[rank]) for rank in range(len(ranks)))
        self.paths = (states, *rows)
        self._files: list[TorchFile] = []
        self._rows: list[list[StoredTensor]] = []
        try:
            for path in rows:
                self._files.append(TorchFile(path))
                self._rows.append(_row(self._files[-1], len(ranks), length))
        except BaseException:
            self.close()
            raise
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, parts.shape, self._rows[0][0].dtype, math.prod(parts.shape) * self._rows[0][0].width)
            for name, parts in self._parts.items()
        }

    def read(self, name: str) -> torch.Tensor:
        """The parameter of that name, on the CPU, put together from the ranks' parts; raises as `TorchArchive.read`."""
        parts = self._parts[name]
        found: list[torch.Tensor] = []
        for file, row in zip(self._files, self._rows, strict=True):
            begin = 0
            for group in row:
                low, high = max(parts.begin, begin), min(parts.begin + parts.size, begin + group.shape[0])
                if low < high:
                    cut = replace(group, shape=(high - low,), offset=group.offset + low - begin)
                    found.append(file.read(name, cut))
                begin += group.shape[0]
        whole = torch.cat(found) if found else torch.empty(0)
        return whole[: math.prod(parts.shape)].reshape(parts.shape)

    def close(self) -> None:
        """Release the files."""
        for file in self._files:
            file.close()


def param_shapes(content: object) -> Mapping[str, tuple[int, ...]]:
    """The parameters' shapes that model states list, in their order; none where they list none."""
    listed = content.get("param_shapes") if isinstance(content, dict) else None
    groups = listed if isinstance(listed, list) else [listed]
    pairs = (pair for group in groups if isinstance(group, dict) for pair in group.items())
    return {key: shape for key, value in pairs if isinstance(key, str) and (shape := sizes_of(value)) is not None}


def _shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """The shapes of the first rank's model states, which hold nothing that stands outside of the rows."""
    file = TorchFile(path)
    file.close()
    content = file.content
    if not isinstance(content, dict) or not (shapes := param_shapes(content)):
        raise MalformedCheckpoint(f"{quoted(path)}: lists no parameters")
    if len(shapes) > MAX_TENSORS:
        raise MalformedCheckpoint(f"{quoted(path)}: {len(shapes)} parameters are more than any model has")
    for key in ("frozen_param_shapes", "buffer_names"):
        if content.get(key):
            raise UnsupportedCheckpoint(
                f"{quoted(path)}: its {key} stand outside of the ranks' rows; run the zero_to_fp32.py that"
                " DeepSpeed puts beside it (python zero_to_fp32.py . OUT) and name what that writes"
            )
    return shapes


def _laid_out(shapes: Mapping[str, tuple[int, ...]], ranks: int) -> tuple[Mapping[str, _Parts], int]:
    """Where each parameter's part begins in a rank's row, and how long the row is."""
    parts: dict[str, _Parts] = {}
    length = 0
    for name, shape in shapes.items():
        parts[name] = _Parts(shape, length, -(-math.prod(shape) // ranks))
        length += parts[name].size
    return parts, length


def _row(file: TorchFile, ranks: int, size: int) -> list[StoredTensor]:
    """A rank's flat groups, which together have that many elements."""
    where = quoted(file.path)
    content = file.content
    state = content.get("optimizer_state_dict") if isinstance(content, dict) else None
    groups = state.get("fp32_flat_groups") if isinstance(state, dict) else None
    if not isinstance(state, dict) or not isinstance(groups, list) or not groups:
        raise MalformedCheckpoint(f"{where}: holds no fp32_flat_groups")
    row = [group for group in groups if isinstance(group, StoredTensor) and group.stride == (1,)]
    if len(row) != len(groups) or len({group.dtype for group in row}) != 1:
        raise MalformedCheckpoint(f"{where}: its fp32_flat_groups aren't rows of numbers")
    if not all(type(count) is int and count == ranks for count in _counts(state)):
        raise MalformedCheckpoint(f"{where}: isn't cut for {ranks} ranks, whose files are there")
    if sum(group.shape[0] for group in row) != size:
        raise MalformedCheckpoint(f"{where}: its row isn't as long as the shapes of the parameters make it")
    for group in row:
        file.record_of("fp32_flat_groups", group)
    stored = {group.storage.key: group.storage.bytes for group in row}
    if sum(group.bytes for group in row) > sum(stored.values()):
        raise MalformedCheckpoint(f"{where}: its fp32_flat_groups share bytes")
    return row


def _counts(state: Mapping[object, object]) -> list[object]:
    """For how many ranks each group was cut."""
    told = state.get("partition_count")
    groups = state.get("ds_zero_partition_groups")
    own = [group for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
    each = [group["partition_count"] for group in own if "partition_count" in group]
    return [*(told if isinstance(told, list) else [told]), *each]
