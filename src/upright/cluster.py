"""Seeds on a Ray cluster: a task for each, placed by cores, that runs again elsewhere when its worker or node dies.

The machines have the run folder in common, or keep it at a URL. A task that runs again goes on from the newest
checkpoint there, to the bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from upright.config import Config
from upright.errors import MissingExtra, RunError
from upright.folders import environment_name, write_description, write_result
from upright.mirror import Mirror
from upright.pool import SECONDS_BETWEEN_LOOKS, cores
from upright.seeds import Event, Failed, Finished, Records, Task, Warned, outcome
from upright.sources import first_line, told

# Seconds that a task waits for the one before it, whose node was lost, to let go of the seed. Ray ends a process whose
# node it gave up after 60, and NFS lets go of a lock after 90.
PATIENCE = 300.0
SECONDS_TO_ANSWER = 10.0
SECONDS_BETWEEN_PULLS = 10.0


def train_on_cluster(tasks: Sequence[Task], address: str, storage: str | None = None) -> Generator[Event]:
    """Train the tasks on the Ray cluster at this address, and yield what happens; each comes to a Finished or a Failed.

    storage: an fsspec URL below which the seeds keep their folders, where the machines of the cluster have no folder in
    common; each comes to its own folder here when it has ended
    To close the generator, or to raise an exception in it, stops those that train, each with a checkpoint.
    """
    mirrors = {} if storage is None else {task.folder: Mirror(Path(task.folder), url(storage, task)) for task in tasks}
    with connected(address) as ray:
        train = ray.remote(_train)
        running: dict[Any, Task] = {}
        try:
            for task in tasks:
                gpus = 1 if task.config["device"].startswith("cuda") else 0
                # Retried however often: the death of a worker or a node is no fault of the seed's.
                placed = train.options(num_cpus=task.cores, num_gpus=gpus, max_retries=-1, name=task.folder)
                running[placed.remote(task, storage)] = task
            records = {task.folder: Records(task) for task in tasks}
            looked = time.monotonic()
            while running:
                ended, _ = ray.wait(list(running), num_returns=len(running), timeout=SECONDS_BETWEEN_LOOKS)
                if mirrors and time.monotonic() - looked > SECONDS_BETWEEN_PULLS:
                    looked = time.monotonic()
                    for task in running.values():
                        mirrors[task.folder].pull("metrics.jsonl")
                for task in (running[each] for each in ended if mirrors):
                    mirrors[task.folder].pull()
                    write_description(Path(task.folder).parent, task.env, Config.from_dict(task.config))
                for task in running.values():
                    yield from records[task.folder].new()
                for each in ended:
                    yield from _end(ray, each, running.pop(each))
        finally:
            for each in running:
                ray.cancel(each)  # as Ctrl-C does, and so with a checkpoint
            if running:
                ray.wait(list(running), num_returns=len(running))


def url(storage: str, task: Task) -> str:
    """Where a seed keeps its folder: <storage>/<environment>/ and the rest of its last three names.

    Of a sweep or a study these are <sweep>/<point>/seed-<seed>, of an experiment <experiment>/seed-<seed>.
    """
    env, names = environment_name(task.env), Path(task.folder).parts[-3:]
    return "/".join([storage.rstrip("/"), env, *(names[1:] if names[0] == env else names)])


def _end(ray: Any, ended: Any, task: Task) -> Iterator[Event]:
    try:
        message = ray.get(ended)
    except ray.exceptions.RayError as error:
        message = {"failed": f"{type(error).__name__}: {first_line(error)}", "warnings": []}
    for text in message["warnings"]:
        yield Warned(task, text)
    if "finished" in message:
        yield Finished(task, message["finished"])
    else:
        yield Failed(task, message["failed"])


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at this address.

    "auto" is the cluster that this machine is part of, else a new one of this machine alone, and "local" always that.
    Tokens are asked for, unless RAY_AUTH_MODE says otherwise. A new cluster listens to this machine alone, has a token
    of its own and no dashboard, and ends with the block.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # before the import, which reads it
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("Ray is not installed: pip install 'upright[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    if address not in ("auto", "local"):
        _check_that_one_answers(address)
    heeds = signal.getsignal(signal.SIGTERM)
    try:
        if address == "local":
            _start(ray)
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except ray.exceptions.AuthenticationError as error:
        raise RunError(
            f"The Ray cluster at {address} has another token than this machine, if any: copy its ~/.ray/auth_token, or "
            "set RAY_AUTH_TOKEN; --cluster local starts one of this machine alone."
        ) from error
    except Exception as error:  # Ray raises its own, Python's, and Exception itself where a node does not start in time
        if address != "auto" or not isinstance(error, ConnectionError):
            raise RunError(f"The Ray cluster at {address} cannot be used: {first_line(error)}") from error
        _start(ray)
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, heeds)  # which Ray took for itself
        yield ray
    finally:
        ray.shutdown()


def _check_that_one_answers(address: str) -> None:
    """Ray itself would try for 20 minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, ValueError) as error:
        raise RunError(f"No Ray cluster answers at {address} ({error}): give its host:port, or auto.") from error


def _start(ray: Any) -> None:
    """Start a cluster of this machine's cores."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False  # which is Ray's way to listen to no other machine
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # in no file, and no other cluster's
    ray.init("local", num_cpus=cores(), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def _train(task: Task, storage: str | None) -> dict[str, Any]:
    """What a Ray task does: a seed's result, or why it has none."""
    warnings: list[str] = []
    with told(warnings.append):
        message = outcome(task, PATIENCE) if storage is None else _train_apart(task, storage)
    if message.get("signal") == signal.SIGTERM:  # this worker is to go, and the seed is to go on elsewhere
        os._exit(1)
    return {**message, "warnings": warnings}


def _train_apart(task: Task, storage: str) -> dict[str, Any]:
    """Train in a folder of this machine's own, which comes from the storage, and goes there after each checkpoint."""
    with tempfile.TemporaryDirectory(prefix="upright-") as place:
        here = dataclasses.replace(task, folder=str(Path(place, *Path(task.folder).parts[-2:])))
        write_description(Path(here.folder).parent, task.env, Config.from_dict(task.config))
        try:
            mirror = Mirror(Path(here.folder), url(storage, task))
            mirror.pull()
            message = outcome(here, sinks=[mirror])
            if "finished" in message:
                message["finished"]["run"] = task.folder
                write_result(Path(here.folder), message["finished"])
            mirror.push()
        except RunError as error:
            return {"failed": str(error), "signal": None}
    return message
