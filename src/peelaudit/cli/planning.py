"""How `batch` and `watch` are to do their audits, and `run` its one: their flags, read."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from peelaudit.auditing.caching import Cache
from peelaudit.cli.output import collecting
from peelaudit.errors import ConfigError
from peelaudit.fleet.batch import Batch, Engine
from peelaudit.fleet.layers import RayMachines
from peelaudit.fleet.processes import cores, cuda_devices
from peelaudit.fleet.results import Results
from peelaudit.fleet.sharding import Shard, parse_shard
from peelaudit.settings.audit import AuditConfig

__all__ = ["ClusterFlags", "FleetFlags", "Plan", "make_batch", "read_plan", "whole"]

_MOST = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFlags:
    """The flags of `batch` and `watch` alone, as they were written."""

    out: str
    jobs: str | None
    threads: str | None
    retries: str
    shard: str | None = None
    engine: str = "local"
    gpus_per_task: str = "0"
    stop_when: str | None
    outputs: Sequence[str]
    resume: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How audits are to be done, read from flags."""

    engine: Engine
    shard: Shard
    jobs: int | None
    threads: int | None
    retries: int
    gpus_per_task: float
    cache: Cache | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFlags:
    """The flags by which `run` shares one audit, as they were written."""

    engine: str
    jobs: str | None
    gpus_per_task: str

    def read(self, problems: list[str]) -> RayMachines | None:
        """The machines that refine layers, None for this one alone; every mistake goes to `problems`."""
        engine = Engine.LOCAL
        with collecting(problems):
            engine = _engine(self.engine)
        jobs = None if self.jobs is None else whole("--jobs", self.jobs, 1, problems)
        gpus = _share(self.gpus_per_task, problems)
        if engine is Engine.RAY:
            return RayMachines(jobs, gpus)
        for flag, given in (("--jobs", jobs is not None), ("--gpus-per-task", gpus > 0)):
            if given:
                problems.append(f"{flag} needs --engine ray: locally an audit has one process and one device")
        return None


def read_plan(own: FleetFlags, problems: list[str], *, command: str) -> Plan:
    """Every mistake goes to `problems`; the plan is of no use then."""
    engine, shard, cache = Engine.LOCAL, Shard(), None
    with collecting(problems):
        cache = Cache.found(os.environ) if own.resume else None
    with collecting(problems):
        engine = _engine(own.engine)
    with collecting(problems):
        shard = parse_shard(own.shard, os.environ)
    jobs, threads = (
        None if text is None else whole(flag, text, 1, problems)
        for flag, text in (("--jobs", own.jobs), ("--threads", own.threads))
    )
    if os.name != "posix":
        problems.append(f"{command} needs a POSIX system, whose file locks end with the process that holds them")
    if own.stop_when not in (None, "green"):
        problems.append(f"--stop-when is {own.stop_when!r}: expected green")
    gpus = _share(own.gpus_per_task, problems)
    if gpus and engine is Engine.LOCAL:
        problems.append("--gpus-per-task needs --engine ray: locally each audit has one device")
    return Plan(engine, shard, jobs, threads, whole("--retries", own.retries, 0, problems), gpus, cache)


def _engine(text: str) -> Engine:
    if text not in list(Engine):
        raise ConfigError(f"--engine is {text!r}: expected {' | '.join(Engine)}")
    return Engine(text)


def whole(flag: str, text: str, least: int, problems: list[str]) -> int:
    """A whole number; a mistake goes to `problems`."""
    if text.isdecimal() and text.isascii() and least <= int(text[:9]) <= _MOST and len(text) < 9:
        return int(text)
    problems.append(f"{flag} is {text!r}: expected a whole number from {least} to {_MOST}")
    return least


def _share(text: str, problems: list[str]) -> float:
    """A share of a GPU, or several whole ones, as Ray has it."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= _MOST or (share > 1 and share % 1):
        problems.append(f"--gpus-per-task is {text!r}: expected a share from 0 to 1, or a whole number")
    return share


def make_batch(found: Sequence[str], settings: AuditConfig, plan: Plan, results: Results) -> Batch:
    """The batch of this shard's checkpoints among those that were found."""
    local = plan.engine is Engine.LOCAL
    devices = cuda_devices(os.environ) if local and settings.device in ("auto", "cuda") else ()
    jobs = plan.jobs or (len(devices) or 1 if local else None)
    told = os.environ.get("OMP_NUM_THREADS", "")
    chosen = int(told) if told.isdecimal() and int(told) > 0 else max(1, cores() // (jobs or 1)) if local else 1
    return Batch(
        checkpoints=tuple(plan.shard.of(found)),
        settings=settings,
        results=results,
        shard=plan.shard,
        engine=plan.engine,
        jobs=jobs,
        threads=plan.threads or chosen,
        retries=plan.retries,
        devices=devices,
        gpus_per_task=plan.gpus_per_task,
        cache=plan.cache,
    )
