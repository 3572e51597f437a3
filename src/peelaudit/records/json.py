"""The JSON report: written, read back, and its published schema (draft 2020-12), all three from the records' types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from peelaudit import json_text
from peelaudit.errors import ReportError, about
from peelaudit.plain_files import read_plain
from peelaudit.records import SCHEMA_VERSION, AuditReport, CheckpointInfo
from peelaudit.records.shapes import Definitions, shape_of, shown

__all__ = [
    "checkpoint_json",
    "compact",
    "dump",
    "export",
    "load",
    "parse_report",
    "read_report",
    "schema",
    "schema_json",
]

_MAX_BYTES = 256 << 20


def export(report: AuditReport) -> str:
    """The report as JSON text: ASCII alone, floats unrounded, keys in the records' order.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    return dump(report, AuditReport)


def dump(value: object, kind: Any) -> str:
    """A value of any of the records' types as JSON text; `kind` is its annotation.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    return _dumps(shape_of(kind).encode(value, ""))


def compact(report: AuditReport) -> str:
    """The same JSON on one line, without blanks.

    Raises:
        NonFiniteResult: as `export` does.
    """
    data = shape_of(AuditReport).encode(report, "")
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def load(text: str, kind: Any) -> Any:
    """What `dump` wrote.

    Raises:
        ReportError: it isn't JSON, or not of that kind.
    """
    return shape_of(kind).decode(_loads(text), "")


def checkpoint_json(info: CheckpointInfo, *, tensors: bool) -> str:
    """The checkpoint's facts as JSON text; the key `tensors` is there only where they are asked for."""
    data = shape_of(CheckpointInfo).encode(info, "")
    if not tensors and isinstance(data, dict):
        del data["tensors"]
    return _dumps(data)


def schema() -> dict[str, object]:
    """The JSON schema of `export`'s text."""
    definitions: Definitions = {}
    reference = shape_of(AuditReport).schema(definitions)
    report = definitions[AuditReport.__name__]
    if isinstance(report, dict):
        report["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:peelaudit:report:{SCHEMA_VERSION}",
        "title": "peelaudit report",
        **reference,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_json() -> str:
    """The schema as JSON text."""
    return _dumps(schema())


def read_report(path: str | Path) -> AuditReport:
    """The report that `export` wrote to `path`.

    Raises:
        ReportError: the file can't be read, isn't JSON, has another schema version, isn't what the schema says, or has
            other rows than those of its layers.
    """
    try:
        data = read_plain(Path(path), _MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > _MAX_BYTES:
        raise ReportError(f"{path} is over {_MAX_BYTES} bytes: no report of peelaudit")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} is not UTF-8 (byte {error.start})") from error
    with about(str(path)):
        report = parse_report(text)
        _check_rows(report)
    return report


def parse_report(text: str) -> AuditReport:
    """The report in a JSON text. Raises ReportError as `read_report` does."""
    data = _loads(text)
    if not isinstance(data, dict) or "schema_version" not in data:
        raise ReportError("not a report of peelaudit: it has no schema_version")
    version = data["schema_version"]
    if type(version) is not int or version != SCHEMA_VERSION:
        earlier = type(version) is int and 0 < version < SCHEMA_VERSION
        hint = ", and an earlier one's figures mean something else: audit the checkpoint again" if earlier else ""
        raise ReportError(f"schema_version is {shown(version)}: this peelaudit reads {SCHEMA_VERSION}{hint}")
    report: AuditReport = shape_of(AuditReport).decode(data, "")
    return report


def _check_rows(report: AuditReport) -> None:
    """Raise ReportError unless there is a row for each layer, and of refining, if any, as many entries."""
    layers, info = [row.layer for row in report.layers], report.refinement
    if not layers or layers != list(range(1, len(layers) + 1)):
        raise ReportError("the report's rows aren't those of layers 1 to L")
    if info is not None and not len(info.steps) == len(info.products) == len(layers):
        raise ReportError(f"the report has {len(layers)} layers, and says of others how they were refined")


def _loads(text: str) -> object:
    try:
        data: object = json_text.parse(text, constant=_refuse_constant)
    except ValueError as error:
        raise ReportError(f"not JSON: {error}") from error
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise ReportError(f"it holds {name}: a report holds finite numbers only")


def _dumps(data: object) -> str:
    # ASCII: a file name with a terminal escape, or one that isn't Unicode, does no harm and comes back as it was.
    return json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
