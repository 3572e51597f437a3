"""The Ray engine: a checkpoint a task, anywhere in a cluster whose machines share the checkpoints and the results.

Ray begins a task again whose machine was lost; its claim went with its process. The work is that of
`peelaudit.fleet.working`, the same as on one machine, so that the results are the same.

Ray may abort the process that uses it (2.60 does, with exit code 1, where a task completes while it leaves). So one of
its own uses it, the driver, and sends what comes of the tasks: how the command ends stays the command's to say.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import platform
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from peelaudit.errors import AuditError, ConfigError, PeelauditError
from peelaudit.fleet.children import PATIENCE_S, death, follow_parent, heed_sigterm, stop
from peelaudit.fleet.working import Task, failed, perform
from peelaudit.records import TaskRow, TaskState

__all__ = ["LOST_TRIES", "THREADS", "Received", "connected", "driver", "driving", "run_on_ray"]

LOST_TRIES = 3
THREADS = ("OMP_NUMTHREADS", "MKL_NUMTHREADS", "OPENBLAS_NUMTHREADS")


def run_on_ray(tasks: Sequence[Task], *, jobs: int | None, gpus_per_task: float) -> Generator[TaskRow, None, None]:
    """Audit the tasks on the Ray cluster that `RAY_ADDRESS` names or that runs here, else on one started here.

    At most `jobs` at a time, if given; else as many as the cluster has room for. Closing the iterator stops them.

    Raises:
        ConfigError: Ray isn't installed.
        AuditError: there is no cluster to be reached, or Ray took the driver down.
    """
    with driver(_drive, tasks, jobs, gpus_per_task) as received:
        for _ in tasks:
            yield received()


@dataclass(frozen=True, slots=True)
class Received:
    """Gives what the driver sends, one after another."""

    connection: Connection
    driver: BaseProcess

    def __call__(self) -> Any:
        """The next, one that isn't None.

        Raises:
            PeelauditError: the driver's own error, or that it is gone.
        """
        message: object = None
        with contextlib.suppress(EOFError, OSError):
            message = self.connection.recv()
        if isinstance(message, PeelauditError):
            raise message
        if message is None:
            self.driver.join(PATIENCE_S)
            code = self.driver.exitcode or 0
            raise AuditError(f"Ray's driver is gone: {death(code)}; what is done is kept, run it again")
        return message


@contextlib.contextmanager
def driver(target: Callable[..., None], *args: Any) -> Iterator[Received]:
    """A process that uses Ray, ended with all of its tasks: `target` is given a connection to here, and these."""
    context = multiprocessing.get_context("spawn")  # Ray doesn't survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Received(ours, process)
        process.join(PATIENCE_S)
    finally:
        # The cluster ends the tasks of a driver that is gone, and one that was started by it ends with it.
        stop([process])
        ours.close()


def _drive(connection: Connection, tasks: Sequence[Task], jobs: int | None, gpus_per_task: float) -> None:
    """What the driver does: it sends a row for each task, or an error in place of the next row."""
    with driving(connection):
        for row in _run(connected(), tasks, jobs, gpus_per_task):
            connection.send(row)


@contextlib.contextmanager
def driving(connection: Connection) -> Iterator[None]:
    """Around what that process does; an error of ours is sent in place of the next message."""
    with contextlib.suppress(OSError):
        os.dup2(2, 1)  # Ray tells of lost machines on stdout, which is for the result
    follow_parent()
    try:
        yield
    except PeelauditError as error:
        connection.send(error)


def _run(ray: Any, tasks: Sequence[Task], jobs: int | None, gpus_per_task: float) -> Generator[TaskRow, None, None]:
    here = os.getcwd()  # noqa: PTH109  # a text
    queue, running = list(reversed(tasks)), dict[Any, Task]()
    remote = ray.remote(max_retries=LOST_TRIES - 1, retry_exceptions=False, num_gpus=gpus_per_task)(_serve)
    try:
        while queue or running:
            while queue and (jobs is None or len(running) < jobs):
                task = queue.pop()
                threads = {"env_vars": dict.fromkeys(THREADS, str(task.threads))}
                running[remote.options(num_cpus=task.threads, runtime_env=threads).remote(task, here)] = task
            ready, _ = ray.wait(list(running), num_returns=1)
            for reference in ready:
                task = running.pop(reference)
                row = _result(ray, reference, task)
                if row.state is TaskState.RUNNING:
                    queue.insert(0, replace(task, wait=True))
                else:
                    yield row
    finally:
        ray.shutdown()


def connected() -> Any:
    """The module `ray`, and with it the cluster.

    Raises:
        ConfigError: Ray isn't installed.
        AuditError: there is no cluster to be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'peelaudit[ray]'") from error
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # whatever Ray raises: many kinds
        raise AuditError(f"no Ray cluster can be reached: {error}") from error
    heed_sigterm()  # Ray put its own in place
    return ray


def _serve(task: Task, directory: str) -> TaskRow:
    """What a machine of the cluster does, where the command was given: its paths may be relative."""
    import torch

    try:
        os.chdir(directory)
    except OSError as error:
        return failed(task, f"{directory} isn't on the machine {platform.node()}: {error.strerror or error}")
    torch.set_num_threads(task.threads)
    return perform(task)


def _result(ray: Any, reference: Any, task: Task) -> TaskRow:
    """The task's row; a process or a machine that was lost too often makes it a failed one."""
    try:
        row: TaskRow = ray.get(reference)
    except ray.exceptions.OutOfMemoryError:
        return failed(task, "Ray killed its process, for the machine's memory ran out; fewer --tokens need less")
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        return failed(task, f"its process or its machine was lost, {LOST_TRIES} times over: {reason}")
    if row.report is not None and not (Path(task.results) / row.report).is_file():
        return failed(task, f"its report isn't in {task.results} here: all machines must share that directory")
    return row
