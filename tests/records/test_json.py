"""The JSON report: what is written is read back alike, fits its schema, and is refused where it is damaged."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peelaudit.errors import NonFiniteResult, ReportError
from peelaudit.records import SCHEMA_VERSION, AuditReport, BaselineLosses, CheckpointInfo, Estimate
from peelaudit.records.json import checkpoint_json, export, parse_report, read_report, schema, schema_json
from peelaudit.records.shapes import shape_of
from tests.factories import make_checkpoint, make_report

VALIDATOR = jsonschema.Draft202012Validator(schema())
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(), max_size=20)  # lone surrogates too: file names have them
SETTING = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXTS, lambda s: st.tuples(s, s), max_leaves=4
)


def pairs(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.text(max_size=8), values, max_size=4).map(lambda names: tuple(names.items()))


for kind, strategy in ((float, FLOATS), (str, TEXTS)):
    st.register_type_strategy(kind, strategy)
st.register_type_strategy(
    Estimate, st.builds(lambda value, ends: Estimate(value, *sorted(ends)), FLOATS, st.tuples(FLOATS, FLOATS))
)
SPECIAL = {"settings": pairs(SETTING), "versions": pairs(TEXTS), "timings": pairs(FLOATS), "passes": pairs(FLOATS)}
FEW = {
    name: st.lists(st.from_type(typing.get_args(hint)[0]), max_size=2).map(tuple)
    for name, hint in typing.get_type_hints(AuditReport).items()
    if name in ("layers", "schedules", "yes", "warnings")
}
REPORTS = st.builds(AuditReport, schema_version=st.just(SCHEMA_VERSION), **SPECIAL, **FEW)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(report=REPORTS)
def test_any_report_comes_back_as_it_was_and_fits_the_schema(report: AuditReport) -> None:
    text = export(report)
    assert text.isascii()
    assert text.endswith("}\n")
    assert parse_report(text) == report
    VALIDATOR.validate(json.loads(text))


@pytest.mark.parametrize("n_layers", [4, 80])
def test_realistic_reports(n_layers: int, tmp_path: Path) -> None:
    report = make_report(n_layers, path="runs/\x1b[31m\udcff/é.pt")
    path = tmp_path / "report.json"
    path.write_text(export(report))
    assert read_report(path) == report
    VALIDATOR.validate(json.loads(path.read_text()))


def test_names_are_the_methods() -> None:
    data = json.loads(export(make_report()))
    assert next(iter(data)) == "schema_version"
    assert {"readout", "best_schedule", "best_schedule_fit", "paper_verdict", "fit", "held_out"} < data.keys()
    assert "network" not in data
    gap = data["held_out"]["gap_layers"]
    assert list(gap) == ["value", "low", "high"]
    assert data["versions"]["peelaudit"] == "0.1.0"
    assert data["layers"][-1]["layer"] == 4
    assert data["settings"]["split"] == [0.6, 0.15, 0.25]


def test_floats_are_not_rounded() -> None:
    report = make_report(baselines=BaselineLosses(uniform=0.1 + 0.2, unigram=Estimate(1 / 3, 5e-324, 1.7e308)))
    assert parse_report(export(report)).baselines == report.baselines


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_row_58_what_is_not_finite_is_never_written(bad: float) -> None:
    report = make_report()
    row = dataclasses.replace(report.layers[2], gap=Estimate(bad, 0.0, 0.0))
    with pytest.raises(NonFiniteResult, match=r"layers\[2\]\.gap\.value is "):
        export(dataclasses.replace(report, layers=(*report.layers[:2], row, report.layers[3])))
    with pytest.raises(NonFiniteResult, match=r"settings\.lr"):
        export(dataclasses.replace(report, settings=(("lr", (1.0, bad)),)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, True, "1", None])
def test_what_is_not_finite_never_validates(bad: object) -> None:
    data = json.loads(export(make_report()))
    assert VALIDATOR.is_valid(data)
    data["layers"][0]["gap"]["value"] = bad
    assert not VALIDATOR.is_valid(data)


def test_schema_is_published_whole() -> None:
    published = json.loads(schema_json())
    jsonschema.Draft202012Validator.check_schema(published)
    objects = [part for part in published["$defs"].values() if part.get("type") == "object"]
    assert len(objects) > 10
    assert all(part["additionalProperties"] is False and part["description"] for part in objects)
    assert published["$defs"]["AuditReport"]["properties"]["schema_version"] == {"const": SCHEMA_VERSION}


def set_at(data: Any, *path: Any) -> None:
    *parents, last, value = path
    for key in parents:
        data = data[key]
    data[last] = value


DAMAGE: dict[str, tuple[Callable[[Any], object], str]] = {
    "newer version": (lambda d: set_at(d, "schema_version", 3), "schema_version is 3: this peelaudit reads 2$"),
    "earlier version": (lambda d: set_at(d, "schema_version", 1), "schema_version is 1: .* audit the checkpoint again"),
    "version as a flag": (lambda d: d.update(schema_version=True), "schema_version is True"),
    "no version": (lambda d: d.pop("schema_version"), "no schema_version"),
    "missing": (lambda d: d["layers"][1].pop("gap"), r"layers\[1\]\.gap is missing"),
    "unknown": (lambda d: set_at(d, "held_out", "extra", 1), r"held_out\.extra is not a field"),
    "text for a number": (lambda d: set_at(d, "held_out", "bound", "low", "3"), r"held_out\.bound\.low is '3'"),
    "interval turned": (
        lambda d: set_at(d, "held_out", "bound", "low", 99),
        r"held_out\.bound has an interval from 99",
    ),
    "flag for a number": (lambda d: d["baselines"].update(uniform=True), "uniform is True"),
    "float for a whole number": (lambda d: set_at(d, "layers", 0, "layer", 1.5), r"layers\[0\]\.layer is 1\.5"),
    "no verdict": (lambda d: set_at(d, "paper_verdict", "pink"), "paper_verdict is 'pink': expected red"),
    "list for a verdict": (lambda d: set_at(d, "paper_verdict", []), "paper_verdict is"),
    "object for an array": (lambda d: set_at(d, "layers", {}), "layers is {}: expected an array"),
    "array for an object": (lambda d: set_at(d, "timings", []), r"timings is \[\]: expected an object"),
    "huge whole number": (lambda d: set_at(d, "baselines", "uniform", 10**400), "uniform is inf"),
    "object for a setting": (lambda d: set_at(d, "settings", "seed", {}), "settings.seed"),
}


def test_a_report_from_before_a_field_was_added_is_read_with_its_default() -> None:
    report = make_report()
    data = json.loads(export(report))
    assert data.pop("low_bit") is None
    del data["network_refinement"]
    for row in data["layers"]:
        del row["influence"]
        for split in ("fit", "held_out"):
            del row[split]["float_bound"], row[split]["distortion"]
    read = parse_report(json.dumps(data))
    assert read == dataclasses.replace(report, network=dataclasses.replace(report.network, refinement=None))
    assert export(parse_report(export(read))) == export(read)


@pytest.mark.parametrize("name", DAMAGE)
def test_reader_refuses_damage(name: str) -> None:
    change, message = DAMAGE[name]
    data = copy.deepcopy(json.loads(export(make_report())))
    change(data)
    with pytest.raises(ReportError, match=message):
        parse_report(json.dumps(data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "not a report"),
        ("[" * 100_000, "not JSON"),
        ('{"schema_version": NaN}', "NaN"),
        ('{"schema_version": 1, "schema_version": 1}', "twice"),
        ('{"schema_version": ' + "1" * 5000 + "}", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ('{"schema_version": 2}', "missing"),
    ],
)
def test_reader_refuses_what_is_no_report(text: str, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        parse_report(text)


def test_reader_refuses_an_overflowing_literal() -> None:
    text = export(make_report()).replace('"uniform": 10.826', '"uniform": 1e999')
    with pytest.raises(ReportError, match=r"baselines\.uniform is inf"):
        parse_report(text)


def test_reader_names_the_file(tmp_path: Path) -> None:
    for name, content in {"absent": None, "binary": b"\xff\xfe", "empty": b""}.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ReportError, match=name):
            read_report(path)
    with pytest.raises(ReportError, match="can't be read"):
        read_report(tmp_path)
    with pytest.raises(ReportError, match="can't be read"):
        read_report("nul\0byte")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["refinement"]["steps"].pop(), "4 layers, and says of others how they were refined"),
        (lambda d: d["refinement"]["products"].append(1), "4 layers, and says of others how they were refined"),
        (lambda d: d["layers"].pop(0), "rows aren't those of layers 1 to L"),
        (lambda d: d.update(layers=[]), "rows aren't those of layers 1 to L"),
        (lambda d: d["layers"][1].update(layer=10**9), "rows aren't those of layers 1 to L"),
    ],
)
def test_a_file_whose_layers_are_not_all_told_of_is_refused(
    change: Callable[[Any], object], message: str, tmp_path: Path
) -> None:
    data = json.loads(export(make_report()))
    change(data)
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(ReportError, match=message):
        read_report(tmp_path / "report.json")


@pytest.mark.parametrize("value", ["a" * 5000, [["a" * 5000]], 10**4000, {"a" * 5000: 1}], ids=type)
@pytest.mark.parametrize("where", ["schema_version", "headline", "layers", "a" * 5000])
def test_what_a_file_says_is_cut_in_messages(where: str, value: object) -> None:
    data = json.loads(export(make_report()))
    with pytest.raises(ReportError) as caught:
        parse_report(json.dumps({**data, where: value if where != "headline" else [value]}))
    assert len(str(caught.value)) < 200


def test_tensors_only_where_asked_for() -> None:
    info = make_checkpoint()
    assert "tensors" not in json.loads(checkpoint_json(info, tensors=False))
    data = json.loads(checkpoint_json(info, tensors=True))
    assert shape_of(CheckpointInfo).decode(data, "") == info


def test_an_annotation_without_a_shape_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="no JSON shape"):
        shape_of(set[int])


def test_both_kinds_of_refinement_are_written() -> None:
    data = json.loads(export(make_report()))
    assert "gain" in data["network_refinement"]
    assert "named" in data["refinement"]
