"""What the package exports, and what importing it costs."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import peelaudit
from peelaudit.errors import ConfigError
from peelaudit.progress import Clock


def test_the_package_exports_one_function_and_what_comes_of_it() -> None:
    exported = {name: getattr(peelaudit, name) for name in peelaudit.__all__}
    functions = [name for name, one in exported.items() if not isinstance(one, type)]
    assert functions == ["audit"]
    assert {name for name, one in exported.items() if isinstance(one, type) and not issubclass(one, Exception)} == {
        "Verdict"
    }
    assert list(inspect.signature(peelaudit.audit).parameters) == [
        "checkpoint",
        "data",
        "progress",
        "state_dict",
        "settings",
    ]


@pytest.mark.parametrize(
    "module", ["peelaudit", "peelaudit.cli", "peelaudit.records.json", "peelaudit.reports.terminal"]
)
def test_importing_stays_light(module: str) -> None:
    heavy = {"jinja2", "numpy", "torch", "transformers"}
    code = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_reads_draws_and_gates_saved_reports_needs_no_torch() -> None:
    code = """
import importlib, pkgutil, sys
import peelaudit.records, peelaudit.reports, peelaudit.settings
import peelaudit.method.references.schedules, peelaudit.method.statistics
for room in (peelaudit.records, peelaudit.reports, peelaudit.settings, peelaudit.method.statistics):
    for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
        importlib.import_module(found.name)
print(sorted({"torch", "transformers", "safetensors"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_function_is_still_there_after_an_audit_was_imported() -> None:
    import peelaudit.auditing.run

    assert callable(peelaudit.audit)
    assert callable(peelaudit.auditing.run.audit_config)


def test_nothing_asks_for_the_metadata_of_an_installed_package() -> None:
    code = """
import importlib.metadata
found = importlib.metadata.version
def version(name):
    if name == "peelaudit":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
import peelaudit, peelaudit.cli
from peelaudit.auditing import prepare
assert prepare.tool_version() == dict(prepare.versions())["peelaudit"] == peelaudit.__version__
peelaudit.cli.main(["--version"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"peelaudit {peelaudit.__version__}"


def test_mistakes_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        peelaudit.audit("x", tokens=0, solver="magic")
    assert len(caught.value.problems) == 2


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="nonsense is no setting"):
        peelaudit.audit("x", nonsense=1)


def test_a_clock_keeps_the_seconds_of_each_stage_and_passes_everything_on() -> None:
    told: list[tuple[str, int]] = []

    class Listener:
        def stage(self, name: str, total: int) -> None:
            told.append((name, total))

        def advance(self, steps: int = 1) -> None:
            told.append(("", steps))

    clock = Clock(Listener())
    clock.stage("a", 2)
    clock.advance()
    clock.stage("b", 1)
    clock.stage("a", 1)
    assert [name for name, _ in clock.seconds()] == ["a", "b"]
    assert all(seconds >= 0 for _, seconds in clock.seconds())
    assert told == [("a", 2), ("", 1), ("b", 1), ("a", 1)]
