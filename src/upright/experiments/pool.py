"""Seeds side by side over the cores of this machine: a process for each, of which none knows of another."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from multiprocessing import connection, resource_tracker
from typing import Any

from upright.experiments.seeds import Event, Failed, Finished, Records, Task, Warned, attempt
from upright.messages import GUARD, told

SECONDS_BETWEEN_LOOKS = 0.25  # at the records that the seeds write
PATIENCE = 10.0  # seconds for a process to end when nothing is left for it to do
# So that neither NumPy nor PyTorch starts threads in a process that has one core.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def train_in_processes(tasks: Sequence[Task], jobs: int) -> Generator[Event]:
    """Train the tasks, `jobs` at once, and yield what happens; each comes to a Finished or a Failed.

    To close the generator, or to raise an exception in it, stops those that train, each with a checkpoint.
    """
    waiting = deque(tasks)
    children: list[_Child] = []
    try:
        while waiting or children:
            while waiting and len(children) < jobs:
                children.append(_Child(waiting.popleft()))
                children[-1].start()
            connection.wait([child.pipe for child in children], SECONDS_BETWEEN_LOOKS)
            for child in list(children):
                yield from child.events()
                if child.has_ended:
                    children.remove(child)
    finally:
        _stop(children)


def _stop(children: Sequence[_Child]) -> None:
    """Let them save and end; where that is interrupted too, end them at once: their last checkpoints are whole."""
    started = [child for child in children if child.process.pid is not None]
    try:
        for child in started:
            child.process.terminate()
        for child in started:
            child.process.join()
    finally:
        for child in started:
            child.process.kill()


class _Child:
    """A process that trains one seed, and the end of the pipe on which it says what came of it."""

    def __init__(self, task: Task) -> None:
        self.task, self.has_begun, self.has_ended = task, False, False
        self._records = Records(task)
        self.pipe, self._other = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("spawn")  # a fork would share what the parent holds
        self.process = context.Process(target=_train_in_child, args=(task, self._other), name=f"seed-{task.seed}")

    def start(self) -> None:
        with _for_a_child():
            self.process.start()
        self._other.close()  # so that the pipe ends with the process

    def events(self) -> Iterator[Event]:
        """Yield what it sent and wrote since the last call."""
        said: dict[str, Any] | None = None
        try:
            while said is None and self.pipe.poll():
                message = json.loads(self.pipe.recv_bytes())
                self.has_begun = True
                if "begun" in message:
                    continue
                if "warning" in message:
                    yield Warned(self.task, message["warning"])
                else:
                    said = message
        except (EOFError, OSError):
            self.process.join()
            began = "" if self.has_begun else f" as it began; {GUARD}"
            said = {"failed": f"Its process ended with {_how(self.process.exitcode)}{began}."}
        yield from self._records.new()
        if said is None:
            return
        self.process.join(PATIENCE)  # an environment's own threads may hold it
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.has_ended = True
        if "finished" in said:
            yield Finished(self.task, said["finished"])
        else:
            yield Failed(self.task, said["failed"])


@contextlib.contextmanager
def _for_a_child() -> Iterator[None]:
    """Let a process that is started within the block inherit one thread and no Ctrl-C, which its parent handles."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    masked = None
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # it changes the mask when it starts
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        if masked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        return signal.Signals(-status).name
    return f"exit status {status}"


def _train_in_child(task: Task, pipe: connection.Connection) -> None:
    """Run in the child process."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()

    def say(message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            pipe.send_bytes(json.dumps(message).encode())

    say({"begun": True})
    with told(lambda text: say({"warning": text})):
        say(attempt(task))


def _stop_with_parent() -> None:
    """Stop, with a checkpoint, when the parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)
