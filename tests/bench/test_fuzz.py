"""The fuzzer: it notices what it looks for, makes a case again, and finds nothing in a few files of each format."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.fuzz.__main__ import keep, shared_out, table, told
from bench.fuzz.case import read
from bench.fuzz.formats.table import FORMATS
from bench.fuzz.pool import LIMITS, Limits, Outcome, run
from tests.bench import misbehaving

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are the system's")

QUICK = ("safetensors", "torch", "gguf", "array", "settings")
NOTICED = {
    "opens": "",
    "refuses": "",
    "refuses-settings": "",
    "raises": "KeyError: \"'key'\"",
    "names-nothing": "a message that names no file: 'it is damaged'",
    "is-raw": "a message that isn't one printable line",
    "prints": "printed: b'::error::'",
    "warns": "printed: b'beware'",
    "writes": "case/file was opened to be written",
    "makes": "work/made was written",
    "removes": "case/file is gone",
    "reads": "model.safetensors was read",
    "starts": "os.system",
    "asks": "MemoryError",
    "asks-and-hides-it": "MemoryError",
    "dies": "ended the process by SIGSEGV",
    "leaves": "ended the process by 7",
    "computes": "takes over 1 CPU seconds",
    "waits": "waits for over 1 seconds",
}


def outcomes(counts: dict[str, int], *, limits: Limits = LIMITS, jobs: int = 1) -> list[Outcome]:
    return list(run(counts, seed=1, jobs=jobs, limits=limits))


def test_what_no_file_may_do_is_noticed_and_the_next_case_goes_on() -> None:
    limits = Limits(computing=1, table=misbehaving.__name__)
    found = outcomes({name: 1 for name in misbehaving.FORMATS if name != "waits"}, limits=limits)
    found += outcomes({"waits": 1}, limits=dataclasses.replace(limits, waiting=1))
    assert [one.form for one in found] == list(NOTICED)
    for one in found:
        assert bool(one.wrong) == bool(NOTICED[one.form]), one
        assert NOTICED[one.form] in "; ".join(one.wrong), one


def test_several_processes_share_the_cases() -> None:
    limits = Limits(table=misbehaving.__name__)
    found = outcomes({"opens": 500, "refuses": 500, "leaves": 2}, limits=limits, jobs=2)
    assert sorted((one.form, one.number) for one in found) == sorted(
        [(name, n) for name, count in (("opens", 500), ("refuses", 500), ("leaves", 2)) for n in range(count)]
    )
    assert {one.form for one in found if one.wrong} == {"leaves"}
    assert "| opens | 500 | 500 | 0 | 0 |" in table(found)


@pytest.mark.parametrize("names", [QUICK, pytest.param(tuple(FORMATS), marks=pytest.mark.slow)])
def test_nothing_is_found_in_a_few_files(names: Sequence[str]) -> None:
    found = outcomes(dict(shared_out(30 if names is QUICK else 700, names)))
    assert [told(one, 1) for one in found if one.wrong] == []
    assert {one.form for one in found if one.outcome == "opened"} == set(names), "nothing at all opens"
    assert {one.form for one in found if one.outcome != "opened"} == set(names), "nothing is refused"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FORMATS]
)
def test_a_case_is_made_again_by_its_numbers(name: str, tmp_path: Path) -> None:
    for folder in ("one", "other"):
        keep(tmp_path / folder, {name: 9}, seed=3, first=0)
    keep(tmp_path / "late", {name: 1}, seed=3, first=8)
    one, other = read(tmp_path / "one"), read(tmp_path / "other")
    assert one == other
    assert len(set(one.values())) > 4
    assert read(tmp_path / "late").items() <= one.items()


def test_the_shares_come_to_what_was_asked_for() -> None:
    assert sum(shared_out(50_000, FORMATS).values()) >= 50_000
    assert shared_out(1, ["gguf"]) == {"gguf": 1}
