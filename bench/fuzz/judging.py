"""What came of a case: how it ended, what is wrong with that, and what it took."""

from __future__ import annotations

import math
import os
import resource
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.fuzz.case import Format
from bench.fuzz.yard import Yard
from peelaudit.errors import ConfigError, PeelauditError

__all__ = ["judged", "sentences"]

MEMORY = 1 << 30
"""Bytes of addresses that a case may take beyond what the process has."""
_LONGEST = 3000
"""Signs of a sentence: mistakes in the settings are listed."""
_STARVED = ("MemoryError", "bad_alloc", "malloc", "realloc", "DefaultCPUAllocator", "Cannot allocate")


def judged(form: Format, yard: Yard, printed: int, computing: int) -> dict[str, Any]:
    """Use what lies in the yard, as the fields of an `Outcome`.

    Args:
        form: whose the case is.
        yard: where it lies.
        printed: a file that stands in for stdout and stderr.
        computing: CPU seconds that it may take.
    """
    os.ftruncate(printed, 0)
    os.lseek(printed, 0, os.SEEK_SET)
    outcome, wrong, trace = "opened", [], ""
    with _confined(computing) as took, yard.watched():
        try:
            form.use(yard.case)
        except PeelauditError as error:
            outcome, wrong = type(error).__name__, list(_faults(error, str(yard.case.parent)))
            trace = traceback.format_exc(limit=-1) if wrong else ""
        except Exception as error:
            outcome, wrong = type(error).__name__, [f"{type(error).__name__}: {str(error)[:300]!r}"]
            trace = traceback.format_exc(limit=-6)
    wrong += yard.seen
    if size := os.fstat(printed).st_size:
        wrong.append(f"printed: {os.pread(printed, min(size, 300), 0)!r}")
    if took["children"] > computing:
        wrong.append(f"a process of its own took {took['children']:.0f} CPU seconds")
    return {"outcome": outcome, "wrong": wrong, "trace": trace, **took}


def sentences(error: PeelauditError) -> tuple[str, ...]:
    """What the command line prints of an error, line by line."""
    return error.problems if isinstance(error, ConfigError) else (str(error),)


def _faults(error: PeelauditError, folder: str) -> Iterator[str]:
    """What is wrong with how it was refused; in `folder` are the case and the text that it is used with."""
    for sentence in sentences(error):
        if not sentence or not sentence.isprintable():
            yield f"a message that isn't one printable line: {sentence[:300]!r}"
        elif len(sentence) > _LONGEST:
            yield f"a message of {len(sentence)} signs: {sentence[:200]!r}"
        elif folder not in sentence:
            yield f"a message that names no file: {sentence[:300]!r}"
        elif word := next((word for word in _STARVED if word in sentence), None):
            yield f"{word}: {sentence[:300]!r}"


@contextmanager
def _confined(computing: int) -> Iterator[dict[str, float]]:
    """CPU seconds and memory are limited by the system; what was taken is filled in at the end."""
    took = {"seconds": 0.0, "children": 0.0, "memory": 0.0}
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = {what: resource.getrlimit(what)[1] for what in (resource.RLIMIT_AS, resource.RLIMIT_CPU)}
    children = _children()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    peak, begun = _peak(), time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(begun) + computing, most[resource.RLIMIT_CPU]))
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, most[resource.RLIMIT_AS]))
    try:
        yield took
    finally:
        for what, hard in most.items():
            resource.setrlimit(what, (hard, hard))
        took |= {"seconds": time.process_time() - begun, "memory": _peak() - peak, "children": _children() - children}


def _children() -> float:
    """CPU seconds of processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peak() -> int:
    """Bytes that were resident at most."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10
