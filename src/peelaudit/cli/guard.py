"""From what happened to an exit code, with one plain message on stderr and no traceback for what a user can cause.

0 done, 1 a failed gate and nothing else, 2 usage or configuration, 3 not completed (a bug included), 4 nothing to fix,
5 nothing to audit, 129, 130 and 143 hung up, interrupted, terminated.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TextIO

from peelaudit.errors import ConfigError, GateFailed, OutputError, PeelauditError, SeveralErrors, is_out_of_memory
from peelaudit.escape import printable

__all__ = ["guarded", "say", "write_out"]

_NOT_COMPLETED = 3
_SIGNALS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}


class _Stopped(BaseException):
    """A signal. As an exception, so that temporary files are removed on the way out."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def guarded(command: Callable[[], None]) -> int:
    """Run `command`; the exit code."""
    try:
        with _signals():
            if sys.stdout is None:
                raise OutputError("stdout is closed: there is nowhere to write the result to")
            code = _exit_code(command)
            _flush()
            return code
    except _Stopped as stop:
        say(_SIGNALS[signal.Signals(stop.number).name])
        return 128 + stop.number
    except Exception as error:
        code = _explain(error)
        with contextlib.suppress(PeelauditError):
            _flush()
        return code


def _exit_code(command: Callable[[], None]) -> int:
    """The exits of typer itself: 0, and 2 for usage. Its 1 is for a closed pipe. Commands of ours raise instead, unless
    they have said already why they aren't completed.
    """
    try:
        command()
    except SystemExit as end:
        return end.code if end.code in (0, 2) and isinstance(end.code, int) else _NOT_COMPLETED
    return 0


def _explain(error: Exception) -> int:
    """Say what went wrong; the exit code."""
    if isinstance(error, SeveralErrors):
        return max(_explain(each) for each in error.errors)
    if isinstance(error, GateFailed):
        say(str(error))
        return error.exit_code
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        say(f"error: {len(error.problems)} {error.heading}")
        for problem in error.problems:
            say(f"  {problem}")
        return error.exit_code
    if isinstance(error, PeelauditError):
        say(f"error: {error}")
        return error.exit_code
    if is_out_of_memory(error):
        say("error: not enough memory; fewer --tokens or a shorter --seq-len need less")
    elif isinstance(error, OSError):
        say(f"error: {error}")
    else:
        import traceback

        for line in "".join(traceback.format_exception(error)).splitlines():
            say(line, name=False)
        say("this is a bug in peelaudit: please report it with the lines above")
    return _NOT_COMPLETED


def say(text: str, *, name: bool = True) -> None:
    """A line on stderr, with control characters spelt out; if there is no stderr any more, nobody to tell."""
    if sys.stderr is None:
        return
    try:
        indented = len(text) - len(text.lstrip(" "))
        prefix = "peelaudit: " if name and not indented else ""
        sys.stderr.write(f"{prefix}{printable(text)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        _silence(sys.stderr)


def write_out(text: str, *, encoding: str = "utf-8") -> None:
    """A result on stdout, whole.

    Raises:
        OutputError: stdout is closed or full.
    """
    try:
        sys.stdout.flush()
        data = text.encode(encoding, "backslashreplace")
        if hasattr(sys.stdout, "buffer"):
            sys.stdout.buffer.write(data)
        else:  # a notebook's
            sys.stdout.write(data.decode(encoding))
    except OSError as error:
        raise _no_output(error) from error
    _flush()


def _flush() -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        raise _no_output(error) from error


def _no_output(error: Exception) -> OutputError:
    # Python flushes stdout once more at exit, and would make exit code 120 of the second failure.
    _silence(sys.stdout)
    reason = (
        "nobody reads it any more" if isinstance(error, BrokenPipeError) else getattr(error, "strerror", None) or error
    )
    return OutputError(f"stdout can't be written: {reason}")


def _silence(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `_Stopped`; one that is ignored (nohup) stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(number)

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    handled = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in handled:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
