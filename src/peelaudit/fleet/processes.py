"""The local engine: each checkpoint in a process of its own, forked from a server that has imported torch already.

A crash, or a kill for want of memory, loses one audit. Memory goes back to the system after each. A process ends as
soon as the one that started it is gone, however that was: none is left behind.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType

from peelaudit.fleet.working import Task, failed, perform
from peelaudit.records import TaskRow, TaskState

__all__ = ["cores", "cuda_devices", "death", "run_locally"]

_PATIENCE_S = 5.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GPU_FILES = ("nvidia[0-9]*", "kfd", "dxg")


def run_locally(tasks: Sequence[Task], *, jobs: int, devices: Sequence[str] = ()) -> Generator[TaskRow, None, None]:
    """Audit the tasks, `jobs` at a time; a row for each as it ends. Closing the iterator stops what runs.

    A task that another run is at comes last, and is then waited for. `devices` are CUDA devices, of which each process
    sees one; none are given where it runs on the CPU.
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
            ready = wait(list(running))
            for ended in [running.pop(connection) for connection in list(running) if connection in ready]:
                row = ended.result()
                if row.state is TaskState.RUNNING:
                    queue.append(replace(ended.task, wait=True))
                else:
                    yield row
    finally:
        _stop(running.values())


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


def death(exit_code: int) -> str:
    """What became of a process that ended without a result, as a sentence."""
    if exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return (
            "its process was killed (SIGKILL), as the system does when memory runs out; fewer --tokens, a shorter "
            "--seq-len or fewer --jobs need less"
        )
    if exit_code < 0:
        return f"its process died of {signal.Signals(-exit_code).name}"
    return f"its process ended without a result (exit code {exit_code})"


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


def _stop(running: Iterable[_Running]) -> None:
    """End the processes, with force those that don't heed."""
    left = list(running)
    for one in left:
        one.process.terminate()
    for one in left:
        one.process.join(_PATIENCE_S)
        if one.process.is_alive():
            one.process.kill()
            one.process.join()


def _serve(connection: Connection, task: Task, device: str | None) -> None:
    """What a task's process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process stops the others
    signal.signal(signal.SIGTERM, _leave)
    _end_with_parent()
    _be_first_to_go()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import torch

    torch.set_num_threads(task.threads)
    connection.send(perform(task))
    connection.close()


def _leave(number: int, frame: FrameType | None) -> None:
    """As an exception, so that temporary files are removed on the way out."""
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _be_first_to_go() -> None:
    """When memory runs out, Linux should kill this process, not the one that waits for it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
