"""JUnit XML, as Jenkins and GitLab read it: a suite for each checkpoint, a case for each layer and each gate check.

A layer's case never fails: its figures and its words are in `system-out`. The headline is a property of its suite. A
check's case is a `failure` where it makes the gate fail, and `skipped` where it is inconclusive or suppressed without
that. A checkpoint that could not be audited is a suite with one case that is an `error`.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from peelaudit.escape import printable
from peelaudit.records import AuditReport, GateCheck, LayerRow, Outcome, Unaudited
from peelaudit.records.quantities import Form
from peelaudit.reports.formats.content import Content
from peelaudit.reports.wording.findings import layer_note
from peelaudit.reports.wording.tables import cut_columns, layer_columns, with_interval
from peelaudit.reports.wording.text import interval, signed
from peelaudit.settings.rules import OWN_LAYER_FIGURES

__all__ = ["export"]


def export(content: Content) -> str:
    """The content as XML text; its declaration says UTF-8.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    content.check_finite()
    root = ET.Element("testsuites", name="peelaudit")
    root.extend(_suite_of_failure(failure) for failure in content.failures)
    root.extend(_suite(report, content.checks_of(report)) for report in content.reports)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in root):.3f}")
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(report: AuditReport, checks: tuple[GateCheck, ...]) -> ET.Element:
    path = report.checkpoint.path
    cases = [_layer_case(report, row) for row in report.layers] + [_check_case(path, check) for check in checks]
    seconds = sum(value for _, value in report.timings)
    suite = _counted(path, cases, seconds)
    properties = ET.Element("properties")
    for name, value in _properties(report):
        ET.SubElement(properties, "property", name=printable(name), value=printable(value))
    suite.insert(0, properties)
    return suite


def _suite_of_failure(failure: Unaudited) -> ET.Element:
    case = _case(failure.checkpoint, "audit")
    ET.SubElement(case, "error", type=printable(failure.error), message=printable(failure.reason))
    return _counted(failure.checkpoint, [case], 0.0)


def _counted(path: str, cases: list[ET.Element], seconds: float) -> ET.Element:
    def count(tag: str) -> str:
        return str(sum(case.find(tag) is not None for case in cases))

    suite = ET.Element(
        "testsuite",
        name=printable(path),
        tests=str(len(cases)),
        failures=count("failure"),
        errors=count("error"),
        skipped=count("skipped"),
        time=f"{seconds:.3f}",
    )
    suite.extend(cases)
    return suite


def _properties(report: AuditReport) -> list[tuple[str, str]]:
    network, info = report.network, report.checkpoint
    return [
        ("verdict", str(network.held_out.verdict)),
        ("headline", report.headline),
        ("paper_verdict", str(network.paper_verdict or "")),
        ("gap_layers", str(network.held_out.gap_layers.value)),
        ("trained_loss", str(network.held_out.trained_loss.value)),
        ("training_step", "" if info.training_step is None else str(info.training_step)),
        ("checkpoint_sha256", info.sha256),
        ("tokens_sha256", report.data.tokens_sha256),
        *((f"version.{name}", version) for name, version in report.versions),
    ]


def _layer_case(report: AuditReport, row: LayerRow) -> ET.Element:
    case = _case(report.checkpoint.path, f"layer {row.layer}")
    own = [f"{one.label} {with_interval(one.of(row), one.form, one.form.unit)}" for one in layer_columns([row])]
    cut = [f"{one.header} {with_interval(one.of(row.held_out), one.form)}" for one in cut_columns([row])]
    words = " ".join(filter(None, [layer_note(report, row), f"{', '.join([*own, *cut])}.", row.reading]))
    ET.SubElement(case, "system-out").text = printable(words)
    return case


def _check_case(path: str, check: GateCheck) -> ET.Element:
    where = "network" if check.layer is None else f"layer {check.layer}"
    case = _case(path, f"gate {check.rule}: {check.metric} of {where}")
    if check.fails:
        ET.SubElement(case, "failure", type=str(check.outcome), message=printable(check.reason))
    elif check.outcome is not Outcome.PASSED:
        ET.SubElement(case, "skipped", message=printable(f"{check.outcome}: {check.reason}"))
    ET.SubElement(case, "system-out").text = printable(_check_words(check))
    return case


def _check_words(check: GateCheck) -> str:
    words = str(check.outcome)
    if check.suppressed is not None:
        words += f" ({check.suppressed} without)"
    if check.figure is not None:
        own = OWN_LAYER_FIGURES.get(check.metric)
        unit = Form.GAP.unit if own is None else own.form.unit
        words += f", {check.metric} {signed(check.figure.value)} ({interval(check.figure, sign=True)}) {unit}".rstrip()
    return words + ("" if check.limit is None else f", limit {check.limit:g}")


def _case(path: str, name: str) -> ET.Element:
    # The seconds are the suite's: an audit measures all layers together.
    return ET.Element("testcase", classname=printable(path), name=printable(name), time="0")
