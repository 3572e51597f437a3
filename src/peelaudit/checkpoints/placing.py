"""A directory that is written whole or not at all, and what stands beside a checkpoint's weights."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from peelaudit.checkpoints.checkpoint import Checkpoint
from peelaudit.checkpoints.files import within
from peelaudit.errors import OutputError
from peelaudit.filenames import FIX_RECORD, TOKENIZER_FILES

__all__ = ["check_place", "copy_beside", "placed"]

_CONFIG = "config.json"
_BESIDE = (
    *TOKENIZER_FILES,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE",
    "NOTICE",
)
_PREFIX = ".peelaudit-"


def check_place(out: Path, checkpoint: Path, *, force: bool) -> None:
    """Raise OutputError now rather than after an hour, if a directory can't be put at `out`.

    Args:
        out: where it is to be.
        checkpoint: what is read meanwhile, which mustn't lie there.
        force: whether what an earlier fix wrote there is replaced.
    """
    if not out.absolute().parent.is_dir():
        raise OutputError(f"{out} can't be written: there is no directory {out.parent}")
    if not os.access(out.absolute().parent, os.W_OK):
        raise OutputError(f"{out} can't be written: {out.parent} is write-protected")
    if not os.path.lexists(out) or (out.is_dir() and not out.is_symlink() and not any(out.iterdir())):
        return
    if checkpoint.resolve().is_relative_to(out.resolve()):
        raise OutputError(f"{out} holds the checkpoint itself: name another directory")
    if not force:
        raise OutputError(f"{out} is there already: --force replaces what an earlier fix wrote")
    if out.is_symlink() or not (out / FIX_RECORD).is_file():
        raise OutputError(f"{out} holds no {FIX_RECORD}, so no fix wrote it: it isn't replaced")


@contextlib.contextmanager
def placed(out: Path) -> Iterator[Path]:
    """An empty directory beside `out` that takes its place at the end; it is removed where anything is raised.

    Raises:
        OutputError: it couldn't be made, written to or renamed.
    """
    made: Path | None = None
    try:
        made = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=_PREFIX))
        yield made
        mask = os.umask(0)
        os.umask(mask)
        made.chmod(0o777 & ~mask)
        _put(made, out)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{out} can't be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _put(made: Path, out: Path) -> None:
    """Rename it; what was there is put back where that fails."""
    if not out.is_dir() or not any(out.iterdir()):
        made.replace(out)
        return
    before = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=_PREFIX))
    out.replace(before)
    try:
        made.replace(out)
    except OSError:
        before.replace(out)
        raise
    shutil.rmtree(before, ignore_errors=True)


def copy_beside(checkpoint: Checkpoint, directory: Path, config: str | None, *, configured: bool) -> None:
    """Copy the tokenizer's files and the like, those that are there.

    Args:
        checkpoint: beside whose weights they stand.
        directory: where to.
        config: a config.json, or the directory of one, that was given for the checkpoint.
        configured: whether its config.json is copied too.

    Raises:
        MalformedCheckpoint: one is a link out of its directory.
        OSError: they can't be copied.
    """
    path = Path(checkpoint.info.path)
    given = None if config is None else Path(config)
    folder = path if path.is_dir() else path.parent
    beside = folder if given is None else given if given.is_dir() else given.parent
    for home in dict.fromkeys((beside, folder)):
        for name in _BESIDE:
            if (home / name).is_file():
                shutil.copyfile(within(home, name), directory / name)
    described = beside / _CONFIG if given is None or given.is_dir() else given
    if configured and described.is_file():
        shutil.copyfile(described, directory / _CONFIG)
