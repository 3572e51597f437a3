"""The TOML file that holds a project's settings: which one it is, and what is in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from peelaudit.errors import ConfigError
from peelaudit.plain_files import read_plain

__all__ = ["Found", "find_table", "shown"]

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A file with settings, and their table in it."""

    path: Path
    table: Mapping[str, object]


def shown(value: object) -> str:
    """A value for a message: short, on one line."""
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"


def find_table(directory: Path) -> Found | None:
    """The nearest file with settings.

    Raises:
        ConfigError: the file can't be read, or there are two in one folder.
    """
    for folder in _folders(directory):
        tables = [found for found in (_own(folder / "peelaudit.toml"), _shared(folder / "pyproject.toml")) if found]
        if len(tables) == 2:
            raise ConfigError(f"{tables[0].path} and [tool.peelaudit] in {tables[1].path} both hold settings: keep one")
        if tables:
            return tables[0]
    return None


def _folders(directory: Path) -> Iterator[Path]:
    chain = [directory, *directory.parents]
    root = next((index for index, folder in enumerate(chain) if os.path.lexists(folder / ".git")), 0)
    yield from chain[: root + 1]


def _own(path: Path) -> Found | None:
    table = _load(path)
    return None if table is None else Found(path, table)


def _shared(path: Path) -> Found | None:
    tool = (_load(path) or {}).get("tool")
    table = tool.get("peelaudit") if isinstance(tool, dict) else None
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ConfigError(f"tool.peelaudit in {path} is {shown(table)}: expected a table")
    return Found(path, table)


def _load(path: Path) -> dict[str, object] | None:
    import tomllib  # here, for `--help` needs none of it

    try:
        data = read_plain(path, _MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"{path} is over {_MAX_BYTES} bytes: no file of settings")
        return tomllib.loads(data.decode("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
