"""One of the processes that open cases: started once, told which, and ended by the first that brings it down.

A line in, `format seed first count`; for each case a line out as it begins and one as it ends.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from bench.fuzz.case import Files, Format, made_of
from bench.fuzz.judging import judged
from bench.fuzz.yard import Yard


def main() -> None:
    """Serve until there is no line any more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path, help="an empty directory for the cases")
    parser.add_argument("table", help="the module that has the formats")
    parser.add_argument("computing", type=int, help="CPU seconds that a case may take")
    arguments = parser.parse_args()
    yard = Yard(arguments.root)
    told = os.fdopen(os.dup(1), "w", buffering=1)
    printed = os.open(yard.printed, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    formats = importlib.import_module(arguments.table).FORMATS
    bases: dict[str, Sequence[Files]] = {}
    for line in sys.stdin:
        name, seed, first, count = line.split()
        if name not in bases:
            bases[name] = _ready(formats[name], yard)
        for number in range(int(first), int(first) + int(count)):
            told.write(f"begin {number}\n")
            yard.lay(made_of(bases[name], formats[name], int(seed), number))
            told.write(f"end {json.dumps(judged(formats[name], yard, printed, arguments.computing))}\n")


def _ready(form: Format, yard: Yard) -> Sequence[Files]:
    """The format's sound files, each used once: what is imported and made then isn't a case's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bases = form.bases(yard.place(form.name))
        for files in bases:
            yard.lay(files)
            form.use(yard.case)
    return bases


if __name__ == "__main__":
    main()
