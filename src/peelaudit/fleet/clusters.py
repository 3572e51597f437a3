"""The Ray engine: a checkpoint a task, anywhere in a cluster whose machines share the checkpoints and the results.

Ray begins a task again whose machine was lost; its claim went with its process. The work is `working.perform`, the
same as on one machine, so that the results are the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peelaudit.errors import AuditError, ConfigError
from peelaudit.fleet.working import Task, failed, perform
from peelaudit.records import TaskRow, TaskState

__all__ = ["run_on_ray"]

_LOST_TRIES = 3
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_on_ray(tasks: Sequence[Task], *, jobs: int | None, gpus_per_task: float) -> Generator[TaskRow, None, None]:
    """Audit the tasks on the Ray cluster that `RAY_ADDRESS` names or that runs here, else on one started here.

    At most `jobs` at a time, if given; else as many as the cluster has room for. Closing the iterator stops them.

    Raises:
        ConfigError: Ray isn't installed.
        AuditError: there is no cluster to be reached.
    """
    # Ray tells of lost machines on stdout, which is for the result.
    with contextlib.redirect_stdout(sys.stderr):
        yield from _run(_connect(), tasks, jobs, gpus_per_task)


def _run(ray: Any, tasks: Sequence[Task], jobs: int | None, gpus_per_task: float) -> Generator[TaskRow, None, None]:
    here = os.getcwd()  # noqa: PTH109  # a text
    queue, running = list(reversed(tasks)), dict[Any, Task]()
    remote = ray.remote(max_retries=_LOST_TRIES - 1, retry_exceptions=False, num_gpus=gpus_per_task)(_serve)
    try:
        while queue or running:
            while queue and (jobs is None or len(running) < jobs):
                task = queue.pop()
                threads = {"env_vars": dict.fromkeys(_THREADS, str(task.threads))}
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
        # The cluster ends a job's tasks when its driver leaves. Cancelling them by force first meets one that completes
        # more often, where a check of Ray 2.60's aborts the process. It can still happen: see the README's limits.
        ray.shutdown()


def _connect() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'peelaudit[ray]'") from error
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # whatever Ray raises: many kinds
        raise AuditError(f"no Ray cluster can be reached: {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)  # Ray's own would end in another exit code
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
        return failed(task, f"its process or its machine was lost, {_LOST_TRIES} times over: {reason}")
    if row.report is not None and not (Path(task.results) / row.report).is_file():
        return failed(task, f"its report isn't in {task.results} here: all machines must share that directory")
    return row
