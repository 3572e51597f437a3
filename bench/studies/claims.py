"""A directory holds one study: one set of settings and texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from peelaudit.errors import ConfigError, OutputError
from peelaudit.reports.writing import write_whole


def claim(out: Path, study: Mapping[str, object]) -> None:
    """Make `out` and note in it what it is for, or compare with the note that is there.

    Raises:
        ConfigError: `out` holds a study with other settings or texts.
        OutputError: `out` can't be made, read or written.
    """
    mine = json.dumps(study, indent=2) + "\n"
    note = out / "study.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        there = note.read_text(encoding="utf-8") if note.exists() else None
    except OSError as error:
        raise OutputError(f"{out}: {error.strerror}") from error
    if there is None:
        write_whole(note, mine)
    elif there != mine:
        raise ConfigError(f"{out} holds a study with other settings or texts (study.json); name another directory")
