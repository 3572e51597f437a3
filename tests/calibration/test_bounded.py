"""Work in a child: what it makes, and how it is given up."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from typing import Any

import pytest

from peelaudit.calibration.bounded import Child, GivenUp, Limits
from peelaudit.errors import CalibrationError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes can't fork here")


def echo(request: Any) -> Any:
    return request


def test_answers_are_those_of_the_work_done_here() -> None:
    child = Child(lambda request: [request, os.getpid()])
    for request in ("a", "ä\ud800", [1, {"b": None}], "long" * 100_000):
        answer, pid = child.ask(request)
        assert answer == request
        assert pid != os.getpid()


def test_what_the_work_raises_is_raised_and_the_next_request_answered() -> None:
    def work(request: str) -> str:
        if request == "bad":
            raise CalibrationError("no good")
        return request

    child = Child(work)
    with pytest.raises(CalibrationError, match=r"^no good$"):
        child.ask("bad")
    assert child.ask("good") == "good"


def spin(_: object) -> None:
    while True:
        pass


def sleep(_: object) -> None:
    time.sleep(60)


def fill(_: object) -> int:
    return len(bytearray(1 << 30))


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def raising(_: object) -> None:
    raise RuntimeError


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (spin, "it takes too long"),
        (sleep, "it takes too long"),
        pytest.param(fill, "too much memory", marks=pytest.mark.skipif(sys.platform == "darwin", reason="no limit")),
        (die, "too much memory or computing"),
        (raising, "too much memory or computing"),
        (lambda _: "a" * 2000, "too much memory or computing"),
    ],
)
def test_a_request_that_takes_too_much_is_given_up_and_so_are_those_after_it(work: Any, why: str) -> None:
    child = Child(work, Limits(computing=1, waiting=4, memory=1 << 28, length=1000))
    with pytest.raises(GivenUp, match=why):
        child.ask(None)
    with pytest.raises(GivenUp):
        child.ask(None)
    child.close()


def test_the_limit_of_computing_is_of_each_request_alone() -> None:
    def work(seconds: float) -> str:
        last = time.process_time() + seconds
        while time.process_time() < last:
            pass
        return "done"

    child = Child(work, Limits(computing=1))
    assert [child.ask(0.7) for _ in range(2)] == ["done"] * 2
    assert child.ask(1.5, computing=4) == "done"


def test_what_is_printed_stays_there(capfd: pytest.CaptureFixture[str]) -> None:
    def work(_: object) -> str:
        os.write(1, b"out")
        os.write(2, b"::error::")
        sys.stderr.write("more")
        return "quiet"

    assert Child(work).ask(None) == "quiet"
    assert capfd.readouterr() == ("", "")


def test_it_ends_with_the_object() -> None:
    child = Child(lambda _: os.getpid())
    pid = child.ask(None)
    del child
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_two_at_a_time_do_not_disturb_each_other() -> None:
    one, other = Child(echo), Child(echo)
    assert one.ask(1) == 1
    one.close()
    assert other.ask(2) == 2
