"""`peelaudit convert`: saved reports in other formats, without torch and without the checkpoint."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from peelaudit.records import SCHEMA_VERSION
from peelaudit.records.json import export
from tests.cli.support import call, real
from tests.factories import make_report
from tests.places import ROOT
from tests.reports.formats.support import make_series


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    for index, report in enumerate(make_series()):
        (tmp_path / f"{index}.json").write_text(export(report))
    return tmp_path


def test_one_report_in_every_format_at_once(saved: Path) -> None:
    names = ["a.html", "b.xml", "c.md", "d.csv", "e.txt", "f.json", "github=g.out"]
    done = real("convert", "0.json", *(part for name in names for part in ("-o", name)), cwd=saved)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (saved / "a.html").read_text().startswith("<!DOCTYPE html>")
    assert ET.parse(saved / "b.xml").getroot().tag == "testsuites"
    assert (saved / "f.json").read_text() == (saved / "0.json").read_text()
    assert (saved / "g.out").read_text().startswith("::error ")
    assert all((saved / name).exists() for name in ("c.md", "d.csv", "e.txt"))


def test_several_reports_are_one_series(saved: Path) -> None:
    names = [f"{index}.json" for index in (2, 0, 3, 1)]
    done = real("convert", *names, "-o", "html=report", "-f", "csv", cwd=saved)
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["training_step"] for row in rows[::4]] == ["200", "0", "400", "100"]
    assert "YES cloud, held-out tokens" in (saved / "report").read_text()


def test_a_table_is_what_is_shown_without_a_format(saved: Path) -> None:
    done = real("convert", "0.json", "1.json", cwd=saved)
    assert done.returncode == 0
    assert done.stdout.count("\nNext: ") == 2
    assert "\nThe peel profile" not in done.stdout
    assert "The YES cloud over 2 checkpoints" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_text_file_is_in_full_and_stdout_where_that_is_asked_for(saved: Path) -> None:
    done = real("convert", "0.json", "-f", "table", "--full", "-o", "a.txt", cwd=saved)
    assert done.returncode == 0
    for text in (done.stdout, (saved / "a.txt").read_text()):
        assert text.count("\nThe peel profile") == 1
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument"),
        (["0.json", "-f", "pdf"], 2, "--format is 'pdf'"),
        (["0.json", "-o", "a.pdf"], 2, "--output is 'a.pdf'"),
        (["0.json", "1.json", "-f", "json"], 2, "json holds one report, not 2"),
        (["no.json"], 3, "no.json can't be read"),
        (["bad.json"], 3, "bad.json: not JSON"),
        (["0.json", "-o", "no/such.html"], 3, "there is no directory"),
        (["0.json", "-o", "html=/dev/full"], 3, "No space left on device"),
    ],
)
def test_failures(arguments: list[str], code: int, message: str, saved: Path) -> None:
    (saved / "bad.json").write_text("{")
    before = sorted(saved.iterdir())
    done = real("convert", *arguments, cwd=saved)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(saved.iterdir()) == before


def test_torch_stays_away(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(export(make_report()))
    script = (
        "import sys; from peelaudit.cli import main; code = main(sys.argv[1:])\n"
        "print([name for name in ('torch', 'transformers', 'safetensors') if name in sys.modules], code)"
    )
    outputs = [part for name in ("a.html", "b.xml", "c.md", "d.csv", "e.txt") for part in ("-o", name)]
    done = call(
        [sys.executable, "-c", script, "convert", "r.json", *outputs], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_what_it_writes_is_the_same_every_time(saved: Path) -> None:
    first, second = (real("convert", "0.json", "1.json", "-f", "html", cwd=saved).stdout for _ in range(2))
    assert first == second
    assert json.loads(first.split('id="report-1">')[1].split("</script>")[0])["schema_version"] == SCHEMA_VERSION
