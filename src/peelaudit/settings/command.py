"""Commands from settings: what repeats an audit or a difference, and what to run next."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from peelaudit.settings.audit import SETTINGS, AuditConfig
from peelaudit.settings.declared import Setting

__all__ = ["DIFFERENCE_SETTINGS", "NETWORK", "STORED", "TEXT", "next_command", "repeat_command", "repeat_difference"]

DIFFERENCE_SETTINGS = (
    *("data", "field", "separator", "tokenizer", "tokens", "seq_len", "bos"),
    *("config", "adapter", "device", "dtype", "seed", "resamples"),
)
"""What two checkpoints' difference depends on, of an audit's settings."""
STORED = ("config", "adapter")
"""Which network a checkpoint is, of the settings, as it is stored."""
NETWORK = (*STORED, "bits", "bits_on", "parent")
"""The same as it is audited, and against what."""
TEXT = ("data", "field", "separator", "tokenizer", "bos", "tokens")
"""What it is audited on."""


def repeat_command(settings: Iterable[tuple[str, object]]) -> str:
    r"""`peelaudit run …` on one line, quoted for a POSIX shell, with every setting as a flag.

    All are spelt out, the defaults too: a flag wins over whatever file or variable is around when it is run again.
    A setting without a value has no flag. What can't be printed is in the form `$'\033'`, as bash, zsh and ksh have it.
    """
    values = dict(settings)
    return _line("run", SETTINGS, values, [], [str(values.get("checkpoint", ""))])


def repeat_difference(settings: Iterable[tuple[str, object]]) -> str:
    """`peelaudit diff …`, as `repeat_command`."""
    values = dict(settings)
    paths = [str(values.get(name, "")) for name in ("base", "new")]
    own = ["--passes", _quoted(str(values["passes"]))] if "passes" in values else []
    return _line("diff", DIFFERENCE_SETTINGS, values, own, paths)


def next_command(command: str, config: AuditConfig, *words: str, paths: Sequence[str] = (), keep: Sequence[str]) -> str:
    """A command for who has just audited, with what he said of the network and the text, quoted for a POSIX shell.

    Args:
        command: such as `run`.
        config: the audit's settings.
        words: flags of the command's own: they win over what is kept.
        paths: its arguments; the audited checkpoint's if none are given.
        keep: the settings that go on, where they aren't the defaults.
    """
    kept = [
        word
        for field in dataclasses.fields(config)
        if field.name in keep and SETTINGS[field.name].flag not in words
        if (value := getattr(config, field.name)) != field.default
        for word in _flags(SETTINGS[field.name], value)
    ]
    named = paths or (config.checkpoint,)
    if any(path.startswith("-") for path in named):
        return " ".join(("peelaudit", command, *kept, *words, "--", *map(_quoted, named)))
    return " ".join(("peelaudit", command, *map(_quoted, named), *kept, *words))


def _line(
    command: str, names: Iterable[str], values: Mapping[str, object], own: Iterable[str], paths: Sequence[str]
) -> str:
    words = ["peelaudit", command, *(word for name in names for word in _flags(SETTINGS[name], values.get(name))), *own]
    words += ["--"] if any(path.startswith("-") for path in paths) else []
    return " ".join((*words, *map(_quoted, paths)))


def _flags(setting: Setting, value: object) -> Iterator[str]:
    """The flag of a setting, or several for a list of paths."""
    if isinstance(value, bool):
        yield setting.flag if value else setting.negated
        return
    for text in () if value is None else setting.kind.written(value):
        # One word where the value might be taken for a flag.
        yield f"{setting.flag}={_quoted(text)}" if text.startswith("-") else f"{setting.flag} {_quoted(text)}"


def _quoted(text: str) -> str:
    if text.isprintable():
        return shlex.quote(text)
    # A path's bytes, so that a name which isn't Unicode comes back as it was.
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(char: str) -> str:
    if char.isprintable():
        return f"\\{char}" if char in "\\'" else char
    # Octal, for it takes three digits and no more: the character after it is no part of it.
    undecoded = "\udc80" <= char <= "\udcff"
    data = char.encode("utf-8", "surrogateescape" if undecoded else "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in data)
