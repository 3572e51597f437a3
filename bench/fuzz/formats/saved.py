"""What peelaudit itself writes and reads again, reports and a batch's results; and settings in TOML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

from bench.fuzz.case import Files, Format, read
from bench.fuzz.mutation import NUMBERS, TEXTS, change_bytes, change_json
from bench.fuzz.uses import read_settings, show_report, show_results
from peelaudit.fleet.results import Results
from peelaudit.records import TaskRow, TaskState, Verdict
from peelaudit.records.json import export
from tests.factories import TASK_FIGURES, make_report, with_every_figure

__all__ = ["SAVED"]

_SETTINGS = """data = ["a.txt", "b.txt=0.5"]
tokens = 4096
seq-len = 64
split = [0.6, 0.2, 0.2]
schedules = ["direct", "{1,2}"]
solver = "ridge"
effort = "quick"
seed = 3
bos = "never"
confidence = 0.95

[gate]
fail-over = ["gap_layers=0.05", "layer[1-3].gap=0.02"]
fail-on = ["red"]
on-inconclusive = "fail"

[[suppress]]
checkpoint = "runs/*/ckpt.pt"
layer = "2-3"
metric = "gap"
reason = "known since #12"
expires = 2026-12-31
"""
_VALUES = (
    *(
        "true",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "[]",
        "{}",
        "[[]]",
        '""',
        '"x"',
        "'''\n\x07'''",
        '"\\u001b[31m"',
        '"\\u0000"',
        "{ a = 1 }",
    ),
    *(
        "2026-12-31",
        "1979-05-27T07:32:00Z",
        "0x10",
        "[1, 'a']",
        '["a", "a"]',
        "9" * 5000,
        "[" * 2000,
        '"~nobody/x"',
        '"../outside"',
    ),
    *(
        '"all"',
        '"1-2000000000"',
        '"layer[1-999999999].gap=1"',
        '"{1,2,3}"',
        '"every:0"',
        '"prefix:99999999999"',
        '["all"]',
        '"\\n::error::"',
    ),
)


def _reports(_: Path) -> Sequence[Files]:
    reports = [
        make_report(),
        make_report(2, verdict=Verdict.GREEN),
        with_every_figure(make_report(3, verdict=Verdict.GREY)),
    ]
    return [{"report.json": export(report).encode()} for report in reports]


def _changed_report(draw: Random, files: Files) -> Files:
    return {"report.json": change_json(draw, files["report.json"])}


def _results(folder: Path) -> Sequence[Files]:
    """A directory with a report that is done, one that has failed, and one that is planned."""
    results = Results.create(folder / "results")
    report, key = make_report(path="a/ckpt.pt"), "ab" * 32
    with results.claimed(key, report.checkpoint.path, wait=False):
        entry = results.publish(key, report)
    results.plan("1/1", ["a/ckpt.pt", "b/ckpt.pt", "c/ckpt.pt"])
    results.record(TaskRow("a/ckpt.pt", TaskState.DONE, 0, report=entry.file, figures=TASK_FIGURES))
    results.record(TaskRow("b/ckpt.pt", TaskState.FAILED, 3, "b/ckpt.pt: is truncated"))
    claim = json.dumps({"checkpoint": "c/ckpt.pt", "host": "x", "pid": 1}).encode()
    return [{**read(folder / "results"), f"tasks/{key}/claim": claim, f"tasks/{'cd' * 32}/claim": claim}]


def _changed_results(draw: Random, files: Files) -> Files:
    if draw.random() < 0.1:  # a report that all agree on, elsewhere
        (report,) = (name for name in files if name.startswith("reports/"))
        place = draw.choice(TEXTS).encode("utf-8", "surrogatepass").decode("latin1")
        return {name: data.replace(report.encode(), json.dumps(place)[1:-1].encode()) for name, data in files.items()}
    name = draw.choice(sorted(files))
    return {**files, name: change_json(draw, files[name])}


def _settings(_: Path) -> Sequence[Files]:
    tables = _SETTINGS.replace("[gate]", "[tool.peelaudit.gate]").replace("[[suppress]]", "[[tool.peelaudit.suppress]]")
    return [
        {"peelaudit.toml": _SETTINGS.encode()},
        {"pyproject.toml": f'[project]\nname = "x"\n\n[tool.peelaudit]\n{tables}'.encode()},
    ]


def _changed_settings(draw: Random, files: Files) -> Files:
    ((name, raw),) = files.items()
    lines = raw.decode().splitlines()
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(lines))
        key, equals, _value = lines[at].partition(" = ")
        match draw.randrange(5):
            case 0:
                del lines[at]
            case 1:
                lines.insert(draw.randrange(len(lines)), lines[at])
            case 2 if equals:
                lines[at] = (
                    f"{draw.choice((key[:-1], key.upper(), key + 's', 'checkpoint', 'tool', *TEXTS[:12]))} = {_value}"
                )
            case _:
                lines[at] = f"{key} = {draw.choice((*_VALUES, *map(str, NUMBERS)))}"
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    return {name: change_bytes(draw, text) if draw.random() < 0.1 else text}


SAVED = (
    Format("report", 6, _reports, _changed_report, show_report),
    Format("results", 4, _results, _changed_results, show_results),
    Format("settings", 6, _settings, _changed_settings, read_settings),
)
