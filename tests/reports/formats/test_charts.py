"""Charts: well-formed SVG, marks where the figures are, labels that fit, regions that are told apart without colour."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.records import Estimate, Verdict
from peelaudit.reports.formats.charts import ERROR_SCALE, GAP_SCALE, Mark, heat_map, mark, ticks, whiskers
from peelaudit.reports.formats.cloud import cloud_chart, cloud_svg
from peelaudit.reports.trajectory import trace
from tests.reports.formats.support import make_series, make_step
from tests.variants import unfitted

SVG = "{http://www.w3.org/2000/svg}"
FINITE = st.floats(-1e6, 1e6, allow_nan=False)


def marks_of(values: list[float]) -> list[Mark]:
    verdicts = list(Verdict)
    return [
        Mark(str(index), Estimate(value, value - 0.1, value + 0.1), f"layer <{index}>", verdicts[index % 4])
        for index, value in enumerate(values, 1)
    ]


@given(low=FINITE, span=st.floats(1e-6, 1e6), most=st.integers(2, 12))
def test_ticks_are_round_within_the_range_and_not_too_many(low: float, span: float, most: int) -> None:
    high = low + span
    found = ticks(low, high, most)
    assert len(found) <= most
    room = 1e-6 * span + 1e-12 * abs(low)
    assert all(low - room <= value <= high + room for value, _ in found)
    assert all(abs(float(label.replace(",", "")) - value) <= room for value, label in found)


def test_ticks_by_hand() -> None:
    assert [label for _, label in ticks(0, 1200, 8)] == ["0", "200", "400", "600", "800", "1,000", "1,200"]
    assert [label for _, label in ticks(-0.013, 0.04, 6)] == ["0.00", "0.02", "0.04"]
    assert ticks(5, 5, 6) == ((5, "5"),)


@pytest.mark.parametrize("width", [356, 1060])
@pytest.mark.parametrize("count", [1, 4, 80, 300])
def test_whiskers_stand_over_their_layers_and_at_their_values(count: int, width: int) -> None:
    values = [0.5 - index / count for index in range(count)]
    root = ET.fromstring(whiskers(marks_of(values), title="t", unit="u", width=width))
    lines = [line for line in root.iter(f"{SVG}line") if line.get("class") == "whisker"]
    assert len(lines) == count
    xs = [float(line.attrib["x1"]) for line in lines]
    tops = [float(line.attrib["y2"]) for line in lines]
    assert xs == sorted(xs)
    assert tops == sorted(tops)  # smaller values are further down
    assert all(0 < x < width for x in xs)
    zero = next(line for line in root.iter(f"{SVG}line") if line.get("class") == "zero")
    highest = min(lines, key=lambda line: float(line.attrib["y2"]))
    assert float(highest.attrib["y2"]) < float(zero.attrib["y1"])
    assert [item.text for item in root.iter(f"{SVG}title")][1] == "layer <1>"


@pytest.mark.parametrize("width", [356, 1060])
@pytest.mark.parametrize("steps", [3, 24, 200])
def test_labels_do_not_run_into_one_another(steps: int, width: int) -> None:
    columns = [f"{1000 * index:,}" for index in range(steps)]
    cells = {(row, column): 0.02 for row in range(80) for column in range(steps)}
    rows = [str(row + 1) for row in range(80)]
    text = heat_map(cells, rows=rows, columns=columns, scale=GAP_SCALE, title="t", axes=("a", "b"), width=width)
    labels = [
        (float(item.attrib["x"]), item.text or "")
        for item in ET.fromstring(text).iter(f"{SVG}text")
        if item.get("class") == "tick mid"
    ]
    assert labels[0][1] == "0"
    for (x, label), (following, other) in pairwise(labels):
        assert following - x >= 3.4 * (len(label) + len(other))


def test_heat_map_cells_have_their_classes_and_numbers() -> None:
    cells = {(0, 0): 0.0005, (0, 1): 0.2, (1, 1): 5.0}
    text = heat_map(
        cells, rows=["1", "2"], columns=["1", "2"], scale=ERROR_SCALE, title="t", axes=("a", "b"), width=400
    )
    root = ET.fromstring(text)
    assert [path.attrib["class"] for path in root.iter(f"{SVG}path")] == ["cell e0", "cell e5", "cell e7"]
    shown = [item.text for item in root.iter(f"{SVG}text") if "value" in item.attrib["class"]]
    assert shown == ["0.001", "0.200", "5.000"]


def test_scales_say_what_their_classes_are() -> None:
    assert ERROR_SCALE.ranges()[ERROR_SCALE.index(0.0)] == "below 0.001"
    assert ERROR_SCALE.ranges()[ERROR_SCALE.index(0.1)] == "0.1 to 0.3"
    assert GAP_SCALE.ranges()[GAP_SCALE.index(0.0)] == "-0.01 to 0.01"
    assert GAP_SCALE.ranges()[GAP_SCALE.index(9.0)] == "1 and above"


@pytest.mark.parametrize("width", [356, 1060])
def test_what_stands_out_has_a_shape_of_its_own_and_its_name_beside_it(width: int) -> None:
    marks = [Mark(str(k), Estimate(k / 10, k / 10 - 0.1, k / 10 + 0.1), "", stands_out=k == 3) for k in range(1, 5)]
    root = ET.fromstring(whiskers(marks, title="t", unit="u", width=width))
    (square,) = root.iter(f"{SVG}rect")
    (name,) = (item for item in root.iter(f"{SVG}text") if "strong" in item.attrib["class"])
    assert name.text == "3"
    middle = float(square.attrib["x"]) + float(square.attrib["width"]) / 2
    assert middle == pytest.approx(float(name.attrib["x"]), abs=0.11)
    assert float(name.attrib["y"]) < float(square.attrib["y"])
    assert len(list(root.iter(f"{SVG}circle"))) == 3


def test_names_of_steps_have_the_room_that_they_need() -> None:
    marks = [Mark(f"{1000 * k:,}", Estimate(0.1, 0.0, 0.2), "") for k in range(1, 41)]
    root = ET.fromstring(whiskers(marks, title="t", unit="u", width=356, axis="training step"))
    names = [item for item in root.iter(f"{SVG}text") if item.get("class") == "tick mid"]
    xs = [float(item.attrib["x"]) for item in names]
    assert all(after - before > 6 * len("10,000") for before, after in pairwise(xs))
    assert "training step" in "".join(root.itertext())


@pytest.mark.parametrize("last", [(2.0, 2.5, 1.99), (2.0, 2.0, 2.0), (1.0, 3.0, 1.0), (9.0, 1.0, 1.0)])
@pytest.mark.parametrize("width", [356, 1060])
def test_the_lines_of_a_cloud_are_named_at_their_ends_apart_from_one_another(
    last: tuple[float, float, float], width: int
) -> None:
    root = ET.fromstring(cloud_chart(trace([make_step(0, 4.0, 4.0, 3.5), make_step(100, *last)]).held_out, width=width))
    labels = [item for item in root.iter(f"{SVG}text") if (item.get("class") or "").startswith("label")]
    assert {(item.text or "").split()[0] for item in labels} == {"YES-0", "YES*", "trained"}
    ys = sorted(float(item.attrib["y"]) for item in labels)
    assert all(after - before >= 12 for before, after in pairwise(ys))
    assert ys[0] > 12
    assert ys[-1] <= 16 + 300 + 4
    assert all(float(item.attrib["x"]) + 6.5 * len(item.text or "") < width for item in labels)


def test_verdicts_have_shapes_of_their_own() -> None:
    shapes = {re.sub(r"[\d.]+", "0", mark(verdict, 10, 10, 5)) for verdict in Verdict}
    assert len(shapes) == 4


@pytest.mark.parametrize("width", [356, 1060])
def test_the_cloud_is_a_staircase_that_never_rises(width: int) -> None:
    root = ET.fromstring(cloud_chart(trace(make_series()).held_out, width=width))
    for name in ("yes0", "yes-star"):
        path = next(item for item in root.iter(f"{SVG}path") if item.get("class") == name)
        ys = [float(pair.split()[1]) for pair in re.split("[ML]", path.attrib["d"])[1:]]
        assert len(set(ys)) > 1
        assert ys == sorted(ys)  # downwards
    words = " ".join(item.text or "" for item in root.iter(f"{SVG}text"))
    for part in ("training step", "loss, nats/token", "red, hatched, a cross: above YES-0", "YES*, least so far"):
        assert part in words
    for item in root.iter(f"{SVG}text"):
        assert 0 <= float(item.attrib["x"]) <= width


def test_the_cloud_alone_is_a_file_with_its_own_style() -> None:
    text = cloud_svg(trace(make_series()).fit)
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert "prefers-color-scheme" in (root.findtext(f"{SVG}style") or "")
    assert root.attrib["aria-label"].startswith("YES cloud, fit tokens, as in the paper: 4 checkpoints")
    assert text == cloud_svg(trace(make_series()).fit)


def test_a_cloud_without_yes_0_has_no_line_of_it_and_no_red_region() -> None:
    series = make_series()
    without = cloud_svg(trace(map(unfitted, series)).held_out)
    some = cloud_svg(trace([unfitted(series[0]), *series[1:]]).held_out)
    assert "None" not in without
    # the legend has a piece of the line
    assert [text.count('class="yes0"') for text in (without, some)] == [1, 2]


def test_the_cloud_says_what_its_steps_count() -> None:
    text = cloud_svg(trace(make_series()).fit, unit="epoch")
    assert "training epoch" in text
    assert "checkpoints, epochs 0 to" in text
    assert "step" not in "".join(ET.fromstring(text).itertext())


@pytest.mark.parametrize("losses", [(3.0, 3.0, 3.0), (0.0, 0.0, 0.0), (1e6, 2e6, 1.0)])
def test_a_cloud_of_one_step_or_of_one_loss(losses: tuple[float, float, float]) -> None:
    for reports in ([make_step(0, *losses)], [make_step(0, *losses), make_step(1, *losses)]):
        assert "nan" not in cloud_svg(trace(reports).held_out)
