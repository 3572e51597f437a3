"""The local engine: each checkpoint in a process of its own, forked from a server that has imported torch already.

A crash, or a kill for want of memory, loses one audit. Memory goes back to the system after each.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from peelaudit.fleet.children import death, follow_parent, stop
from peelaudit.fleet.working import Task, failed, perform
from peelaudit.records import TaskRow, TaskState

__all__ = ["cores", "cuda_devices", "run_locally"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GPU_FILES = ("nvidia[0-9]*", "kfd", "dxg")


def run_locally(tasks: Sequence[Task], *, jobs: int, devices: Sequence[str] = ()) -> Generator[TaskRow, None, None]:
    """Audit the tasks, `jobs` at a time; a row for each as it begins, RUNNING, and as it ends. Closing the iterator
    stops what runs.

    A task that another run is at comes last, and is then waited for: a second RUNNING row says so. `devices` are CUDA
    devices, of which each process sees one; none are given where it runs on the CPU.
    """
    queue, running = deque(tasks), dict[Connection, _Running]()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["peelaudit.fleet.warm"])
    try:
        while queue or running:
            while queue and len(running) < jobs:
                slot = min(set(range(jobs)) - {other.slot for other in running.values()})
                device = devices[slot % len(devices)] if devices else None
                started = _start(context, queue.popleft(), slot, device)
                running[started.connection] = started
                if not started.task.wait:
                    yield TaskRow(started.task.config.checkpoint, TaskState.RUNNING)
            ready = wait(list(running))
            for ended in [running.pop(connection) for connection in list(running) if connection in ready]:
                row = ended.result()
                if row.state is TaskState.RUNNING:
                    queue.append(replace(ended.task, wait=True))
                yield row
    finally:
        stop(one.process for one in running.values())


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cuda_devices(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The CUDA devices that this process may use, as `CUDA_VISIBLE_DEVICES` names them.

    Torch counts them, in another process: only where there is a driver at all, for importing it takes seconds.
    """
    if not any(True for pattern in _GPU_FILES for _ in Path("/dev").glob(pattern)):
        return ()
    code = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    count = int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else 0
    named = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named[:count]) if named else tuple(map(str, range(count)))


@dataclass(frozen=True, slots=True)
class _Running:
    """A task's process. `connection` gives its row, or ends with the process."""

    task: Task
    slot: int
    process: ForkServerProcess
    connection: Connection

    def result(self) -> TaskRow:
        """The row, once `connection` has something."""
        row: TaskRow | None = None
        with contextlib.suppress(EOFError, OSError):
            row = self.connection.recv()
        self.connection.close()
        self.process.join()
        code = self.process.exitcode or 0
        self.process.close()
        return failed(self.task, death(code)) if row is None else row


def _start(context: multiprocessing.context.ForkServerContext, task: Task, slot: int, device: str | None) -> _Running:
    ours, theirs = context.Pipe(duplex=False)
    with _environment(task.threads):
        process = context.Process(target=_serve, args=(theirs, task, device), daemon=True)
        process.start()
    theirs.close()
    return _Running(task, slot, process, ours)


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """What the fork server inherits: numeric libraries read their number of threads as they are loaded."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, task: Task, device: str | None) -> None:
    """What a task's process does."""
    follow_parent()
    _be_first_to_go()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import torch

    torch.set_num_threads(task.threads)
    connection.send(perform(task))
    connection.close()


def _be_first_to_go() -> None:
    """When memory runs out, Linux should kill this process, not the one that waits for it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
