"""The worker process that plays the episodes which the pages ask for, and what it is asked for.

So training pays nothing for it, and a page that asks for another moment does not wait for an environment that hangs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from upright.errors import EnvironmentFault, UprightError

PATIENCE = 120.0  # seconds for the next sign of life of a worker: importing PyTorch takes long on a busy machine


@dataclass(frozen=True)
class Wish:
    """An episode to be played: the folder of a run, one of its moments, the number of an evaluation episode."""

    folder: Path
    moment: str
    episode: int
    trust: bool


class Player:
    """Keeps one worker process, which plays one episode at a time."""

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Connection | None = None
        self._turn = threading.Lock()
        self._changing = threading.RLock()  # held while the worker is started or ended

    def play(self, wish: Wish, report: Callable[[int], None]) -> tuple[dict[str, Any], list[bytes]]:
        """As `play` above, in the worker. Raises UprightError, also when the worker hangs or dies."""
        with self._turn:
            connection = self._ready()
            try:
                connection.send(wish)
                while True:
                    if not connection.poll(PATIENCE):
                        raise EnvironmentFault(
                            f"The environment has not answered for {PATIENCE:.0f} seconds; its worker was ended."
                        )
                    kind, value = connection.recv()
                    if kind == "steps":
                        report(value)
                    elif kind == "failed":
                        raise UprightError(value)
                    else:
                        shown, pictures = value
                        return shown, pictures
            except (EOFError, OSError) as error:
                self.close()
                raise EnvironmentFault("The process that plays the episode died; try another moment.") from error
            except EnvironmentFault:
                self.close()
                raise

    def prepare(self) -> None:
        """Start the worker, so that it has loaded what it needs by the time that somebody presses play."""
        if self._turn.acquire(blocking=False):
            try:
                self._ready()
            finally:
                self._turn.release()

    def close(self) -> None:
        """End the worker."""
        with self._changing:
            if self._process is not None:
                self._process.kill()
                self._process.join(5)
            if self._connection is not None:
                self._connection.close()
            self._process = self._connection = None

    def _ready(self) -> Connection:
        with self._changing:
            if self._process is not None and self._process.is_alive() and self._connection is not None:
                return self._connection
            self.close()
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
            return self._connection


def _work(connection: Connection) -> None:
    """Play what comes through the pipe until it closes, with one thread and behind whatever trains here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(OMP_NUM_THREADS="1", SDL_VIDEODRIVER="dummy", CUDA_VISIBLE_DEVICES="")
    if hasattr(os, "nice"):
        os.nice(5)
    warnings.simplefilter("ignore")
    from upright.dashboard.playing import play  # here, so that it is loaded before somebody presses play

    sys.path.append(str(Path.cwd()))  # as for the command line: where module:Class may be
    while True:
        try:
            wish = connection.recv()
        except (EOFError, OSError):
            return
        try:
            connection.send(("done", play(wish, lambda steps: connection.send(("steps", steps)))))
        except BrokenPipeError:
            return
        except UprightError as error:
            connection.send(("failed", str(error)))
        except ImportError as error:
            connection.send(("failed", f"{error}; pip install 'upright[render]'"))
        except Exception as error:
            connection.send(("failed", f"The environment failed: {type(error).__name__}: {error}"))
