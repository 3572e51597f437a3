"""JUnit XML: parsed back, held to what Jenkins' and GitLab's readers take, each outcome where it belongs."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from peelaudit.records import GateCheck, Outcome, Unaudited
from peelaudit.reports.formats import Format, export
from tests.factories import make_report
from tests.reports.formats.support import HOSTILE, hostile_report, make_check

# Of the schema junit-10.xsd of Jenkins' xUnit plugin: the attributes and the children of each element that is used.
ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "properties": set(),
    "property": {"name", "value"},
    "testcase": {"name", "classname", "time"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"message"},
    "system-out": set(),
}
CHILDREN = {
    "testsuites": ["testsuite"],
    "testsuite": ["properties", "testcase"],
    "properties": ["property"],
    "testcase": ["skipped", "error", "failure", "system-out"],
}


def parsed(*reports, checks: tuple[GateCheck, ...] = (), failures: tuple[Unaudited, ...] = ()) -> ET.Element:
    text = export(reports, Format.JUNIT, checks=checks, failures=failures)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites')
    return ET.fromstring(text.encode())


def check_schema(element: ET.Element) -> None:
    assert set(element.attrib) == ATTRIBUTES[element.tag]
    tags = [child.tag for child in element]
    allowed = CHILDREN.get(element.tag, [])
    assert tags == sorted(tags, key=allowed.index)
    for child in element:
        check_schema(child)


def outcomes(root: ET.Element) -> dict[str, list[str]]:
    """The cases' names by outcome."""
    found: dict[str, list[str]] = {"failure": [], "error": [], "skipped": [], "passed": []}
    for case in root.iter("testcase"):
        tags = [tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None]
        found[tags[0] if tags else "passed"].append(case.attrib["name"])
    return found


CHECKS = (
    make_check(outcome=Outcome.PASSED, layer=1),
    make_check(outcome=Outcome.FAILED, layer=2),
    make_check(outcome=Outcome.SUPPRESSED, layer=3),
    make_check(outcome=Outcome.INCONCLUSIVE, layer=4),
    make_check(outcome=Outcome.INCONCLUSIVE, layer=None, fails=True),
)


def test_each_outcome_is_where_it_belongs() -> None:
    root = parsed(make_report(), checks=CHECKS, failures=(Unaudited("bad.pt", "MalformedCheckpoint", "cut off"),))
    gate = "gate layer.gap=0.02: gap of "
    assert outcomes(root) == {
        "failure": [f"{gate}layer 2", f"{gate}network"],
        "error": ["audit"],
        "skipped": [f"{gate}layer 3", f"{gate}layer 4"],
        "passed": ["layer 1", "layer 2", "layer 3", "layer 4", f"{gate}layer 1"],
    }
    assert [suite.attrib["name"] for suite in root] == ["bad.pt", "runs/tiny/ckpt.pt"]
    error = root.find(".//error")
    assert error is not None
    assert error.attrib == {"type": "MalformedCheckpoint", "message": "cut off"}


def test_counts_are_those_of_the_cases() -> None:
    failures = (Unaudited("bad.pt", "MalformedCheckpoint", "cut off"),)
    root = parsed(make_report(), make_report(path="b.pt"), checks=CHECKS, failures=failures)
    for level in (root, *root):
        cases = list(level.iter("testcase"))
        assert int(level.attrib["tests"]) == len(cases)
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(level.attrib[name]) == sum(case.find(tag) is not None for case in cases)
    assert float(root[1].attrib["time"]) == pytest.approx(6.15)


@pytest.mark.parametrize("n_layers", [4, 80])
def test_fits_the_schema(n_layers: int) -> None:
    check_schema(parsed(make_report(n_layers), checks=CHECKS))
    check_schema(
        parsed(
            hostile_report(HOSTILE),
            checks=(make_check(HOSTILE, rule=HOSTILE, reason=HOSTILE),),
            failures=(Unaudited(HOSTILE, HOSTILE, HOSTILE),),
        )
    )


def test_without_a_gate_nothing_fails_and_the_verdict_is_there() -> None:
    report = make_report()
    root = parsed(report)
    assert root.attrib["failures"] == root.attrib["errors"] == root.attrib["skipped"] == "0"
    properties = {item.attrib["name"]: item.attrib["value"] for item in root.iter("property")}
    assert properties["verdict"] == "red"
    assert float(properties["gap_layers"]) == report.network.held_out.gap_layers.value
    words = [case.findtext("system-out") or "" for case in root.iter("testcase")]
    assert properties["headline"] == report.headline
    assert words[3].startswith("gap +0.03")
    assert "depth gap +0.042 nats/token (+0.022..+0.060)" in words[3]
    assert words[3].endswith(report.layers[3].reading)


@pytest.mark.parametrize(
    ("metric", "unit"), [("gap_layers", True), ("gap", True), ("depth_gap", True), ("redundancy", False)]
)
def test_a_check_has_the_unit_of_its_figure(metric: str, unit: bool) -> None:
    report = make_report()
    check = make_check(report.checkpoint.path, metric=metric)
    assert (f"{metric} +0.300 (+0.280..+0.320) nats/token" in export([report], Format.JUNIT, checks=[check])) == unit
