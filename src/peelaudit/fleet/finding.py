"""Which checkpoints there are: below directories, in globs, in lists of paths. Nothing is opened but lists.

A directory of Hugging Face, torch.distributed.checkpoint or DeepSpeed is one checkpoint, and so is a file that ends as
one. Left out are hidden files and directories, results of peelaudit, what trainers save beside the
weights, raw token files, and any shard but for the first of a split GGUF file. Below a Hugging Face directory only
further such directories count: a trainer's `checkpoint-500` beside the final weights. Numbers in names sort as numbers.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from peelaudit.errors import ConfigError, UnreadableCheckpoint
from peelaudit.filenames import CHECKPOINT_SUFFIXES, DEEPSPEED, DEEPSPEED_STAGE_3, DISTRIBUTED, WEIGHT_FILES
from peelaudit.plain_files import read_plain

__all__ = ["RESULTS_FILE", "Found", "find_checkpoints", "natural", "suggesting_batch"]

RESULTS_FILE = "peelaudit-results.json"
"""What makes a directory one of results."""

_SHARD = re.compile(r"-(\d{5})-of-\d{5}\.(safetensors|bin|gguf)$")
_NOT_WEIGHTS = re.compile(
    r"(optimizer|scheduler|scaler|rng_state|random_states|training_args)|.*(optim_states|model_states)\.pt$"
)
_TORCH_STARTS = (b"PK\x03\x04", b"\x80\x02")  # a zip file, a pickle
_MAX_LIST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """The checkpoints' paths, and the directories, globs and lists in which there are none."""

    checkpoints: tuple[str, ...]
    empty: tuple[str, ...]


def find_checkpoints(arguments: Sequence[str], *, stdin: BinaryIO) -> Found:
    """The checkpoints' paths, argument by argument, each checkpoint once.

    An argument is a directory, a checkpoint's file, a glob (`**` for any depth), or a text file with a path a line (`-`
    is stdin; `#` begins a comment). What is named outright counts even if it isn't there: its audit says why not.

    Raises:
        ConfigError: a list can't be read.
    """
    found: dict[str, str] = {}
    empty: list[str] = []
    for name, paths in (pair for argument in arguments for pair in _expand(argument, stdin)):
        if not paths:
            empty.append(name)
        for path in paths:
            real = os.path.realpath(path)
            # Of a link and what it leads to, the latter: `last.ckpt` isn't another checkpoint.
            if real not in found or (Path(found[real]).is_symlink() and not Path(path).is_symlink()):
                found[real] = path
    return Found(tuple(found.values()), tuple(dict.fromkeys(empty)))


@contextlib.contextmanager
def suggesting_batch(path: str) -> Iterator[None]:
    """Say of a directory that is no checkpoint how many it holds, instead of what it lacks to be one.

    Raises:
        UnreadableCheckpoint: in the place of one that passes.
    """
    try:
        yield
    except UnreadableCheckpoint as error:
        found = _below(path) if Path(path).is_dir() else []
        if not found or path in found:
            raise
        if len(found) == 1:
            raise UnreadableCheckpoint(f"{path}: holds one checkpoint, {found[0]}: name that") from error
        words = f"{path}: holds {len(found)} checkpoints: use batch, or name one of them"
        raise UnreadableCheckpoint(words) from error


def natural(path: str) -> tuple[object, ...]:
    """A key by which `ckpt-900` comes before `ckpt-1000`."""
    parts = [re.split(r"([0-9]+)", part) for part in Path(path).parts]
    # At odd places stand numbers, so that like is compared with like.
    return tuple(tuple(int(t) if i % 2 else t for i, t in enumerate(part)) for part in parts), path


_Named = Sequence[tuple[str, Sequence[str]]]
"""What was named, each with the checkpoints that it stands for."""


def _expand(argument: str, stdin: BinaryIO) -> _Named:
    if argument == "-":
        return _listed(stdin.read(_MAX_LIST_BYTES + 1), "stdin")
    if "\0" in argument or not argument:
        raise ConfigError(f"{argument!r} is no path")
    if glob.has_magic(argument) and not os.path.lexists(argument):
        matches = sorted(glob.glob(argument, recursive=True), key=natural)  # noqa: PTH207  # any path, also an absolute one
        return [(argument, [path for match in matches for path in _matched(match)])]
    if Path(argument).is_dir():
        return [(argument, _below(argument))]
    if Path(argument).is_file() and not argument.lower().endswith(CHECKPOINT_SUFFIXES):
        try:
            return _listed(read_plain(Path(argument), _MAX_LIST_BYTES + 1), argument)
        except OSError as error:
            raise ConfigError(f"{argument} can't be read: {error.strerror or error}") from error
    return [(argument, [argument])]


def _listed(data: bytes, name: str) -> _Named:
    if len(data) > _MAX_LIST_BYTES or b"\0" in data:
        raise ConfigError(f"{name} is neither a checkpoint nor a list of paths")
    lines = (os.fsdecode(line).strip() for line in data.splitlines())
    named = [line for line in lines if line and not line.startswith("#")]
    return [(line, _below(line) if Path(line).is_dir() else [line]) for line in named] or [(name, [])]


def _matched(path: str) -> Sequence[str]:
    """What a glob's match stands for: as in a directory, what is no checkpoint is left out."""
    if Path(path).is_dir():
        return _below(path)
    return (path,) if _is_checkpoint_file(path) else ()


def _below(directory: str) -> list[str]:
    """The checkpoints in and below a directory, in natural order."""
    return sorted(_walk(directory), key=natural)


def _walk(top: str) -> Iterator[str]:
    inside: set[str] = set()  # directories that lie in a Hugging Face directory
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if RESULTS_FILE in files:
            folders.clear()
            continue
        whole = _is_checkpoint_directory(files)
        if whole:
            yield folder
        elif folder not in inside:
            paths = (os.path.join(folder, name) for name in files if not name.startswith("."))  # noqa: PTH118
            yield from filter(_is_checkpoint_file, paths)
        if whole or folder in inside:
            inside.update(os.path.join(folder, name) for name in folders)  # noqa: PTH118


def _is_checkpoint_directory(files: Sequence[str]) -> bool:
    """Shards without an index make one as well: its audit says what is missing."""
    if any(name in files for name in (*WEIGHT_FILES, DISTRIBUTED, DEEPSPEED, DEEPSPEED_STAGE_3)):
        return True
    return any((shard := _SHARD.search(name)) and shard[2] != "gguf" for name in files)


def _is_checkpoint_file(path: str) -> bool:
    name = Path(path).name
    if not name.lower().endswith(CHECKPOINT_SUFFIXES) or _NOT_WEIGHTS.match(name):
        return False
    if shard := _SHARD.search(name):
        return shard[2] == "gguf" and int(shard[1]) == 1
    return not name.lower().endswith(".bin") or _starts_as_torch(path)


def _starts_as_torch(path: str) -> bool:
    """Whether a .bin is a torch file, not a file of token ids. Never opens a FIFO."""
    try:
        return read_plain(Path(path), 4).startswith(_TORCH_STARTS)
    except OSError as error:
        return bool(error.errno != errno.EINVAL)  # its audit says why it can't be read; a pipe is none
