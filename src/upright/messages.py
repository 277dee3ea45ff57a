"""The logger, and the wording that messages have in common."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger("upright")

# For a script that starts processes as it is imported, which each of them does again.
GUARD = 'a script that trains needs `if __name__ == "__main__":` around that, for each process imports it'


@contextmanager
def told(say: Callable[[str], None], level: int = logging.WARNING) -> Iterator[None]:
    """Pass what is logged within the block, from this level on, to `say` and to no other handler."""
    handler = logging.Handler()
    handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
    before, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagate


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type if it has none."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def end_unguarded_process() -> None:
    """End a process that begins to train while it imports the script that started it: the one that did says why."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)
