"""An audit that goes on: what is taken over, what is made again, and that the report doesn't tell."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from peelaudit.auditing.caching import Cache, Resumption
from peelaudit.auditing.encoding import encoded
from peelaudit.auditing.resuming import Kept, place_key
from peelaudit.auditing.run import Save, audit_config
from peelaudit.method.diagnosis.examine import LayerGain
from peelaudit.network.work import Work
from peelaudit.progress import Clock, SilentProgress
from peelaudit.records import AuditReport
from peelaudit.settings.audit import AuditConfig
from tests.fleet.support import write_model

KEY = "a" * 32


class Stopped(Exception):
    """What ends an audit in these tests."""


class Stopping(SilentProgress):
    """Ends the audit after so many steps of a stage."""

    def __init__(self, stage: str, steps: int) -> None:
        self._left, self._of, self._now = steps, stage, ""

    def stage(self, name: str, total: int) -> None:
        self._now = name
        self.advance(0)

    def advance(self, steps: int = 1) -> None:
        if self._now == self._of:
            self._left -= steps
            if self._left <= 0:
                raise Stopped


class Counting(Work):
    """Counts all that is really computed."""

    total = 0

    def add(self, passes: int) -> None:
        super().add(passes)
        Counting.total += passes


def gain(number: int) -> LayerGain:
    return LayerGain(np.full(3, float(number)), 0.5, number, 2, 1.5)


class Stage:
    """Makes ten results, one after another, of which each is some work, and ends after so many."""

    def __init__(self, root: Path, key: str = KEY, most: int = 10) -> None:
        self.work, self.clock, self.made, self.asked = Work(), Clock(), list[int](), False
        self.clock.metered(lambda: self.work.blocks)
        self.kept = Kept(self.clock, self.work, Resumption(Cache(root, patience_s=0)), key)
        self._most = most

    def after(self, found: Sequence[LayerGain]) -> Iterator[LayerGain]:
        self.kept.stage("a stage", 10)
        for number in range(len(found), 10):
            if len(self.made) == self._most:
                raise Stopped
            self.work.add(number + 1)
            self.made.append(number)
            yield gain(number)

    def run(self, **options: object) -> list[LayerGain]:
        def taken() -> None:
            self.asked = True

        return self.kept.each("x", LayerGain, self.after, taken=taken, **options)  # type: ignore[arg-type]


def stopped(root: Path, after: int, key: str = KEY) -> Stage:
    stage = Stage(root, key, after)
    with pytest.raises(Stopped):
        stage.run()
    return stage


def test_a_stage_goes_on_after_what_is_kept_and_counts_it(tmp_path: Path) -> None:
    stopped(tmp_path, 4)
    again = Stage(tmp_path)
    assert encoded(tuple(again.run())) == encoded(tuple(map(gain, range(10))))
    assert again.made == [4, 5, 6, 7, 8, 9]
    assert again.asked
    assert again.clock.work() == (("a stage", 55.0),)
    third = Stage(tmp_path)
    assert len(third.run()) == 10
    assert (third.made, third.clock.work()) == ([], (("a stage", 55.0),))


def test_the_time_that_it_had_taken_is_counted_too(tmp_path: Path) -> None:
    stage = stopped(tmp_path, 4)
    assert stage.clock.seconds()[0][1] > 0
    path = next(tmp_path.glob("*/x-2.json"))
    content = json.loads(path.read_text().partition("\n")[2])
    content["segments"][0]["seconds"] = 1000.0
    rewrite(path, json.dumps(content))
    again = Stage(tmp_path)
    again.run()
    assert 1000 < dict(again.clock.seconds())["a stage"] < 1010


def rewrite(path: Path, text: str) -> None:
    """As if it had been kept."""
    path.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def test_nothing_is_taken_over_where_that_is_not_wanted(tmp_path: Path) -> None:
    stopped(tmp_path, 4)
    anew = Stage(tmp_path)
    anew.run(anew=True)
    assert len(anew.made) == 10
    assert not anew.asked


def test_another_audits_results_are_not_taken_over(tmp_path: Path) -> None:
    stopped(tmp_path, 4)
    other = Stage(tmp_path, "b" * 32)
    other.run()
    assert len(other.made) == 10
    (tmp_path / ("c" * 32)).mkdir()
    for path in (tmp_path / KEY).iterdir():
        (tmp_path / ("c" * 32) / path.name).write_bytes(path.read_bytes())
    copied = Stage(tmp_path, "c" * 32)
    copied.run()
    assert len(copied.made) == 10


def missing(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def of_another_kind(path: Path) -> None:
    rewrite(path, encoded((1, 2)))


def anothers(path: Path) -> None:
    path.write_bytes(path.with_name("x-1.json").read_bytes())


def of_another_shape(path: Path) -> None:
    content = json.loads(path.read_text().partition("\n")[2])
    rewrite(path, json.dumps(content | {"result": content["result"].replace("[3]", "[4]")}))


@pytest.mark.parametrize("spoil", [missing, cut, a_pipe, of_another_kind, anothers, of_another_shape])
def test_what_is_damaged_is_made_again_with_all_that_follows(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    stopped(tmp_path, 4)
    spoil(tmp_path / KEY / "x-3.json")
    again = Stage(tmp_path)
    assert encoded(tuple(again.run())) == encoded(tuple(map(gain, range(10))))
    assert again.made == [2, 3, 4, 5, 6, 7, 8, 9]
    assert again.clock.work() == (("a stage", 55.0),)
    assert Stage(tmp_path).kept.each("x", LayerGain, lambda found: iter(())) != []


def test_a_short_audit_writes_nothing_and_a_long_one_all(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "cache")
    resumption = Resumption(Cache(tmp_path / "cache", patience_s=1000))
    stage.kept = Kept(stage.clock, stage.work, resumption, KEY)
    stage.run()
    assert not (tmp_path / "cache").exists()
    resumption._begun -= 1000
    stage.kept.one("y", LayerGain, lambda: gain(0))
    assert len(list(tmp_path.glob("cache/*/*.json"))) == 11
    resumption.end()
    assert not list((tmp_path / "cache").iterdir())


def test_without_a_cache_all_is_computed() -> None:
    kept = Kept()
    assert kept.one("x", LayerGain, lambda: 3) == 3
    assert kept.each("x", LayerGain, lambda found: iter((len(found), 1))) == [0, 1]


def test_the_key_is_of_all_that_digits_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    key = place_key("an audit", "cpu", (False,))
    assert key == place_key("an audit", "cpu", (False,))
    assert key != place_key("another", "cpu", (False,))
    assert key != place_key("an audit", "cpu", (True,))
    for name in ("torch.get_num_threads", "torch.backends.cpu.get_cpu_capability"):
        with monkeypatch.context() as patch:
            patch.setattr(name, lambda: "other")
            assert key != place_key("an audit", "cpu", (False,))


def config(path: Path, **settings: object) -> AuditConfig:
    small = {"tokens": 640, "seq_len": 32, "resamples": 100, "schedules": ("refined", "direct", "2,2", "1,2")}
    return AuditConfig(checkpoint=str(path), **small | settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "a.pt", seed=1, layers=2)


def told(report: AuditReport) -> AuditReport:
    return dataclasses.replace(report, timings=())


@pytest.mark.parametrize(
    ("settings", "stage", "steps"),
    [
        ({}, "reference blocks", 4),
        ({}, "layers' gaps", 1),
        (
            {"effort": "quick", "solver": "adam", "steps": 5, "bits": "ternary", "float_reference": True},
            "reference blocks",
            8,
        ),
        ({"effort": "quick"}, "estimate", 0),
    ],
)
def test_an_audit_goes_on_to_the_same_report(
    settings: dict[str, object],
    stage: str,
    steps: int,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peelaudit.network.decoder.Work", Counting)
    wanted, resumption = config(model, **settings), Resumption(Cache(tmp_path, patience_s=0))
    Counting.total = 0
    whole = audit_config(wanted)
    all_of_it, Counting.total = Counting.total, 0
    with pytest.raises(Stopped):
        audit_config(wanted, resumption=resumption, progress=Stopping(stage, steps))
    first, Counting.total = Counting.total, 0
    again = audit_config(wanted, resumption=resumption)
    assert told(again) == told(whole)
    assert Counting.total < all_of_it
    assert first + Counting.total > all_of_it  # states are made twice
    resumption.end()
    assert list(tmp_path.iterdir()) == []


def test_blocks_that_are_to_be_saved_are_made_again(model: Path, tmp_path: Path) -> None:
    wanted, cache = config(model), Cache(tmp_path / "cache", patience_s=0)
    for name in ("one", "two"):
        audit_config(
            wanted, save=Save(tmp_path / name / "alone", tmp_path / name / "all"), resumption=Resumption(cache)
        )
    one, two = (sorted(path.name for path in (tmp_path / name).glob("*/*")) for name in ("one", "two"))
    assert one == two
    assert len(one) == 5


class Meanwhile(SilentProgress):
    """Has something else happen once, when a stage has come so far."""

    def __init__(self, stage: str, steps: int, happen: Callable[[], object]) -> None:
        self._left, self._of, self._now, self._happen = steps, stage, "", happen

    def stage(self, name: str, total: int) -> None:
        self._now = name

    def advance(self, steps: int = 1) -> None:
        if self._now == self._of and self._left > 0:
            self._left -= steps
            if self._left <= 0:
                self._happen()


@pytest.mark.parametrize(
    ("effort", "stage", "steps"), [("quick", "reference blocks", 2), ("default", "layers' gaps", 1)]
)
def test_row_63_two_runs_of_one_audit_end_in_the_same_report_whoever_ends_first(
    effort: str, stage: str, steps: int, model: Path, tmp_path: Path
) -> None:
    """The second begins while the first is at work, takes over what that one has kept, and removes it at its end."""
    wanted, cache = config(model, effort=effort), Cache(tmp_path, patience_s=0)
    whole = told(audit_config(wanted))
    reports: list[AuditReport] = []

    def second() -> None:
        assert list(tmp_path.glob("*/*.json"))
        resumption = Resumption(cache)
        reports.append(audit_config(wanted, resumption=resumption))
        resumption.end()
        assert list(tmp_path.iterdir()) == []

    resumption = Resumption(cache)
    reports.append(audit_config(wanted, resumption=resumption, progress=Meanwhile(stage, steps, second)))
    resumption.end()
    assert [told(report) for report in reports] == [whole, whole]
    assert list(tmp_path.iterdir()) == []
