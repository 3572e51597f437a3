"""Two checkpoints' difference as files: every part in each, hostile names harmless, nothing that isn't finite."""

from __future__ import annotations

import dataclasses
import html
import json
import re

import pytest

from peelaudit.errors import NonFiniteResult
from peelaudit.records.difference import ChangeKind, Difference, SettingChange, TensorChange
from peelaudit.records.json import load
from peelaudit.reports.formats import Format
from peelaudit.reports.formats.difference import FORMATS, export
from tests.factories import make_checkpoint, make_estimate
from tests.reports.differences import difference
from tests.reports.formats.support import BREAKOUT, HOSTILE, Page

PAGES = (Format.MARKDOWN, Format.HTML)


def hostile(text: str) -> Difference:
    found = difference([0.1, 0.4, 0.2], headline=text, findings=(text,), warnings=(text,))
    return dataclasses.replace(
        found,
        base=make_checkpoint(3, path=text),
        settings=(("data", (text,)),),
        tensors=(TensorChange(text, 1, text, ChangeKind.SHIFTED, 0.1, 1.0),),
        configuration=(SettingChange(text, text, text),),
    )


@pytest.mark.parametrize("form", FORMATS)
def test_every_part_is_in_every_format(form: Format) -> None:
    text = export(difference([0.01, 0.4, -0.02]), form)
    assert text.endswith("\n")
    assert ("+0.4000" in text) or (form is Format.JSON and "0.4" in text)
    for row in ("block 1", "block 2", "block 3"):
        assert row in text or form is Format.JSON
    assert "NEW's loss is above BASE's" in html.unescape(text)


@pytest.mark.parametrize("form", PAGES)
def test_what_stands_out_is_the_same_or_is_changed_most_is_said(form: Format) -> None:
    found = difference(
        [0.01, 0.4, None], changed=(1,), tensors=(TensorChange("w", 1, "w", ChangeKind.SHIFTED, 0.1, 1.0),)
    )
    text = html.unescape(export(found, form)).replace("\\", "")
    assert "Stands out by how far it moves BASE's predictions." in text
    assert "Its weights are changed more than the other blocks'." in text
    assert "The same in both." in text
    assert "o_proj.weight of block 2: BASE's, transposed" in text
    assert "shifted" in text


def test_a_part_without_a_cumulative_figure_has_an_empty_cell() -> None:
    found = difference([0.01, 0.4])
    rows = tuple(dataclasses.replace(row, so_far=None) for row in found.rows)
    for form in PAGES:
        text = export(dataclasses.replace(found, rows=rows, warnings=("w",)), form).split('id="difference"')[0]
        assert "None" not in text


@pytest.mark.parametrize("text", [BREAKOUT, HOSTILE])
def test_nothing_of_it_is_acted_upon(text: str) -> None:
    page = Page(export(hostile(text), Format.HTML))
    assert page.open == []
    assert len(page.all("script")) == 2
    assert page.all("img") == []
    markdown = export(hostile(text), Format.MARKDOWN)
    assert set(re.findall(r"(?<!\\)<(/?\w+)", markdown)) == {"details", "/details", "summary", "/summary"}
    assert "\x1b" not in markdown


def test_the_page_has_all_of_it_as_json() -> None:
    found = difference([0.01, 0.4])
    page = Page(export(found, Format.HTML))
    (text,) = [text for text in page.texts["script"] if text.startswith("{")]
    assert json.loads(text)["headline"] == found.headline
    assert load(text, Difference) == found


def test_of_many_tensors_the_gravest_are_listed() -> None:
    tensors = [TensorChange(f"t{k}", 1, "w", ChangeKind.CHANGED, 0.001 * k) for k in range(300)]
    broken = TensorChange("broken", 1, "w", ChangeKind.TRANSPOSED, 0.0001)
    found = difference([0.1, 0.2], tensors=(*tensors, broken))
    for form in PAGES:
        text = export(found, form).split('id="difference"')[0]
        assert "broken" in text
        assert "t299" in text
        assert "t100" not in text
        assert "101 more differ less" in text


def test_the_same_network_has_no_charts() -> None:
    found = difference([None, None], named=(), findings=(), headline="the same network")
    assert "<svg" not in export(found, Format.HTML)
    assert "<svg" in export(difference([0.1, 0.2]), Format.HTML)


@pytest.mark.parametrize("form", [*PAGES, Format.JSON])
def test_what_is_not_finite_is_no_figure(form: Format) -> None:
    with pytest.raises(NonFiniteResult, match=r"whole\.value"):
        export(difference([0.1, 0.2], whole=dataclasses.replace(make_estimate(0.1), value=float("nan"))), form)
