"""The pickle machine: plain objects as Python's own pickler writes them, and what becomes of any other object."""

from __future__ import annotations

import collections
import contextlib
import pickle
import pickletools
from enum import Enum
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.checkpoints.inert import Inert, Key, Named, kind_of
from peelaudit.checkpoints.unpickling import MAX_PICKLE, unpickle
from peelaudit.errors import MalformedCheckpoint

scalars = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text()
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
    max_leaves=30,
)


@given(plain, st.integers(0, 5), st.booleans())
def test_plain_objects_are_what_they_were(value: object, protocol: int, optimised: bool) -> None:
    data = pickle.dumps(value, protocol)
    assert unpickle(pickletools.optimize(data) if optimised else data, "'a'") == value


@given(st.binary(max_size=300), st.integers(3, 5))
def test_bytes(value: bytes, protocol: int) -> None:
    assert unpickle(pickle.dumps([value, bytearray(value)], protocol), "'a'")[0] == value  # type: ignore[index]


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_the_typed_error(data: bytes) -> None:
    with contextlib.suppress(MalformedCheckpoint):
        unpickle(data, "'a'")


def test_what_is_shared_or_refers_to_itself_stays_so() -> None:
    shared = [1]
    loop: dict[str, object] = {"both": [shared, shared]}
    loop["self"] = loop
    found = unpickle(pickle.dumps(loop), "'a'")
    assert isinstance(found, dict)
    assert found["self"] is found
    assert found["both"][0] is found["both"][1]


class Colour(Enum):
    RED = 1


class Kept:
    def __init__(self) -> None:
        self.rate = 1.5


@pytest.mark.parametrize("protocol", range(2, 6))
def test_objects_are_told_by_what_made_them_and_what_they_hold(protocol: int) -> None:
    found = unpickle(pickle.dumps({"kept": Kept(), "colour": Colour.RED, "class": Kept}, protocol), "'a'")
    assert isinstance(found, dict)
    kept, colour, kind = found["kept"], found["colour"], found["class"]
    assert isinstance(kept, Inert)
    assert (kind_of(kept), kept.state) == (f"{__name__}.Kept", {"rate": 1.5})
    assert isinstance(colour, Inert)
    assert colour.args == (1,)
    assert isinstance(kind, Named)
    assert kind.path == f"{__name__}.Kept"


def test_ordered_and_default_dictionaries_are_dictionaries() -> None:
    for value in (collections.OrderedDict(a=1), collections.defaultdict(list, a=1)):
        assert unpickle(pickle.dumps(value), "'a'") == {"a": 1}


def test_keys_that_are_not_text_are_kept_apart() -> None:
    found = unpickle(pickle.dumps({1: "a", (2, 3): "b", PurePosixPath("x"): "c", "d": "e"}), "'a'")
    assert isinstance(found, dict)
    keys = list(found)
    assert [kind_of(key) for key in keys] == ["int", "tuple", "pathlib.PurePosixPath", "str"]
    assert all(isinstance(key, Key) for key in keys[:3])
    assert found["d"] == "e"


def test_a_pickle_that_is_too_long() -> None:
    with pytest.raises(MalformedCheckpoint, match="are too many for a model"):
        unpickle(bytes(MAX_PICKLE + 1), "'a'")
