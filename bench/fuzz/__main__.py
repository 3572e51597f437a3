"""Does any file bring the library down, hang it, fill the memory, or make it touch what it shouldn't?

`make fuzz`, or `python -m bench.fuzz [--count N] [--format NAME ...] [--seed N] [--first N] [--jobs N] [--keep DIR]`.

Sound files of each format are changed where their structure is, and opened as the commands do. A case ends well if it
opens or is refused in one printable sentence that names the file. All else is a finding: another exception, over 10 CPU
seconds or 1 GiB, the process's end, a file that was written, a file beside the case's that was read, a line printed.
Format, seed and number make a case again: `--keep DIR` writes the files of those that are run.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.fuzz.case import made_of, write
from bench.fuzz.formats.table import FORMATS
from bench.fuzz.pool import Outcome, run

_COUNT, _TOLD = 50_000, 5_000


def main() -> int:
    """1 where there is a finding."""
    parser = argparse.ArgumentParser(description="open changed files of every format")
    parser.add_argument("--count", type=int, default=_COUNT, help="how many files in all")
    parser.add_argument("--format", action="append", choices=sorted(FORMATS), help="only these formats")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case of each format")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--keep", type=Path, help="a directory for the files of all cases that are run")
    arguments = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    counts = shared_out(arguments.count, arguments.format or FORMATS)
    if arguments.keep is not None:
        keep(arguments.keep, counts, arguments.seed, arguments.first)
    begun = time.monotonic()
    outcomes = []
    for outcome in run(counts, seed=arguments.seed, jobs=arguments.jobs, first=arguments.first):
        outcomes.append(outcome)
        if outcome.wrong:
            print(told(outcome, arguments.seed), flush=True)
        if not len(outcomes) % _TOLD:
            print(f"{len(outcomes):,} files, {time.monotonic() - begun:,.0f} s", file=sys.stderr)
    print(table(outcomes))
    print(f"{len(outcomes):,} files in {time.monotonic() - begun:,.0f} s, seed {arguments.seed}")
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


def told(outcome: Outcome, seed: int) -> str:
    """A finding: what makes the case again, what is wrong, and where that came from."""
    again = f"--format {outcome.form} --seed {seed} --first {outcome.number} --count 1"
    return "\n    ".join((f"{again}: {'; '.join(outcome.wrong)}", *outcome.trace.splitlines()))


def shared_out(count: int, names: Iterable[str]) -> Mapping[str, int]:
    """How many cases of each format, by their shares, and no fewer than `count` in all."""
    names = list(names)
    whole = sum(FORMATS[name].share for name in names)
    return {name: -int(-count * FORMATS[name].share // whole) for name in names}


def keep(folder: Path, counts: Mapping[str, int], seed: int, first: int) -> None:
    """Write the cases' files, each case's in a directory of its own."""
    for name, count in counts.items():
        with tempfile.TemporaryDirectory() as place:
            bases = FORMATS[name].bases(Path(place))
        for number in range(first, first + count):
            write(made_of(bases, FORMATS[name], seed, number), folder / name / f"{seed}-{number}")


def table(outcomes: Iterable[Outcome]) -> str:
    """How many cases of each format opened, were refused or are findings, and what they took at most."""
    by_form: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_form[outcome.form].append(outcome)
    lines = [
        "| format | files | opened | refused | findings | CPU s, most | MB, most |",
        "|---|---|---|---|---|---|---|",
    ]
    for form, found in by_form.items():
        kinds = Counter("finding" if one.wrong else "opened" if one.outcome == "opened" else "refused" for one in found)
        seconds, memory = max(one.seconds for one in found), max(one.memory for one in found) / 1e6
        counts = (len(found), kinds["opened"], kinds["refused"], kinds["finding"])
        lines.append(f"| {form} | {' | '.join(f'{count:,}' for count in counts)} | {seconds:.1f} | {memory:,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
