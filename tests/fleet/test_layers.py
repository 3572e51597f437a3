"""What a Ray cluster isn't asked to do of one audit; a real one, whose node is killed, is in test_ray.py."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from peelaudit.errors import AuditError, ConfigError
from peelaudit.fleet.layers import RayMachines, _check_room
from peelaudit.settings.audit import AuditConfig


def node(cores: float, gpus: float = 0.0, *, alive: bool = True) -> dict[str, object]:
    resources = {"CPU": cores} | ({"GPU": gpus} if gpus else {})
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("threads", "gpus", "fits"),
    [(4, 0.0, True), (8, 0.0, True), (9, 0.0, False), (4, 0.5, True), (8, 0.5, False), (1, 2.0, False)],
)
def test_a_task_that_no_machine_could_take_is_an_error_and_no_wait(threads: int, gpus: float, fits: bool) -> None:
    nodes = [node(8), node(4, gpus=1), node(64, gpus=8, alive=False)]
    if fits:
        _check_room(nodes, threads, gpus)
        return
    with pytest.raises(AuditError, match=f"no machine of the cluster has {threads} cores and {gpus:g} GPUs"):
        _check_room(nodes, threads, gpus)


def test_no_machine_at_all() -> None:
    with pytest.raises(AuditError, match="at most 0 and 0"):
        _check_room([], 1, 0.0)


@pytest.mark.parametrize(
    ("machines", "settings", "words"),
    [
        (RayMachines(), {"device": "cuda"}, "needs --gpus-per-task on a CUDA device"),
        (RayMachines(gpus_per_task=0.5), {"device": "cpu"}, "--gpus-per-task needs --device cuda"),
        (RayMachines(), {"device": "cpu", "max_memory": "1GiB"}, "takes no --max-memory"),
    ],
)
def test_settings_that_do_not_go_together(
    machines: RayMachines, settings: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SimpleNamespace(__spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ray", module)
    with pytest.raises(ConfigError, match=words):
        machines.check(AuditConfig(checkpoint="ckpt", **settings))
    machines = RayMachines(gpus_per_task=float(settings["device"] == "cuda"))
    machines.check(AuditConfig(checkpoint="ckpt", device=settings["device"]))


def test_ray_is_asked_for_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'peelaudit\[ray\]'"):
        RayMachines().check(AuditConfig(checkpoint="ckpt", device="cpu"))
