"""The directory of results: what counts as done, what is found out, who may write."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from peelaudit.auditing.identity import key_of, key_of_report
from peelaudit.errors import ConfigError, UnreadableCheckpoint
from peelaudit.fleet import working
from peelaudit.fleet.entries import report_file
from peelaudit.fleet.finding import RESULTS_FILE
from peelaudit.fleet.results import Results
from peelaudit.fleet.status import read_status
from peelaudit.fleet.working import Task, perform
from peelaudit.records import AuditReport, TaskRow, TaskState
from peelaudit.settings.audit import AuditConfig
from tests.factories import make_report
from tests.fleet.support import write_model

SETTINGS = {"tokens": 640, "seq_len": 32, "schedules": ("direct", "final"), "resamples": 100, "effort": "quick"}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results.create(tmp_path / "results")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "ckpt.pt", seed=1)


def task(checkpoint: Path, results: Results, **changes: object) -> Task:
    settings = AuditConfig(checkpoint=str(checkpoint), **(SETTINGS | changes))  # type: ignore[arg-type]
    return Task(settings, str(results.root), threads=1)


def events(results: Results) -> list[str]:
    return [json.loads(line)["event"] for line in (results.root / "journal.jsonl").read_text().splitlines()]


def test_done_is_kept(checkpoint: Path, results: Results) -> None:
    first = perform(task(checkpoint, results))
    assert (first.state, first.exit_code, first.reason) == (TaskState.DONE, 0, None)
    assert first.figures is not None
    assert first.figures.training_step == 1
    second = perform(task(checkpoint, results))
    assert second == dataclasses.replace(first, state=TaskState.KEPT)
    assert events(results) == ["start", "finish"]


def test_content_and_settings_count_and_places_do_not(checkpoint: Path, results: Results, tmp_path: Path) -> None:
    first = perform(task(checkpoint, results))
    copy = shutil.copytree(checkpoint.parent, tmp_path / "elsewhere") / "copy.pt"
    copy.with_name("ckpt.pt").rename(copy)
    kept = perform(task(copy, results))
    assert (kept.state, kept.report) == (TaskState.KEPT, first.report)
    assert kept.reason == f"the same content as {checkpoint}"
    other = write_model(tmp_path / "other/ckpt.pt", seed=2)
    (tmp_path / "text").mkdir()
    text = tmp_path / "text/calibration.txt"
    text.write_text((checkpoint.parent / "calibration.txt").read_text()[20_000:])
    changed = [
        task(other, results),
        task(checkpoint, results, seed=1),
        task(checkpoint, results, data=(str(text),)),
        task(checkpoint, results, tokens=704),
        task(checkpoint, results, parent=str(other)),
        task(checkpoint, results, parent=str(write_model(tmp_path / "third/ckpt.pt", seed=3))),
    ]
    found = {perform(one).report for one in changed}
    assert len(found | {first.report}) == 7
    assert perform(changed[-2]).state is TaskState.KEPT


def test_another_version_is_another_task(checkpoint: Path) -> None:
    report = make_report()
    config = AuditConfig(**dict(report.settings))  # type: ignore[arg-type]
    version = dict(report.versions)["peelaudit"]
    assert key_of(config, report.checkpoint, report.data, version) == key_of_report(report)
    assert key_of(config, report.checkpoint, report.data, version + ".1") != key_of_report(report)


def cut(report: Path, marker: Path) -> None:
    report.write_text(report.read_text()[:-200])


def flip(report: Path, marker: Path) -> None:
    report.write_text(report.read_text().replace('"layers": 1', '"layers": 2', 1))


def remove(report: Path, marker: Path) -> None:
    report.unlink()


def garble(report: Path, marker: Path) -> None:
    marker.write_bytes(b"\xff\0{")


def empty(report: Path, marker: Path) -> None:
    marker.write_text("")


def swap(report: Path, marker: Path) -> None:
    """Another task's entry, whole, with its own marker under this key."""
    other = next(path for path in marker.parent.parent.glob("*/done.json") if path != marker)
    marker.write_text(json.dumps({**json.loads(other.read_text()), "key": marker.parent.name}))


def marker_of(results: Results, row: TaskRow) -> Path:
    """The marker that vouches for a row's report."""
    markers = results.root.glob("tasks/*/done.json")
    return next(path for path in markers if json.loads(path.read_text())["report"] == row.report)


@pytest.mark.parametrize("damage", [cut, flip, remove, garble, empty, swap])
def test_what_is_damaged_or_foreign_is_done_again(
    damage: Callable[[Path, Path], None], checkpoint: Path, results: Results
) -> None:
    first = perform(task(checkpoint, results))
    perform(task(checkpoint, results, seed=1))
    assert first.report is not None
    report = results.root / first.report
    good = json.loads(report.read_text())
    damage(report, marker_of(results, first))
    again = perform(task(checkpoint, results))
    assert (again.state, again.report) == (TaskState.DONE, first.report)
    assert events(results)[-3:] == ["discarded", "start", "finish"]
    mended = json.loads(report.read_text())
    assert mended | {"timings": {}} == good | {"timings": {}}


@pytest.mark.parametrize("place", ["../report.json", "reports/../../report.json", "reports/..", "/report.json"])
def test_a_report_elsewhere_is_none_of_the_directorys(place: str, results: Results) -> None:
    key, report = "ab" * 32, make_report(path="ckpt.pt")
    with results.claimed(key, "ckpt.pt", wait=False):
        entry = results.publish(key, report)
    row = TaskRow("ckpt.pt", TaskState.DONE, 0, report=entry.file)
    results.record(row)
    assert results.reports() == (results.root / entry.file,)
    (results.root / entry.file).rename(results.root.parent / "report.json")
    marker = results.root / "tasks" / key / "done.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"report": place}))
    results.record(dataclasses.replace(row, report=place))
    assert (results.reports(), results.vouched()) == ((), frozenset())
    assert results.find(key) is None


def test_a_report_without_its_marker_is_no_result(checkpoint: Path, results: Results) -> None:
    first = perform(task(checkpoint, results))
    marker_of(results, first).unlink()
    assert perform(task(checkpoint, results)).state is TaskState.DONE
    assert events(results).count("finish") == 2


def test_what_a_killed_writer_left_is_removed(checkpoint: Path, results: Results) -> None:
    first = perform(task(checkpoint, results))
    assert first.report is not None
    report = results.root / first.report
    left = [report.with_name(f".{report.name[-40:]}.abc.tmp"), marker_of(results, first).with_name(".done.json.x.tmp")]
    others = report.with_name(".run-other-0123456789ab.json.abc.tmp")
    for path in (*left, others):
        path.write_text("{")
    assert perform(task(checkpoint, results)).state is TaskState.KEPT
    assert [path.exists() for path in (*left, others)] == [False, False, True]


def test_a_claim_keeps_others_away_while_it_is_held(checkpoint: Path, results: Results) -> None:
    first = perform(task(checkpoint, results))
    assert first.report is not None
    key = marker_of(results, first).parent.name
    with results.claimed(key, str(checkpoint), wait=False) as mine, results.claimed(key, "b", wait=False) as theirs:
        assert (mine, theirs) == (True, False)
        assert perform(task(checkpoint, results)).state is TaskState.RUNNING
        assert [(claim.checkpoint, claim.pid > 0) for claim in results.claims()] == [(str(checkpoint), True)]
    assert list(results.claims()) == []
    assert perform(task(checkpoint, results)).state is TaskState.KEPT


def fails(times: int, error: OSError, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make the first attempts fail as a library that hides the cause; the pauses between them."""
    pauses: list[float] = []
    perform_once = working._perform

    def attempt(one: Task) -> TaskRow:
        if len(attempts) < times:
            attempts.append(1)
            try:
                raise error
            except OSError:
                raise UnreadableCheckpoint("can't be read") from None
        return perform_once(one)

    attempts: list[int] = []
    monkeypatch.setattr(working, "_perform", attempt)
    monkeypatch.setattr(working.time, "sleep", pauses.append)
    return pauses


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_io_errors_are_tried_again(
    number: int, checkpoint: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = fails(2, OSError(number, "x"), monkeypatch)
    assert perform(dataclasses.replace(task(checkpoint, results), retries=2)).state is TaskState.DONE
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize(
    ("number", "retries"), [(errno.EIO, 1), (errno.ENOENT, 5), (errno.ENOSPC, 5), (errno.EACCES, 5)]
)
def test_other_errors_are_not(
    number: int, retries: int, checkpoint: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = fails(2, OSError(number, "x"), monkeypatch)
    row = perform(dataclasses.replace(task(checkpoint, results), retries=retries))
    assert (row.state, row.exit_code, row.reason) == (TaskState.FAILED, 3, "can't be read")
    assert pauses == ([0.5] if number == errno.EIO else [])


def test_whatever_goes_wrong_is_a_row(
    checkpoint: Path, results: Results, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(error: Exception) -> TaskRow:
        def broken(one: Task) -> TaskRow:
            raise error

        monkeypatch.setattr(working, "_perform", broken)
        return perform(task(checkpoint, results))

    assert row(ConfigError("seq-len is 9")).exit_code == 2
    assert "not enough memory" in str(row(MemoryError()).reason)
    assert "not enough memory" in str(row(RuntimeError("DefaultCPUAllocator: no")).reason)
    assert capsys.readouterr().err == ""
    assert "a bug in peelaudit" in str(row(KeyError("x")).reason)
    assert "Traceback" in capsys.readouterr().err


def test_a_foreign_directory_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds other things"):
        Results.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_directory_whose_making_was_killed(tmp_path: Path) -> None:
    (tmp_path / RESULTS_FILE).write_text('{"layout": 2}')
    (tmp_path / ".peelaudit-results.json.x.tmp").touch()
    assert Results.create(tmp_path).rows() == ()


@pytest.mark.parametrize("content", ['{"layout": 1}', "", '{"layout": true}', "[]"])
def test_an_unknown_layout(content: str, tmp_path: Path) -> None:
    (tmp_path / RESULTS_FILE).write_text(content)
    with pytest.raises(ConfigError):
        Results.create(tmp_path)


def test_status(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = _published(results, make_report())
    results.plan("1/2", ["c-10.pt", "c-9.pt", "c-1.pt"])
    results.plan("2/2", ["c-2.pt", "c-3.pt"])
    results.record(TaskRow("c-1.pt", TaskState.DONE, exit_code=0, report=report))
    results.record(TaskRow("c-2.pt", TaskState.FAILED, exit_code=3, reason="torn"))
    results.record(TaskRow("c-3.pt", TaskState.DONE, exit_code=0, report="reports/gone.json"))
    (results.root / "rows/broken.json").write_text("{")
    with results.claimed("k", "c-10.pt", wait=False):
        found = [(row.checkpoint, str(row.state)) for row in read_status(results)]
    assert found == [
        ("c-1.pt", "done"),
        ("c-2.pt", "failed"),
        ("c-3.pt", "pending"),
        ("c-9.pt", "pending"),
        ("c-10.pt", "running"),
    ]


def _published(results: Results, report: AuditReport) -> str:
    key = key_of_report(report)
    with results.claimed(key, report.checkpoint.path, wait=False):
        done = results.publish(key, report)
    assert results.find(key) == done
    assert done.report == report
    return done.file


def test_a_report_is_called_after_its_checkpoint(checkpoint: Path, results: Results, tmp_path: Path) -> None:
    first, other = perform(task(checkpoint, results)), perform(task(checkpoint, results, seed=1))
    stem = f"reports/{checkpoint.parent.name}-ckpt-"
    for row in (first, other):
        assert row.report is not None
        assert re.fullmatch(rf"{re.escape(stem)}[0-9a-f]{{12}}\.json", row.report)
    assert first.report != other.report
    assert report_file("x/llama 3.1-8B/", "0" * 32) == "reports/x-llama_3.1-8B-000000000000.json"
    assert report_file("/", "0" * 32) == "reports/checkpoint-000000000000.json"
    assert len(report_file("a/" + "\x1b[31mé" * 99, "0" * 32)) < 120


def test_a_report_that_is_done_again_under_another_name_is_there_once(
    checkpoint: Path, results: Results, tmp_path: Path
) -> None:
    first = perform(task(checkpoint, results))
    assert first.report is not None
    cut(results.root / first.report, marker_of(results, first))
    copy = shutil.copytree(checkpoint.parent, tmp_path / "elsewhere") / "ckpt.pt"
    again = perform(task(copy, results))
    assert again.report is not None
    assert [path.name for path in (results.root / "reports").iterdir()] == [Path(again.report).name]


def test_the_reports_are_in_the_order_of_the_batch(results: Results) -> None:
    names = ("b.pt", "a.pt", "c-10.pt", "c-9.pt", "d.pt")
    files = {}
    for index, name in enumerate(names):
        files[name] = _published(results, dataclasses.replace(make_report(), versions=(("peelaudit", f"{index}"),)))
        results.record(TaskRow(name, TaskState.DONE, exit_code=0, report=files[name]))
    results.record(TaskRow("e.pt", TaskState.FAILED, exit_code=3, reason="torn"))
    results.plan("2/2", ["a.pt"])
    results.plan("1/2", ["b.pt", "d.pt"])
    order = ("b.pt", "a.pt", "d.pt", "c-9.pt", "c-10.pt")
    assert results.reports() == tuple(results.root / files[name] for name in order)
