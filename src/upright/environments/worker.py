"""An environment in a worker process, which ends with the process that trains and leaves Ctrl-C to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

from upright.environments.environment import Environment

SECONDS_BETWEEN_LOOKS = 1.0  # at whether the process that trains is still there


def make_in_worker(trainer: int, make: Callable[[], Environment]) -> Environment:
    """Make an environment, and let this process end with the one that trains, whose id is `trainer`.

    Gymnasium also calls this in the process that trains, for the environment's spaces, where nothing else is done.
    """
    if os.getpid() != trainer:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that trains closes its workers
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_end_with_parent, daemon=True).start()
    return make()


def _end_with_parent() -> None:
    """End this process when the one that trains was killed.

    Its pipes tell nothing where workers are forked, because each holds copies of the pipes of those before it. There,
    and where they are spawned, the parent's id changes; a fork server is a parent that ends with the one that trains.
    """
    parent, trainer = os.getppid(), multiprocessing.parent_process()
    assert trainer is not None
    while os.getppid() == parent and trainer.is_alive():
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)
