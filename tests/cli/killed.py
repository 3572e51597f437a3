"""Audits that are killed and begun again, each in a process of its own forked from one that has imported torch.

    python -m tests.cli.killed FOLDER MOMENTS ARGUMENT...

runs the command with these arguments undisturbed, then kills it (SIGKILL) at so many moments, each in a process of its
own, and runs it again after each; what came of every moment is in FOLDER/outcome.json. A moment is a stage that begins,
a step of one that ends, or a result of which the file is written and not yet renamed. They are spread over all from
the states on; where they are as many as there are stages, the last of each is among them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peelaudit.fleet.warm  # noqa: F401  # torch and transformers, once for all
from peelaudit.cli import main
from peelaudit.network.work import Work
from peelaudit.progress import Clock

NEVER = 10**9


class Moments:
    """Counts the moments of this process, and kills it at one."""

    def __init__(self, fatal: int) -> None:
        self.fatal, self.stages, self.passes = fatal, list[str](), 0
        self._stage = "starting"
        stage, add = Clock.stage, Work.add

        def begin(clock: Clock, name: str, total: int) -> None:
            stage(clock, name, total)
            self._stage = name
            self.meet()

        def work(told: Work, passes: int) -> None:
            add(told, passes)
            self.passes += passes

        Clock.stage, Work.add = begin, work  # type: ignore[method-assign]
        Clock.advance = self.before(Clock.advance)  # type: ignore[method-assign]
        Path.replace = self.before(Path.replace)  # type: ignore[method-assign]

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def met(*arguments: Any) -> Any:
            self.meet()
            return function(*arguments)

        return met

    def meet(self) -> None:
        self.stages.append(self._stage)
        if len(self.stages) > self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(folder: Path, arguments: Sequence[str], fatal: int = NEVER) -> dict[str, Any]:
    """What the command did in a process of its own, and how that ended."""
    told, report = folder / "told.json", folder / "report.json"
    for path in (told, report):
        path.unlink(missing_ok=True)
    if (child := os.fork()) == 0:
        moments = Moments(fatal)
        code = main([*arguments, "-o", str(report), "-q"])
        told.write_text(json.dumps({"stages": moments.stages, "passes": moments.passes}))
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = json.loads(told.read_text()) if told.exists() else {}
    if report.exists():
        content = json.loads(report.read_text())
        del content["timings"]
        found["report"] = json.dumps(content)
    return found | {"code": code, "left": sorted(path.name for path in folder.glob("cache/*/*"))}


def disturbed(folder: Path, arguments: Sequence[str], whole: dict[str, Any], moment: int) -> dict[str, Any]:
    killed = forked(folder, arguments, moment)
    again = forked(folder, arguments)
    return {
        "stage": whole["stages"][moment],
        "killed": killed["code"],
        "left": killed["left"],
        "code": again["code"],
        "same": again.get("report") == whole["report"],
        "saved": 1 - again["passes"] / whole["passes"],
        "left_after": again["left"],
    }


def run(folder: Path, moments: int, arguments: Sequence[str]) -> list[dict[str, Any]]:
    os.environ |= {"PEELAUDIT_CACHE": str(folder / "cache"), "PEELAUDIT_RESUME_AFTER": "0"}
    whole = forked(folder, arguments)
    return [disturbed(folder, arguments, whole, moment) for moment in spread(whole["stages"], moments)]


def spread(stages: Sequence[str], moments: int) -> list[int]:
    first, last = stages.index("hidden states"), len(stages) - 1
    ends = {stage: moment for moment, stage in enumerate(stages)}.values()
    chosen = set(ends) if moments >= len(ends) else set()
    even = moments - len(chosen)
    return sorted(chosen | {first + round((last - first) * (number + 1) / (even + 1)) for number in range(even)})


if __name__ == "__main__":
    outcome = run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    (Path(sys.argv[1]) / "outcome.json").write_text(json.dumps(outcome))
