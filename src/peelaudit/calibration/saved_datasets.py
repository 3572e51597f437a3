"""Which files of a directory are the rows of a dataset that Hugging Face's `datasets` wrote.

    dataset_dict.json                       {"splits": [...]}: a directory for each          DatasetDict.save_to_disk
    state.json, dataset_info.json           `_data_files`: the .arrow files, in order        Dataset.save_to_disk
    dataset_info.json, NAME-SPLIT.arrow     or -SPLIT-00000-of-00002.arrow                   the library's cache

Beside the cache's files lie those of finished `map` and `filter` calls, cache-….arrow, which are other datasets.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from peelaudit import json_text
from peelaudit.errors import CalibrationError
from peelaudit.escape import printable
from peelaudit.plain_files import read_plain

__all__ = ["saved_files"]

_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_MOST_BYTES = 1 << 24
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_FINISHED_CALL = "cache-"


def saved_files(folder: Path) -> list[str] | None:
    """The names, below `folder`, of the files that hold its rows; None if it is no such dataset.

    Raises:
        CalibrationError: the dataset has several splits, of which one is to be named, a selection of its rows beside
            it, or a damaged description.
    """
    return _of_splits(folder) if (folder / _DICT).is_file() else _of_one(folder)


def _of_one(folder: Path) -> list[str] | None:
    if (folder / _STATE).is_file() and (folder / _INFO).is_file():
        return _of_state(folder)
    if (folder / _INFO).is_file():
        return _of_cache(folder)
    return None


def _of_splits(folder: Path) -> list[str]:
    found = _read(folder / _DICT)
    splits = found.get("splits") if isinstance(found, dict) else None
    if not isinstance(splits, list) or not all(map(_is_name, splits)):
        raise CalibrationError(f"{_shown(folder / _DICT)}: expected a list of the dataset's splits")
    if len(splits) != 1:
        raise CalibrationError(_which(folder, splits, splits))
    split = folder / splits[0]
    files = _of_one(split)
    if files is None:
        raise CalibrationError(f"{_shown(split)}: the dataset's split isn't there")
    return [f"{splits[0]}/{name}" for name in files]


def _of_state(folder: Path) -> list[str]:
    state = _read(folder / _STATE)
    entries = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(entries, list):
        entries = [None]
    names = [str(entry.get("filename")) for entry in entries if isinstance(entry, dict)]
    if len(names) < len(entries) or not all(map(_is_name, names)):
        raise CalibrationError(f"{_shown(folder / _STATE)}: expected `_data_files`, a list of the dataset's files")
    if state.get("_indices_data_files"):
        advice = "save what flatten_indices() gives"
        raise CalibrationError(f"{_shown(folder)}: a selection of the rows is kept beside the dataset; {advice}")
    if not names:
        raise CalibrationError(f"{_shown(folder)}: the dataset has no file, and so no row")
    return names


def _of_cache(folder: Path) -> list[str] | None:
    splits: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.arrow")):
        if not path.name.startswith(_FINISHED_CALL):
            split = _SHARD.sub("", path.stem).rpartition("-")[2]
            splits.setdefault(split, []).append(path.name)
    if len(splits) > 1:
        raise CalibrationError(_which(folder, [*splits], [names[0] for names in splits.values()]))
    return next(iter(splits.values()), None)


def _which(folder: Path, splits: list[str], names: list[str]) -> str:
    if not splits:
        return f"{_shown(folder)}: the dataset has no split"
    listed = ", ".join(printable(split)[:40] for split in splits[:8])
    return f"{_shown(folder)}: the dataset has the splits {listed}; name one, as {_shown(folder / names[0])}"


def _is_name(name: object) -> bool:
    """Whether it is the plain name of something in the directory itself."""
    return isinstance(name, str) and Path(name).name == name and name not in ("", ".", "..") and "\0" not in name


def _read(path: Path) -> Any:
    try:
        raw = read_plain(path, _MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            raise ValueError(f"it has over {_MOST_BYTES} bytes")
        return json_text.parse(raw.decode("utf-8"))
    except (OSError, ValueError) as error:
        reason = printable(str(error))[:120]
        raise CalibrationError(f"{_shown(path)}: the dataset's description can't be read: {reason}") from error


def _shown(path: Path) -> str:
    return printable(str(path))
