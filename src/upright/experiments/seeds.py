"""One seed of an experiment, trained from its current state to its result, and the events that report it.

A `Task` is plain values, so that any process, here or elsewhere, can be handed one; `train_seed` does it. Whoever hands
tasks out (`upright.experiments.pool`, `upright.experiments.cluster`) yields events.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upright import files
from upright.comparison.summary import Result
from upright.errors import FolderInUse, RunError, UprightError
from upright.messages import first_line
from upright.result import Ended, train_to_result
from upright.runs import records
from upright.runs.description import is_complete, is_same
from upright.runs.folders import RunFolder
from upright.runs.metrics import Sink, TensorBoard
from upright.runs.run import Run
from upright.settings.config import Config

SECONDS_BETWEEN_TRIES = 1.0  # to take up a seed that another process holds


@dataclass(frozen=True)
class Task:
    """A seed to be trained: values that JSON holds, so that any process can do it.

    env: a Gymnasium id, "module:Id" or "module:Class" · config: what `Config.to_dict` gives
    folder: the run's, runs/<env>/<experiment>/seed-<seed> · preset: where the settings started from, for the result
    """

    env: str
    config: Mapping[str, Any]
    seed: int
    folder: str
    preset: str | None = None
    tensorboard: bool = False

    @property
    def place(self) -> RunFolder:
        """The names of the files in its folder."""
        return RunFolder(Path(self.folder))

    @property
    def cores(self) -> int:
        """The cores that it keeps busy: one, or as many as it has workers of its own."""
        return int(self.config["num_envs"]) if self.config["vectorization_mode"] == "async" else 1


@dataclass(frozen=True)
class Reported:
    """A record of a seed that trains: metrics by SB3's tag, as metrics.jsonl has them."""

    task: Task
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Warned:
    """A warning for the user about a seed."""

    task: Task
    text: str


@dataclass(frozen=True)
class Finished:
    """A seed's result, as result.json has it."""

    task: Task
    result: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """Why a seed has no result, in one sentence."""

    task: Task
    reason: str


Event = Reported | Warned | Finished | Failed


def train_seed(task: Task, sinks: Sequence[Sink] = ()) -> Ended:
    """Train a seed to its result, from its newest checkpoint if it has one; a result that is there is taken as it is.

    SIGTERM or SIGINT stops it with a checkpoint and without a whole evaluation. Raises UprightError, and FolderInUse
    where another process trains this seed.
    """
    config = Config.from_dict(task.config)
    found = finished(task)
    if found is not None:
        return Ended(found, None, None)
    began, place = time.perf_counter(), task.place
    folder = place.path
    sinks = [TensorBoard(place.tensorboard), *sinks] if task.tensorboard else sinks
    if place.has_checkpoint:
        run = Run.open(folder, source=task.env, config=config)
        if run.seed != task.seed:
            run.close()
            raise RunError(f"{folder} holds the run of another seed, {run.seed}; choose another folder (--out).")
    else:
        if place.is_taken():
            place.clear_unbegun()
        run = Run(task.env, config, task.seed, folder)
    return train_to_result(run, began, task.preset, sinks, hasty=False)


def attempt(task: Task, patience: float = 0.0, sinks: Sequence[Sink] = ()) -> dict[str, Any]:
    """Do a task, and return as JSON {"finished": result}, or {"failed": why, "signal": the number or None}.

    patience: seconds to wait for another process that trains this seed
    """
    end = time.monotonic() + patience
    while True:
        try:
            ended = train_seed(task, sinks)
        except FolderInUse as error:
            if time.monotonic() < end:
                time.sleep(SECONDS_BETWEEN_TRIES)
                continue
            return {"failed": str(error), "signal": None}
        except UprightError as error:
            return {"failed": str(error), "signal": None}
        except Exception as error:
            traceback.print_exc()
            return {"failed": f"{type(error).__name__}: {first_line(error)}", "signal": None}
        if not is_complete(ended.result, Config.from_dict(task.config)):  # stopped by a signal, or by the dashboard
            where = f"at step {ended.result['steps']:,}"
            if ended.evaluation is not None:
                where += ", in its final evaluation"
            return {"failed": f"It was stopped {where}, with a checkpoint.", "signal": ended.signal}
        return {"finished": ended.result}


def finished(task: Task) -> dict[str, Any] | None:
    """The result that a seed has come to already with these settings, or None; without `n_final_episodes` no score."""
    place, config = task.place, Config.from_dict(task.config)
    if not place.result.exists() or not is_same(place.experiment.config, task.env, config):
        return None
    try:
        written = files.read_json(place.result)
        if not is_complete(written, config) or written.get("seed") != task.seed:
            return None
        if config.n_final_episodes == 0:
            return written
        result = Result.from_dict(written)
    except (RunError, ValueError):
        return None
    return written if "solved" in written and written["solved"] is result.solved else None


class Records:
    """The records in a seed's metrics.jsonl while another process writes it, each once, in the order of their steps."""

    def __init__(self, task: Task) -> None:
        self._task, self._path = task, task.place.metrics
        self._read, self._step = 0, 0

    def new(self) -> Iterator[Reported]:
        """Yield those written since the last call. A run that was resumed writes some again, bit for bit."""
        try:
            first, content = files.read_from(self._path, self._read)
        except RunError:  # it is not there yet
            return
        whole = records.whole_lines(content)
        self._read = first + len(whole)
        for line in map(records.parse, whole.splitlines()):
            if line is None or records.is_episode(line):  # None where the file was cut within what was read
                continue
            step, metrics = line[records.STEP], records.numbers(line)
            if metrics and step > self._step:
                self._step = step
                yield Reported(self._task, step, metrics)
