"""One audit on a Ray cluster whose machines share the checkpoint: a layer's gap is a task, `auditing.machines`' work.

What layers have in common, the states and each layer's own go through Ray's object store, as bytes: torch's way of
sending tensors between processes leaves them with the sender, which may be gone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import pickle
import platform
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from peelaudit.errors import AuditError, ConfigError, PeelauditError
from peelaudit.fleet.clusters import LOST_TRIES, THREADS, connected, driver, driving

if TYPE_CHECKING:
    from torch import Tensor

    from peelaudit.auditing.machines import Common, Done, Piece
    from peelaudit.settings.audit import AuditConfig

__all__ = ["RayMachines"]

_ROUNDS = 2
"""Tasks that each share of a GPU is given: Ray ends a process with each, and the next one opens the checkpoint anew."""


@dataclass(frozen=True, slots=True)
class RayMachines:
    """The machines of a Ray cluster, found as by `run_on_ray`, as an audit's `Machines`.

    Attributes:
        jobs: tasks at a time at most; as many as the cluster has room for if None.
        gpus_per_task: Ray's share of a GPU for each.
    """

    jobs: int | None = None
    gpus_per_task: float = 0.0

    def check(self, config: AuditConfig) -> None:
        """As `Machines`."""
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("--engine ray needs Ray: pip install 'peelaudit[ray]'")
        if config.device == "cuda" and not self.gpus_per_task:
            raise ConfigError("--engine ray needs --gpus-per-task on a CUDA device: 1, or a share of it")
        if config.device != "cuda" and self.gpus_per_task:
            raise ConfigError(f"--gpus-per-task needs --device cuda: this audit computes on {config.device}")
        if config.max_memory is not None:
            raise ConfigError("--engine ray takes no --max-memory: machines hold all states")

    def __call__(self, common: Common, states: Sequence[Tensor], pieces: Iterable[Piece]) -> Iterator[Done]:
        """As `Machines`; an AuditError too where there is no cluster to be reached, or Ray took the driver down."""
        with driver(_drive, common.threads, common.reach.together, self.jobs, self.gpus_per_task) as received:

            def send(content: object) -> None:
                with contextlib.suppress(OSError):  # it is gone, and has said why
                    received.connection.send_bytes(pickle.dumps(content))

            send(common)
            send(len(states))
            for state in states:
                send(state.cpu())
            layers = []
            for piece in pieces:
                send(piece)
                layers.append(piece.layer)
            send(None)
            found: dict[int, Done] = {}
            for layer in layers:
                while layer not in found:
                    done: Done = pickle.loads(received())  # noqa: S301  # by processes of our own
                    found[done.layer] = done
                yield found.pop(layer)


def _drive(connection: Connection, threads: int, together: int, jobs: int | None, gpus_per_task: float) -> None:
    """What the driver does: it is sent what layers have in common, the number of states and each of them, each layer's
    own, and nothing last. Then it sends what comes of the layers, or an error in place of the next.
    """
    with driving(connection):
        ray = connected()
        try:
            _check_room(ray.nodes(), threads, gpus_per_task)
            for done in _run(ray, connection, threads, together, jobs, gpus_per_task):
                connection.send(done)
        finally:
            ray.shutdown()


def _check_room(nodes: Sequence[Any], threads: int, gpus: float) -> None:
    """Raise AuditError where no machine could ever take a task: Ray would wait for one."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(one.get("CPU", 0) >= threads and one.get("GPU", 0) >= gpus for one in alive):
        cores, cards = (max((one.get(name, 0) for one in alive), default=0) for name in ("CPU", "GPU"))
        raise AuditError(
            f"no machine of the cluster has {threads} cores and {gpus:g} GPUs for a layer (at most {cores:g} and"
            f" {cards:g}): OMP_NUM_THREADS and --gpus-per-task say how many"
        )


def _run(
    ray: Any, connection: Connection, threads: int, together: int, jobs: int | None, gpus_per_task: float
) -> Iterator[bytes]:
    environment = {"env_vars": dict.fromkeys(THREADS, str(threads))}
    remote = ray.remote(max_retries=LOST_TRIES - 1, retry_exceptions=False, num_gpus=gpus_per_task)(_serve_layers)
    remote = remote.options(num_cpus=threads, runtime_env=environment)
    key, here = uuid.uuid4().hex, os.getcwd()  # noqa: PTH109  # a text
    try:
        common = ray.put(connection.recv_bytes())
        count: int = pickle.loads(connection.recv_bytes())  # noqa: S301  # by the command itself
        shared = [common, *(ray.put(connection.recv_bytes()) for _ in range(count))]
        pieces, nothing = [], pickle.dumps(None)
        while (piece := connection.recv_bytes()) != nothing:
            pieces.append(ray.put(piece))
    except ray.exceptions.RayError as error:
        raise AuditError(f"the cluster's object store doesn't take the states: {_first_line(error)}") from None
    size = together
    if gpus_per_task:
        slots = min(jobs or len(pieces), int(ray.cluster_resources().get("GPU", 0) / gpus_per_task))
        size *= max(1, math.ceil(len(pieces) / (_ROUNDS * max(1, slots) * together)))
    queue = [pieces[start : start + size] for start in range(0, len(pieces), size)][::-1]
    running: list[Any] = []
    while queue or running:
        while queue and (jobs is None or len(running) < jobs):
            running.append(remote.remote(key, here, shared, queue.pop()))
        (ready,), running = ray.wait(running, num_returns=1)
        yield from _results(ray, ready)


def _results(ray: Any, reference: Any) -> list[bytes]:
    """What became of a task's layers.

    Raises:
        PeelauditError: its own, or that its process or its machine was lost too often.
    """
    try:
        found: list[bytes] | PeelauditError = ray.get(reference)
    except ray.exceptions.OutOfMemoryError:
        problem = "Ray killed a layer's process, for the machine's memory ran out; fewer --tokens need less"
        raise AuditError(problem) from None
    except ray.exceptions.RayError as error:
        problem = f"a layer's process or its machine was lost, {LOST_TRIES} times over: {_first_line(error)}"
        raise AuditError(problem) from None
    if isinstance(found, PeelauditError):
        raise found
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _serve_layers(
    key: str, directory: str, shared: Sequence[Any], pieces: Sequence[Any]
) -> list[bytes] | PeelauditError:
    """What a machine of the cluster does, where the command was given: its paths may be relative."""
    import ray

    from peelaudit.auditing.machines import refined_layers

    def fetch() -> tuple[Common, Iterator[Tensor]]:
        return load(shared[0]), (load(state) for state in shared[1:])

    def load(reference: Any) -> Any:
        return pickle.loads(ray.get(reference))  # noqa: S301  # by the command itself

    try:
        os.chdir(directory)
    except OSError as error:
        return AuditError(f"{directory} isn't on the machine {platform.node()}: {error.strerror or error}")
    try:
        return [pickle.dumps(done) for done in refined_layers(key, fetch, map(load, pieces))]
    except PeelauditError as error:
        return error
    except Exception as error:  # Ray would say that the process was lost
        return AuditError(f"a layer on the machine {platform.node()}: {type(error).__name__}: {error}")
