"""The HTML report in a real browser, headless: no script fails, nothing is loaded, tables sort, phones don't scroll it.

A page of our own holds the report in a frame as wide as a phone, clicks on it, and writes what it found into itself.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from peelaudit.records import AuditReport, Estimate, LayerRefinement, Unaudited
from peelaudit.records.difference import ChangeKind, SettingChange, TensorChange
from peelaudit.reports.formats import Format, export
from peelaudit.reports.formats.difference import export as export_difference
from tests.factories import make_report, with_every_figure, with_gaps, with_parent
from tests.reports.differences import difference
from tests.reports.formats.support import BREAKOUT, hostile_report, make_check, make_series

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: nothing to open the report with")

_LARGE = Estimate(-123.4567, -130.1234, -111.9999)
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0"><script>
const frame = document.createElement("iframe");
frame.style = "width:%(width)dpx;height:800px;border:0";
frame.onload = () => {
  const page = frame.contentDocument, found = {};
  for (const details of page.querySelectorAll("details")) details.open = true;
  found.overflow = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  found.width = page.documentElement.clientWidth;
  const shown = (element) => element.getBoundingClientRect().width > 0;
  const charts = Array.from(page.querySelectorAll("svg[role=img]")).filter(shown);
  found.charts = charts.map((svg) => svg.viewBox.baseVal.width);
  const cut = (table) => Array.from(table.querySelectorAll("th, td")).filter((cell) => {
    const box = cell.getBoundingClientRect(), frame = table.parentElement.getBoundingClientRect();
    const inside = box.left >= frame.left - 1 && box.right <= frame.right + 1;
    return cell.textContent !== "" && (!inside || box.width === 0 || cell.scrollWidth > cell.clientWidth);
  });
  const stacked = Array.from(page.querySelectorAll("table.stacked.sortable"));
  found.cut = stacked.map((table) => cut(table).map((cell) => cell.textContent));
  found.notes = stacked.map((table) => Array.from(table.querySelectorAll("tr.note td")).map((cell) =>
    cell.getBoundingClientRect().width / table.parentElement.clientWidth));
  found.tables = Array.from(page.querySelectorAll("table.sortable")).map((table) => {
    const body = () => Array.from(table.tBodies[0].rows);
    const column = () => body().filter((row) => row.className !== "note").map((row) => row.cells[%(column)d].dataset.v);
    const notes = () => body().map((row) => row.className === "note" ? row.textContent : "").filter(Boolean);
    const button = table.tHead.rows[0].cells[%(column)d].querySelector("button");
    const before = column(), told = notes();
    button.click();
    const rising = column(), first = button.parentElement.getAttribute("aria-sort");
    button.click();
    const second = button.parentElement.getAttribute("aria-sort");
    return { before, rising, first, falling: column(), second, told, turned: notes() };
  });
  found.loaded = frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name);
  found.scripts = page.querySelectorAll("script:not([type])").length;
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
};
frame.src = "report.html";
document.body.append(frame);
</script>"""


def opened(
    folder: Path, reports: Sequence[AuditReport], *, width: int = 390, column: int = 0, **more: Any
) -> dict[str, Any]:
    """What the probe found in the reports' page; `column` is the one that it sorts by."""
    return probed(folder, export(reports, Format.HTML, **more), width=width, column=column)


def probed(folder: Path, text: str, *, width: int = 390, column: int = 0) -> dict[str, Any]:
    """What the probe found in a page, with what the browser wrote to its console."""
    (folder / "report.html").write_text(text)
    (folder / "probe.html").write_text(PROBE % {"width": width, "column": column})
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    # No name resolves: neither the page nor the browser itself reaches anything.
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-dev-shm-usage", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--window-size=1400,900"]
    command += ["--allow-file-access-from-files", "--enable-logging=stderr", "--dump-dom"]
    command.append((folder / "probe.html").as_uri())
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    found["console"] = re.findall(r"CONSOLE[:(].*", done.stderr)
    return found


def check_sound(found: dict[str, Any], width: int) -> None:
    assert found["console"] == []
    assert found["loaded"] == []
    assert found["scripts"] == 1
    assert found["width"] == width
    assert found["overflow"] == 0


@pytest.mark.parametrize(("n_layers", "width"), [(4, 390), (80, 390), (80, 1280)])
def test_a_report(n_layers: int, width: int, tmp_path: Path) -> None:
    found = opened(tmp_path, [make_report(n_layers)], width=width, column=0)
    check_sound(found, width)
    assert found["charts"] == [356 if width < 640 else 1060] * 4
    layers, profile, _ = found["tables"]
    assert layers["rising"] == [str(layer) for layer in range(1, n_layers + 1)]
    assert layers["falling"] == layers["rising"][::-1]
    assert (layers["first"], layers["second"]) == ("ascending", "descending")
    assert [line.split()[1] for line in profile["told"]] == layers["rising"]
    assert profile["turned"] == profile["told"][::-1]


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("large", [False, True])
def test_no_column_of_the_layers_is_hidden_and_a_note_is_as_wide_as_its_table(
    width: int, large: bool, tmp_path: Path
) -> None:
    report = with_every_figure(make_report(12))
    if large:
        wide = Estimate(-123.456, -130.123, -111.999)
        rows = [dataclasses.replace(row, gap=wide, depth_gap=wide, scale_slope=wide) for row in report.layers]
        report = dataclasses.replace(report, layers=tuple(rows))
    named = dataclasses.replace(report, refinement=LayerRefinement((1,) * 12, (0,) * 12, 1.0, (3, 7)))
    found = opened(tmp_path, [named], width=width)
    assert found["cut"] == [[], []]
    assert [len(notes) for notes in found["notes"]] == [2, 12]
    assert all(share > 0.98 for notes in found["notes"] for share in notes)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_report_against_a_parent(width: int, tmp_path: Path) -> None:
    report = with_parent(make_report(), 0.1, 0.0, 0.2, -0.1, better=(3,), path=BREAKOUT)
    found = opened(tmp_path, [report], width=width)
    check_sound(found, width)
    assert len(found["charts"]) == 5
    assert found["cut"] == [[], []]


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("layers", [4, 80])
def test_a_difference_of_two_checkpoints(layers: int, width: int, tmp_path: Path) -> None:
    costs = [0.01 * (-1) ** layer + 0.4 * (layer == 2) for layer in range(1, layers + 1)]
    tensors = tuple(TensorChange(f"{BREAKOUT}.{k}", k, BREAKOUT, ChangeKind.SHIFTED, 0.1, 1.0) for k in range(300))
    found = difference([None, *costs[1:]], tensors=tensors, configuration=(SettingChange(BREAKOUT, "1", "2"),))
    large = dataclasses.replace(found, rows=tuple(dataclasses.replace(row, in_new=_LARGE) for row in found.rows))
    seen = probed(tmp_path, export_difference(large, Format.HTML), width=width, column=1)
    check_sound(seen, width)
    assert seen["charts"] == [356 if width < 640 else 1060] * 2
    (parts,) = seen["tables"]
    shown = sorted(row.in_base.value for row in found.rows if not row.same)
    assert [float(text) for text in parts["rising"] if text] == shown
    assert seen["cut"] == [[]]


def test_figures_sort_as_numbers_and_not_as_texts(tmp_path: Path) -> None:
    report = with_gaps(make_report(12), *(0.1 * (-1) ** k + 0.01 * k for k in range(12)))
    found = opened(tmp_path, [report], column=1)
    gaps = [0.0 if row.gap is None else row.gap.value for row in report.layers]
    assert min(gaps) < 0 < max(gaps)
    assert list(map(float, found["tables"][0]["rising"])) == sorted(gaps)
    assert list(map(float, found["tables"][0]["before"])) == gaps


def test_a_series(tmp_path: Path) -> None:
    found = opened(tmp_path, make_series(), column=1)
    check_sound(found, 390)
    assert set(found["charts"]) == {356}
    assert [float(step) for step in found["tables"][0]["rising"]] == [0, 100, 200, 400]


def test_hostile_names(tmp_path: Path) -> None:
    checks = [make_check(BREAKOUT, rule=BREAKOUT, reason=BREAKOUT)]
    failures = [Unaudited("x" * 500, BREAKOUT, "y" * 500)]
    long = make_report(path="z" * 500, advice="w" * 500, warnings=("v" * 500,))
    found = opened(tmp_path, [hostile_report(BREAKOUT), long], checks=checks, failures=failures)
    check_sound(found, 390)


def test_the_probe_sees_what_it_must_not_see(tmp_path: Path) -> None:
    text = export([make_report()], Format.HTML)
    image = "<img src='http://example.invalid/x.png'><p style='width:600px'>wide</p>"
    blocked = probed(tmp_path, text.replace("<main>", f"<main>{image}<script>alert(1)</script>"))
    assert blocked["overflow"] > 0
    assert blocked["scripts"] == 2
    assert len(blocked["console"]) >= 2  # the page's own policy lets neither through
    assert any("Content Security Policy" in line for line in blocked["console"])
    free = re.sub(r"<meta http-equiv.*?/>", "", text).replace("<main>", f"<main>{image}")
    assert probed(tmp_path, free)["loaded"] == ["http://example.invalid/x.png"]
