"""What the processes that a batch starts have in common: they leave when told to, and with the one that started them.

However that one ends, none is left behind.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

__all__ = ["PATIENCE_S", "death", "follow_parent", "heed_sigterm", "stop"]

PATIENCE_S = 5.0
"""What a process has to leave in, once it was told to or has nothing more to do."""


def stop(processes: Iterable[BaseProcess]) -> None:
    """End the processes, with force those that don't heed."""
    left = list(processes)
    for process in left:
        process.terminate()
    for process in left:
        process.join(PATIENCE_S)
        if process.is_alive():
            process.kill()
            process.join()


def death(exit_code: int) -> str:
    """What became of a process that ended without a result, as a sentence."""
    if exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return (
            "its process was killed (SIGKILL), as the system does when memory runs out; fewer --tokens, a shorter "
            "--seq-len or fewer --jobs need less"
        )
    if exit_code < 0:
        return f"its process died of {signal.Signals(-exit_code).name}"
    return f"its process ended without a result (exit code {exit_code})"


def follow_parent() -> None:
    """Make this process, a child, end when `stop` says so or its parent is gone; called first in it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process stops the others
    heed_sigterm()
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def heed_sigterm() -> None:
    """SIGTERM ends this process, as an exception, so that temporary files are removed on the way out."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would cut the way out short
    raise SystemExit(128 + number)
