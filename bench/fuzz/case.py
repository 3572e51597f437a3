"""What a format is to the fuzzer: sound files, ways to change them, and how the library opens them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

__all__ = ["Files", "Format", "draw_of", "made_of", "read", "write"]

Files = Mapping[str, bytes]
"""A directory's files: their bytes by their names in it."""


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of input.

    Attributes:
        name: by which `--format` takes it.
        share: how many of a hundred files are of it.
        bases: sound ones, made once; the argument is a directory to make them in.
        change: one of them, damaged.
        use: opens what lies in a directory as the commands do, and raises what they would tell.
    """

    name: str
    share: float
    bases: Callable[[Path], Sequence[Files]]
    change: Callable[[Random, Files], Files]
    use: Callable[[Path], None]


def draw_of(form: str, seed: int, number: int) -> Random:
    """The draws of one case: the same for the same three, whatever was drawn before."""
    return Random(f"{form}/{seed}/{number}")  # to be repeated, not to be secret


def made_of(bases: Sequence[Files], form: Format, seed: int, number: int) -> Files:
    """The files of a case."""
    draw = draw_of(form.name, seed, number)
    return form.change(draw, draw.choice(bases))


def write(files: Files, folder: Path) -> None:
    """Lay files out in a directory."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def read(folder: Path) -> Files:
    """The files that lie in a directory."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
