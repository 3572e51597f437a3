"""What a record looks like in JSON, told once by its annotations: to write it, to read it, and to publish a schema.

`shape_of(kind)` turns an annotation into a `Shape`. Two things are unlike the records: a tuple of (name, value) pairs
is an object, and `AuditReport.network` is flattened into the report itself.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import operator
import types
import typing
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from peelaudit.errors import NonFiniteResult, ReportError
from peelaudit.records import AuditReport, Estimate, NetworkRow
from peelaudit.records.quantities import Quantity, quantities_of

__all__ = ["Definitions", "Record", "ReportError", "Shape", "check_finite", "record", "shape_of", "shown"]

Definitions = dict[str, object]
"""The `$defs` of a schema, by name."""

_FLATTENED: dict[tuple[type[Any], str], type[Any]] = {(AuditReport, "network"): NetworkRow}
_LARGEST = 1.7976931348623157e308
_LONGEST = 60
"""Signs of a file's own words in a message."""


def check_finite(finding: Any, where: str = "") -> None:
    """Raise NonFiniteResult, with the field's path, if any figure of the record is NaN or infinite."""
    kind: Any = type(finding)
    shape_of(kind).encode(finding, where)


class Shape(Protocol):
    """One kind of value. `where` is the field's path, such as `layers[3].gap.value`, for messages."""

    def encode(self, value: Any, where: str) -> object:
        """The JSON value. Raises NonFiniteResult for a NaN or an infinity."""
        ...

    def decode(self, data: object, where: str) -> Any:
        """The record's value. Raises ReportError for anything that the schema doesn't allow."""
        ...

    def schema(self, definitions: Definitions) -> dict[str, object]:
        """The JSON schema (draft 2020-12), shared parts added to `definitions`."""
        ...


def shown(value: object) -> str:
    """A value of a file for a message: its beginning."""
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _refuse(data: object, where: str, expected: str) -> typing.NoReturn:
    raise ReportError(f"{where} is {shown(data)}: expected {expected}")


def _finite(value: float, where: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise NonFiniteResult(f"{where} is {number}: no report is written with it")
    return number


@dataclass(frozen=True, slots=True)
class Number:
    """A finite float, unrounded."""

    def encode(self, value: Any, where: str) -> float:
        return _finite(value, where)

    def decode(self, data: object, where: str) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float):
            _refuse(data, where, "a number")
        try:
            number = float(data)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ReportError(f"{where} is {number}: a report holds finite numbers only")
        return number

    def schema(self, definitions: Definitions) -> dict[str, object]:
        # JSON has no NaN, but parsers make one of `NaN`: the only "number" that is neither at most 0 nor at least 0.
        definitions["number"] = {
            "description": "A finite number.",
            "type": "number",
            "minimum": -_LARGEST,
            "maximum": _LARGEST,
            "not": {"exclusiveMinimum": 0, "exclusiveMaximum": 0},
        }
        return {"$ref": "#/$defs/number"}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A whole number, a text or a flag."""

    kind: type[int | str | bool]

    def encode(self, value: Any, where: str) -> object:
        return operator.index(value) if self.kind is int else self.kind(value)

    def decode(self, data: object, where: str) -> object:
        if type(data) is not self.kind:
            _refuse(data, where, self._name())
        return data

    def schema(self, definitions: Definitions) -> dict[str, object]:
        return {"type": self._name()}

    def _name(self) -> str:
        return "integer" if self.kind is int else "string" if self.kind is str else "boolean"


@dataclass(frozen=True, slots=True)
class Choice:
    """A member of a string enum."""

    kind: type[StrEnum]

    def encode(self, value: Any, where: str) -> str:
        return self.kind(value).value

    def decode(self, data: object, where: str) -> StrEnum:
        if not isinstance(data, str) or data not in list(self.kind):
            _refuse(data, where, " | ".join(self.kind))
        return self.kind(data)

    def schema(self, definitions: Definitions) -> dict[str, object]:
        definitions[self.kind.__name__] = {"description": inspect.getdoc(self.kind), "enum": list(map(str, self.kind))}
        return {"$ref": f"#/$defs/{self.kind.__name__}"}


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value, or null."""

    item: Shape

    def encode(self, value: Any, where: str) -> object:
        return None if value is None else self.item.encode(value, where)

    def decode(self, data: object, where: str) -> Any:
        return None if data is None else self.item.decode(data, where)

    def schema(self, definitions: Definitions) -> dict[str, object]:
        return {"anyOf": [self.item.schema(definitions), {"type": "null"}]}


@dataclass(frozen=True, slots=True)
class Sequence:
    """A tuple of any length, as an array."""

    item: Shape

    def encode(self, value: Any, where: str) -> list[object]:
        return [self.item.encode(item, f"{where}[{index}]") for index, item in enumerate(value)]

    def decode(self, data: object, where: str) -> tuple[Any, ...]:
        if not isinstance(data, list):
            _refuse(data, where, "an array")
        return tuple(self.item.decode(item, f"{where}[{index}]") for index, item in enumerate(data))

    def schema(self, definitions: Definitions) -> dict[str, object]:
        return {"type": "array", "items": self.item.schema(definitions)}


@dataclass(frozen=True, slots=True)
class Named:
    """A tuple of (name, value) pairs, as an object."""

    item: Shape

    def encode(self, value: Any, where: str) -> dict[str, object]:
        return {str(name): self.item.encode(item, f"{where}.{name}") for name, item in value}

    def decode(self, data: object, where: str) -> tuple[tuple[str, Any], ...]:
        if not isinstance(data, dict):
            _refuse(data, where, "an object")
        return tuple((name, self.item.decode(item, f"{where}.{name}")) for name, item in data.items())

    def schema(self, definitions: Definitions) -> dict[str, object]:
        return {"type": "object", "additionalProperties": self.item.schema(definitions)}


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting's value: null, a flag, a text, a number, or a list of them."""

    def encode(self, value: Any, where: str) -> object:
        if isinstance(value, tuple | list):
            return [self.encode(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return _finite(value, where) if isinstance(value, float) else value

    def decode(self, data: object, where: str) -> object:
        if isinstance(data, list):
            return tuple(self.decode(item, f"{where}[{index}]") for index, item in enumerate(data))
        if isinstance(data, dict):
            _refuse(data, where, "a setting's value")
        return Number().decode(data, where) if isinstance(data, float) else data

    def schema(self, definitions: Definitions) -> dict[str, object]:
        reference: dict[str, object] = {"$ref": "#/$defs/setting"}
        definitions["setting"] = {
            "description": inspect.getdoc(Setting),
            "anyOf": [
                {"type": ["null", "boolean", "integer", "string"]},
                Number().schema(definitions),
                {"type": "array", "items": reference},
            ],
        }
        return reference


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an object, `name` in JSON and `attribute` of the record. `inside` names the flattened record that
    holds it, if one does. An `optional` one has a default, and may be missing in a report of an earlier version: it is
    always written. `words` describes it.
    """

    name: str
    attribute: str
    shape: Shape
    inside: str | None = None
    optional: bool = False
    words: str = ""

    def schema(self, definitions: Definitions) -> dict[str, object]:
        """The schema of its value."""
        described: dict[str, object] = {"description": self.words} if self.words else {}
        return described | self.shape.schema(definitions)


@dataclass(frozen=True, slots=True)
class Record:
    """A record, as an object with its fields and no others."""

    kind: type[Any]
    fields: tuple[Field, ...]

    def encode(self, value: Any, where: str) -> dict[str, object]:
        """See `Shape`."""
        return {
            field.name: field.shape.encode(
                getattr(getattr(value, field.inside) if field.inside else value, field.attribute),
                _under(where, field.name),
            )
            for field in self.fields
        }

    def decode(self, data: object, where: str) -> Any:
        """See `Shape`."""
        if not isinstance(data, dict):
            _refuse(data, where or "the report", "an object")
        names = {field.name for field in self.fields}
        for missing in sorted(field.name for field in self.fields if not field.optional and field.name not in data):
            raise ReportError(f"{_under(where, missing)} is missing")
        for unknown in sorted(data.keys() - names):
            raise ReportError(f"{_under(where, unknown)} is not a field of {self.kind.__name__}")
        values: dict[str | None, dict[str, Any]] = {None: {}}
        for field in (field for field in self.fields if field.name in data):
            decoded = field.shape.decode(data[field.name], _under(where, field.name))
            values.setdefault(field.inside, {})[field.attribute] = decoded
        inner = {name: _FLATTENED[self.kind, name](**parts) for name, parts in values.items() if name is not None}
        return self.kind(**values[None], **inner)

    def schema(self, definitions: Definitions) -> dict[str, object]:
        """See `Shape`."""
        name = self.kind.__name__
        if name not in definitions:
            properties = {field.name: field.schema(definitions) for field in self.fields}
            definitions[name] = {
                "description": inspect.getdoc(self.kind),
                "type": "object",
                "properties": properties,
                "required": [field.name for field in self.fields if not field.optional],
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{name}"}


@dataclass(frozen=True, slots=True)
class Interval(Record):
    """A figure with its interval, whose ends are in order: given them the other way round, a gate would pass."""

    def decode(self, data: object, where: str) -> Estimate:
        """See `Shape`."""
        found: Estimate = Record.decode(self, data, where)  # not super(), which a dataclass with slots breaks
        if found.low > found.high:
            raise ReportError(f"{where} has an interval from {found.low:g} to {found.high:g}: expected low <= high")
        return found


def _under(where: str, name: str) -> str:
    """The path of a field; of a name that somebody else chose, as much as is needed to know it."""
    return f"{where}.{_cut(name)}" if where else _cut(name)


def _fields(kind: Any) -> tuple[Field, ...]:
    """The fields of the object that stands for a record, in order.

    A flattened record's field whose name the outer one has too goes by both names: `network_refinement`.
    """
    hints, quantities = typing.get_type_hints(kind), quantities_of(kind)
    fields: list[Field] = []
    for field in dataclasses.fields(kind):
        name = field.name
        if (kind, name) in _FLATTENED:
            for inner in _fields(hints[name]):
                taken = inner.name in hints
                fields.append(replace(inner, inside=name, name=f"{name}_{inner.name}" if taken else inner.name))
        else:
            optional, words = field.default is not dataclasses.MISSING, _description(quantities.get(name))
            fields.append(Field(name, name, shape_of(hints[name]), optional=optional, words=words))
    return tuple(fields)


def _description(quantity: Quantity | None) -> str:
    """What the schema says of a figure; of one that is an entry of several, its record's docstring says it."""
    if quantity is None or quantity.item is not None:
        return ""
    return f"{quantity.words}, {quantity.form.unit}" if quantity.form.unit else quantity.words


def record(kind: type[Any]) -> Record:
    """The shape of a record, which is a dataclass."""
    return Record(kind, _fields(kind))


@functools.cache
def shape_of(kind: Any) -> Shape:
    """The shape of a record's annotation.

    Raises:
        TypeError: no shape is known for it: records hold nothing else than these.
    """
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType) and len(arguments) == 2 and arguments[1] is types.NoneType:
        return Maybe(shape_of(arguments[0]))
    if typing.get_origin(kind) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        pair = typing.get_args(arguments[0])
        named = typing.get_origin(arguments[0]) is tuple and pair[0] is str
        return Named(shape_of(pair[1])) if named else Sequence(shape_of(arguments[0]))
    if kind is float:
        return Number()
    if kind is object:
        return Setting()
    if kind in (int, str, bool):
        return Scalar(kind)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return Choice(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return Interval(kind, _fields(kind)) if kind is Estimate else record(kind)
    raise TypeError(f"no JSON shape for {kind!r}")
