"""Errors carry what they are about, whatever their class looks like."""

from __future__ import annotations

import pickle

import pytest

from peelaudit.errors import ConfigError, GateFailed, PeelauditError, ReportError, SeveralErrors, about


class MissingLayer(PeelauditError):
    """One with a constructor of its own."""

    def __init__(self, layer: int, *, of: int) -> None:
        self.layer = layer
        super().__init__(f"layer {layer} of {of} is missing")


def passed(error: PeelauditError, *subjects: str) -> PeelauditError:
    """The error as it comes out of `about` these, the innermost first."""
    for subject in subjects:
        with pytest.raises(PeelauditError) as caught, about(subject):
            raise error
        assert caught.value is error
    return error


def test_an_error_of_nothing_in_particular_is_its_message() -> None:
    assert (str(ReportError("it holds NaN")), ReportError("x").subject) == ("it holds NaN", None)


def test_the_subject_stands_before_the_message() -> None:
    error = passed(ReportError("it holds NaN"), "a.json")
    assert (str(error), error.subject) == ("a.json: it holds NaN", "a.json")


def test_what_a_file_says_of_itself_stays_on_the_line() -> None:
    hostile = "\n::error::x\x1b[31m\ud800\x85"
    error = passed(ReportError(f"{hostile} is not a field"), hostile)
    shown = r"\n::error::x\x1b[31m\ud800\x85"
    assert str(error) == f"{shown}: {shown} is not a field"
    assert ConfigError(f"{hostile} is no setting", "b").problems == (f"{shown} is no setting", "b")
    assert str(SeveralErrors(error, GateFailed("x"))) == f"{error}; x"
    assert str(passed(ReportError("a\\n"))) == "a\\n", "what is escaped once isn't again"


def test_a_class_with_another_constructor_keeps_its_attributes() -> None:
    error = passed(MissingLayer(3, of=4), "a.json")
    assert isinstance(error, MissingLayer)
    assert (str(error), error.layer) == ("a.json: layer 3 of 4 is missing", 3)


def test_the_subject_stands_before_every_problem() -> None:
    error = passed(ConfigError("no row 7", "no row 9"), "a.json")
    assert isinstance(error, ConfigError)
    assert error.problems == ("a.json: no row 7", "a.json: no row 9")
    assert str(error) == "a.json: no row 7; a.json: no row 9"


def test_each_of_several_errors_gets_the_subject_that_it_lacks() -> None:
    several = SeveralErrors(passed(ReportError("it holds NaN"), "a.json"), ConfigError("no row 7"))
    assert str(passed(several, "batch")) == "a.json: it holds NaN; batch: no row 7"
    assert (several.exit_code, [error.subject for error in several.errors]) == (3, ["a.json", "batch"])


def test_the_subject_nearest_to_what_went_wrong_stays() -> None:
    assert str(passed(ConfigError("is no rule"), "'gap'", "peelaudit.toml")) == "'gap': is no rule"


def test_what_is_not_ours_passes_as_it_is() -> None:
    with pytest.raises(KeyError, match=r"^'x'$"), about("a.json"):
        raise KeyError("x")


@pytest.mark.parametrize(
    "error",
    [
        ReportError("it holds NaN"),
        ConfigError("no row 7", "no row 9"),
        SeveralErrors(GateFailed("gate failed"), ConfigError("no row 7")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_whole_from_another_process(error: PeelauditError) -> None:
    there = passed(error, "a.json")
    here = pickle.loads(pickle.dumps(there))
    assert (type(here), str(here), here.exit_code) == (type(there), str(there), there.exit_code)
