"""The Ray engine on a real local cluster of two nodes, one of which is killed while it audits, or refines a layer."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.support import (
    LONG,
    ROOT,
    environ,
    journal,
    members,
    peelaudit,
    reports,
    rows,
    started,
    until,
    write_model,
)

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray isn't installed (make test-all installs it)")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]

SETTINGS = ("--tokens", "4096", "--seq-len", "32", "--solver", "adam", "--steps", "200", "--threads", "1")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without processors and two nodes with one each."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for seed in range(6):
        write_model(tmp_path / f"run/ckpt-{seed}.pt", seed=seed, layers=2)
    return tmp_path / "run"


def test_a_node_is_killed_and_nothing_is_lost(cluster: Any, run: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    settings = environ(RAY_ADDRESS=cluster.address)
    arguments = ("batch", run.name, "--engine", "ray", "--out", results, "-f", "json", *SETTINGS)
    with started(*arguments, cwd=tmp_path, env=settings) as process:
        until(lambda: len(journal(results, "start")) == 2)  # one on each node
        assert journal(results, "finish") == []
        cluster.remove_node(sorted(cluster.worker_nodes, key=id)[0], allow_graceful=False)
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert [row["state"] for row in json.loads(out)] == ["done"] * 6
    begun = [line["task"] for line in journal(results, "start")]
    assert len(begun) == 7  # the one that was lost, again
    assert len(journal(results, "finish")) == 6

    local = peelaudit("batch", run.name, "--out", tmp_path / "local", "-f", "json", *SETTINGS, cwd=tmp_path)
    assert local.returncode == 0, local.stderr
    assert reports(results) == reports(tmp_path / "local")
    assert (results / "summary.csv").read_bytes() == (tmp_path / "local/summary.csv").read_bytes()


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_then_the_rest_but_a_bad_one(
    number: signal.Signals, code: int, word: str, cluster: Any, run: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    (run / "ckpt-0.pt").write_bytes(b"torn")
    settings = environ(RAY_ADDRESS=cluster.address)
    more = ("--out", results, "-f", "json", "--engine", "ray", "--jobs", "2", *SETTINGS)
    with started("batch", run, *more, env=settings) as process:
        until(lambda: journal(results, "finish"))
        os.killpg(process.pid, number)
        out, errors = process.communicate(timeout=60)
        until(lambda: not members(process.pid), seconds=20)
    assert (process.returncode, out) == (code, ""), errors
    assert errors.endswith(f"peelaudit: {word}\n")
    done = peelaudit("batch", run, *more, env=settings)
    assert done.returncode == 3
    assert [row["state"] for row in rows(done)].count("failed") == 1
    assert {row["state"] for row in rows(done)[1:]} == {"done", "kept"}


def test_nothing_is_left_of_a_cluster_of_its_own(run: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    with started("batch", run, "--out", results, "--engine", "ray", "--threads", "1", "-q", *LONG) as process:
        until(lambda: journal(results, "start"))
        assert len(members(process.pid)) > 4  # Ray's are among them
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (143, "", "peelaudit: terminated\n")
        until(lambda: not members(process.pid), seconds=20)


def test_a_node_is_killed_while_it_refines_a_layer_of_one_audit(cluster: Any, tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path / "ckpt.pt", seed=3, layers=10, width=32)
    tokens = ("--tokens", "8192", "--seq-len", "32", "--schedules", "refined")
    arguments = ("run", checkpoint, "-f", "json", "-q", "--no-resume", *tokens)
    settings = environ(RAY_ADDRESS=cluster.address)
    with started(*arguments, "--engine", "ray", "--save-repairs", tmp_path / "shared", env=settings) as process:
        until(lambda: len(refining()) == 2, seconds=120)  # a task on each node
        lost = sorted(cluster.worker_nodes, key=id)[0]
        cluster.remove_node(lost, allow_graceful=False)
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors  # on stderr Ray tells of the node that it lost
    local = peelaudit(*arguments, "--save-repairs", tmp_path / "alone")
    assert local.returncode == 0, local.stderr
    names = {path.name for path in (tmp_path / "alone").iterdir()}
    assert {path.name for path in (tmp_path / "shared").iterdir()} == names
    assert len(names) == 10
    shared, alone = json.loads(out), json.loads(local.stdout)
    del shared["timings"], alone["timings"]
    assert shared == alone


def refining() -> list[int]:
    """The processes of Ray's that refine a layer: they are called by what they do."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if words.startswith(b"ray::_serve_layers"):
            found.append(int(path.parent.name))
    return found
