"""What transformers says of what it is given, kept from a terminal."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

__all__ = ["unheard"]


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Transformers' warnings are not for a user's terminal: they hold the file's own strings as they are, of which one
    may be an escape code or a command to a build server.
    """
    logger = logging.getLogger("transformers")
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [logging.NullHandler()], False  # a level would be told to thousands of loggers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.handlers, logger.propagate = before
