"""Seeds on a Ray cluster: a task for each, placed by cores, that runs again elsewhere when its worker or node dies.

The machines have the run folder in common, or keep it at a URL. A task that runs again resumes from the newest
checkpoint there, bit for bit.
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

from upright.errors import MissingExtra, RunError, UprightError
from upright.experiments.mirror import Mirror
from upright.experiments.pool import SECONDS_BETWEEN_LOOKS
from upright.experiments.seeds import Event, Failed, Finished, Records, Task, Warned, attempt
from upright.files import LOCK, lock, remove
from upright.machine import cores
from upright.messages import first_line, told
from upright.runs.description import is_same, write_description, write_result
from upright.runs.folders import ExperimentFolder, environment_name
from upright.settings.config import Config

# Seconds that a task waits for the one before it, whose node was lost, to release the seed (Ray ends a process whose
# node it gave up after 60, and NFS lets go of a lock after 90), or for the storage to take a seed that is trained.
PATIENCE = 300.0
SECONDS_TO_ANSWER = 10.0
SECONDS_BETWEEN_PULLS = 10.0
OWN_FOLDER = "upright-seed-"  # how the name of a temporary folder begins in which a seed trains


def train_on_cluster(tasks: Sequence[Task], address: str, storage: str | None = None) -> Generator[Event]:
    """Train the tasks on the Ray cluster at this address, and yield what happens; each comes to a Finished or a Failed.

    storage: an fsspec URL below which the seeds keep their folders, where the machines of the cluster have no folder in
    common; each comes to its own folder here when it has ended
    To close the generator, or to raise an exception in it, stops those that train, each with a checkpoint.
    """
    mirrors = {} if storage is None else {task.folder: Mirror(Path(task.folder), url(storage, task)) for task in tasks}
    experiments = {url(storage, task).rpartition("/")[0]: task for task in tasks} if storage is not None else {}
    for place, task in experiments.items():
        _refuse_another(place, task)
    with connected(address) as ray:
        for place, task in experiments.items():
            _claim(place, task)
        train = ray.remote(_train_on_worker)
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
                        with contextlib.suppress(RunError):  # it is only shown
                            mirrors[task.folder].pull(task.place.metrics.name)
                apart = {}
                for task in (running[each] for each in ended if mirrors):
                    try:
                        mirrors[task.folder].pull(patience=SECONDS_TO_ANSWER)
                    except RunError as error:
                        apart[task.folder] = str(error)
                for task in running.values():
                    yield from records[task.folder].new()
                for each in ended:
                    task = running.pop(each)
                    yield from _end(ray, each, task, apart.get(task.folder))
        finally:
            for each in running:
                ray.cancel(each)  # as Ctrl-C does, and so with a checkpoint
            if running:
                ray.wait(list(running), num_returns=len(running))


def url(storage: str, task: Task) -> str:
    """Return the URL of a seed's folder: <storage>/<environment>/ and the rest of its last three names.

    Of a sweep or a study these are <sweep>/<point>/seed-<seed>, of an experiment <experiment>/seed-<seed>.
    """
    env, names = environment_name(task.env), Path(task.folder).parts[-3:]
    return "/".join([storage.rstrip("/"), env, *(names[1:] if names[0] == env else names)])


def _refuse_another(experiment: str, task: Task) -> None:
    """Raise RunError where this URL holds another experiment than the task's, or does not answer."""
    with tempfile.TemporaryDirectory() as place:
        path = ExperimentFolder(Path(place)).config
        Mirror(Path(place), experiment).pull(path.name, patience=SECONDS_TO_ANSWER)
        if path.exists() and not is_same(path, task.env, Config.from_dict(task.config)):
            raise RunError(
                f"{experiment} holds an experiment with another environment or other settings; choose another "
                "--storage-url, or another folder (--out)."
            )


def _claim(experiment: str, task: Task) -> None:
    """Write an experiment's config.json at its URL and here, by which it is known again in both places."""
    config = Config.from_dict(task.config)
    with tempfile.TemporaryDirectory() as place:
        write_description(ExperimentFolder(Path(place)).config, task.env, config)
        Mirror(Path(place), experiment).push(patience=SECONDS_TO_ANSWER)
    write_description(task.place.experiment.config, task.env, config)


def _end(ray: Any, ended: Any, task: Task, apart: str | None) -> Iterator[Event]:
    """Yield the last events of a task. apart: why its folder could not be brought here, if it could not"""
    try:
        message = ray.get(ended)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error  # what a task raised; the first line of Ray's own names it not
        message = {"failed": f"{type(cause).__name__}: {first_line(cause)}", "warnings": []}
    for text in message["warnings"]:
        yield Warned(task, text)
    if "finished" in message and apart is None:
        yield Finished(task, message["finished"])
    else:
        yield Failed(task, " ".join(filter(None, (message.get("failed"), apart))))


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at this address.

    "auto" is the cluster that this machine is part of, else a new one of this machine alone, and "local" always that.
    Tokens are asked for, unless RAY_AUTH_MODE says otherwise. A new cluster listens to this machine alone, has a token
    of its own and no dashboard, and ends with the block.
    """
    ray = _imported()
    if ray.is_initialized():
        yield ray
        return
    _check_that_tokens_are_asked_for()
    if address not in ("auto", "local"):
        _check_that_one_answers(address)
    heeds = signal.getsignal(signal.SIGTERM)
    with _as_it_was():
        try:
            _connect(ray, address)
        except ray.exceptions.AuthenticationError as error:
            raise RunError(
                f"The Ray cluster at {address} has another token than this machine, if any: copy its "
                "~/.ray/auth_token, or set RAY_AUTH_TOKEN; --cluster local starts one of this machine alone."
            ) from error
        except Exception as error:  # Ray raises its own, Python's, and Exception itself where a node starts too late
            raise RunError(f"The Ray cluster at {address} cannot be used: {first_line(error)}") from error
        try:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, heeds)  # which Ray took for itself
            yield ray
        finally:
            ray.shutdown()


def _imported() -> Any:
    """Ray, which reads as it is imported, and never again, whether tokens are asked for."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("Ray is not installed: pip install 'upright[ray]'") from error
    return ray


def _check_that_tokens_are_asked_for() -> None:
    from ray._raylet import AuthenticationMode, get_authentication_mode  # type: ignore[attr-defined]

    if os.environ["RAY_AUTH_MODE"] == "token" and get_authentication_mode() != AuthenticationMode.TOKEN:
        raise RunError(
            "Ray was imported before it was told to ask for tokens: set RAY_AUTH_MODE=token before Python starts, or "
            "disabled where nobody else reaches its ports."
        )


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Give this process the token and the constant back that it had before a cluster was started in it."""
    from ray._private import ray_constants

    token, enabled = os.environ.get("RAY_AUTH_TOKEN"), ray_constants.ENABLE_RAY_CLUSTER
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        _set_token(token)


def _set_token(token: str | None) -> None:
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    os.environ.pop("RAY_AUTH_TOKEN", None)
    if token is not None:
        os.environ["RAY_AUTH_TOKEN"] = token
    AuthenticationTokenLoader.instance().reset_cache()  # it reads the variable once


def _connect(ray: Any, address: str) -> None:
    if address == "local":
        return _start(ray)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        if address != "auto":
            raise
        _start(ray)


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
    _set_token(secrets.token_hex(32))  # in no file, and no other cluster's
    ray.init("local", num_cpus=cores(), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def _train_on_worker(task: Task, storage: str | None) -> dict[str, Any]:
    """Run as a Ray task: return a seed's result, or why it has none."""
    warnings: list[str] = []
    with told(warnings.append):
        message = attempt(task, PATIENCE) if storage is None else _train_apart(task, storage)
    if message.get("signal") == signal.SIGTERM:  # this worker is to go, and the seed is to go on elsewhere
        os._exit(1)
    return {**message, "warnings": warnings}


def _train_apart(task: Task, storage: str) -> dict[str, Any]:
    """Train in a folder of this machine's own, which comes from the storage, and goes there after each checkpoint."""
    try:
        with _own_folder() as place:
            here = dataclasses.replace(task, folder=str(Path(place, *Path(task.folder).parts[-2:])))
            write_description(here.place.experiment.config, task.env, Config.from_dict(task.config))
            mirror = Mirror(Path(here.folder), url(storage, task))
            mirror.pull(patience=SECONDS_TO_ANSWER)
            message = attempt(here, sinks=[mirror])
            try:
                if "finished" in message:
                    message["finished"]["run"] = task.folder
                    write_result(here.place.result, message["finished"])
                mirror.push(patience=PATIENCE)
            except RunError as error:
                why = message.get("failed", "It came to its end.")
                return {"failed": f"{why} {error}", "signal": message.get("signal")}
            return message
    except UprightError as error:
        return {"failed": str(error), "signal": None}


@contextlib.contextmanager
def _own_folder() -> Iterator[Path]:
    """A temporary folder of this process; those that killed processes have left on this machine are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{OWN_FOLDER}*"):
        with contextlib.suppress(OSError, RunError):  # another user's, or in use
            if (left / LOCK).is_file() and time.time() - left.stat().st_mtime > PATIENCE:
                held = lock(left)
                remove(left)
                held.release()
    with tempfile.TemporaryDirectory(prefix=OWN_FOLDER, ignore_cleanup_errors=True) as place:
        held = lock(Path(place))
        try:
            yield Path(place)
        finally:
            held.release()
