"""Measurements as JSON text and back, by their annotations: what an audit that goes on takes from an earlier one.

Unlike a report's JSON it has arrays, as base64 of their bytes, and no schema: it is read by the version that wrote it.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import types
import typing
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peelaudit import json_text

__all__ = ["decoded", "encoded"]

_PLAIN = (bool, int, float, str)


def encoded(value: Any, leaving: Collection[str] = ()) -> str:
    """The JSON text of a dataclass, a tuple or an array; `leaving` are the outermost's fields that aren't in it."""
    return json.dumps(_plain(value, leaving))


def decoded(kind: Any, text: str, **given: Any) -> Any:
    """What `encoded` made the text of.

    Args:
        kind: its annotation.
        text: of any origin.
        given: the outermost's fields that aren't in it.

    Raises:
        ValueError: the text isn't of this kind.
    """
    return _value(kind, json_text.parse(text), **given)


def _plain(value: Any, leaving: Collection[str] = ()) -> object:
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        text = base64.b64encode(data.tobytes()).decode("ascii")
        return {"dtype": data.dtype.str, "shape": data.shape, "base64": text}
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.name not in leaving]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, _PLAIN):
        return value
    raise TypeError(f"{type(value).__name__} has no saved form")


def _value(kind: Any, data: Any, **given: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if data is None else _value(next(one for one in arguments if one is not types.NoneType), data)
    if origin is np.ndarray:
        return _array(arguments[1], data)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, given)
    if origin is tuple or hasattr(kind, "_fields"):
        return _tuple(kind, arguments, data)
    if kind is float and type(data) is int:
        return float(data)
    if kind not in _PLAIN or type(data) is not kind:
        raise ValueError(f"{data!r:.40} is no {kind}")
    return data


def _array(dtype: Any, data: Any) -> NDArray[Any]:
    (item,) = typing.get_args(dtype)
    if not isinstance(data, dict) or data.keys() != {"dtype", "shape", "base64"}:
        raise ValueError("no array")
    if data["dtype"] != np.dtype(item).str or not isinstance(data["base64"], str):
        raise ValueError(f"no array of {item.__name__}")
    shape = data["shape"]
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("no shape of an array")
    values = np.frombuffer(base64.b64decode(data["base64"], validate=True), dtype=item)
    return values.reshape(shape).copy()  # writable, as others are


def _dataclass(kind: Any, data: Any, given: dict[str, Any]) -> Any:
    kinds = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.name not in given]
    if not isinstance(data, dict) or data.keys() != set(names):
        raise ValueError(f"no {kind.__name__}")
    return kind(**{name: _value(kinds[name], data[name]) for name in names}, **given)


def _tuple(kind: Any, arguments: tuple[Any, ...], data: Any) -> Any:
    if not isinstance(data, list):
        raise ValueError("no tuple")
    if not arguments:  # a named one
        arguments = tuple(typing.get_type_hints(kind).values())
    elif arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(data)
    values = [_value(one, item) for one, item in zip(arguments, data, strict=True)]
    return kind(*values) if hasattr(kind, "_fields") else tuple(values)
