"""The files of a run while it trains: `Disk`, or `NoDisk` for a run without a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import filelock
import numpy as np

from upright import files
from upright.agent import Agent
from upright.environments.sources import EnvironmentSource
from upright.errors import RunError
from upright.messages import logger
from upright.replay import Ring
from upright.runs import control
from upright.runs.checkpoint import CHECKPOINT_SCHEMA, Checkpoints
from upright.runs.description import is_same, write_description, write_result
from upright.runs.folders import RunFolder
from upright.runs.metrics import JsonLines, Progress
from upright.runs.resume import Found
from upright.settings.config import Config


class RunDisk(Protocol):
    """The place where a run is kept: a folder, or nowhere. checkpointed: the step of the newest checkpoint, or None"""

    @property
    def folder(self) -> Path | None: ...

    checkpointed: int | None

    def lacks(self, step: int) -> bool:
        """Return True if a checkpoint of this step would be a new one."""

    def checkpoint(self, step: int, about: Mapping[str, Any], state: Mapping[str, np.ndarray], ring: Ring) -> None:
        """Write a checkpoint; where the disk does not take it, log that, and keep those that there are."""

    def describe(self, source: EnvironmentSource, config: Config) -> None:
        """Write the experiment's config.json."""

    def write(self, progress: Progress) -> None:
        """Append a report to the metrics."""

    def write_lines(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append these objects to the metrics."""

    def save(self, agent: Agent) -> None:
        """Write the policy as it is now."""

    def save_best(self, agent: Agent) -> bool:
        """Write the policy as the best so far; False, with a warning, where the disk does not take it."""

    def save_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json."""

    def take_request(self) -> control.Request | None:
        """Return what another process asked of the run since the last call."""

    def discard(self) -> None:
        """Remove the folder of a new run, and the experiment's if it holds no other; a resumed run's stays."""

    def close(self) -> None:
        """Close the files and release the folder."""


class NoDisk:
    """Keeps nothing."""

    folder = None
    checkpointed: int | None = None

    def lacks(self, step: int) -> bool:
        return False

    def checkpoint(self, step: int, about: Mapping[str, Any], state: Mapping[str, np.ndarray], ring: Ring) -> None:
        pass

    def describe(self, source: EnvironmentSource, config: Config) -> None:
        pass

    def write(self, progress: Progress) -> None:
        pass

    def write_lines(self, lines: Iterable[Mapping[str, Any]]) -> None:
        pass

    def save(self, agent: Agent) -> None:
        pass

    def save_best(self, agent: Agent) -> bool:
        return True

    def save_result(self, result: Mapping[str, Any]) -> None:
        pass

    def take_request(self) -> control.Request | None:
        return None

    def discard(self) -> None:
        pass

    def close(self) -> None:
        pass


class Disk:
    """A run's folder, which this process alone trains in until `close`."""

    def __init__(self, place: RunFolder, lock: filelock.BaseFileLock, keep_checkpoints: int) -> None:
        self.place, self.folder = place, place.path
        self.checkpointed: int | None = None
        self._lock: filelock.BaseFileLock | None = lock
        self._checkpoints = Checkpoints(place.path, keep_checkpoints)
        self._metrics: JsonLines | None = None
        self._is_new = False

    @classmethod
    def claim(cls, folder: Path, source: EnvironmentSource, config: Config) -> Disk:
        """Make the folder of a new run. Raises RunError where it holds one, or its experiment has other settings."""
        place = RunFolder(folder)
        refusal = RunError(
            f"{folder} already holds a run: resume it (upright resume, or upright.Run.open in Python), or "
            "choose another seed (--seed) or folder (--out, or folder=)."
        )
        files.refuse_link(folder)
        if place.is_taken():
            raise refusal
        experiment = place.experiment
        if experiment.config.exists() and not is_same(experiment.config, source, config):
            raise RunError(
                f"{experiment.path} holds an experiment with another environment or other settings; "
                "choose another folder (--out, or folder= in Python)."
            )
        try:
            files.make_folder(folder)
        except OSError as error:
            raise RunError(f"{folder} cannot be made: {error.strerror}; choose another folder (--out).") from error
        disk = cls(place, files.lock(folder), config.keep_checkpoints)
        if place.is_taken():  # by another process, since the first look
            disk.close()
            raise refusal
        disk._is_new = True
        try:
            disk.announce()  # before there is a file by which others find it
            disk._metrics = JsonLines(place.metrics)
            disk.describe(source, config)
        except BaseException:
            disk.discard()
            raise
        return disk

    @classmethod
    def reopen(cls, found: Found) -> Disk:
        """Continue in the folder of a run that is resumed."""
        disk = cls(found.place, found.lock, found.config.keep_checkpoints)
        disk._checkpoints.adopt(found.checkpoint)
        disk.checkpointed = found.step
        disk._metrics = JsonLines(found.place.metrics, found.metrics_size, found.metrics_sha256)
        return disk

    def announce(self) -> None:
        """Let other processes see who trains here."""
        control.announce(self.place)

    @property
    def metrics(self) -> JsonLines:
        """The open metrics.jsonl."""
        assert self._metrics is not None, "a disk is claimed or reopened"
        return self._metrics

    def lacks(self, step: int) -> bool:
        return self.checkpointed != step

    def checkpoint(self, step: int, about: Mapping[str, Any], state: Mapping[str, np.ndarray], ring: Ring) -> None:
        try:
            self.metrics.sync()
            written = {"size": self.metrics.size, "sha256": self.metrics.sha256}
            self._checkpoints.save(step, {**about, "schema": CHECKPOINT_SCHEMA, "metrics": written}, state, ring)
        except (RunError, OSError) as error:
            logger.warning(f"No checkpoint at step {step:,}: {error} Training continues.")
            return
        self.checkpointed = step

    def describe(self, source: EnvironmentSource, config: Config) -> None:
        write_description(self.place.experiment.config, source, config)

    def write(self, progress: Progress) -> None:
        self.metrics.write(progress)

    def write_lines(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self.metrics.write_lines(lines)

    def save(self, agent: Agent) -> None:
        files.refuse_link(self.place.policy)
        agent.save(self.place.policy)

    def save_best(self, agent: Agent) -> bool:
        try:
            files.refuse_link(self.place.best)
            agent.save(self.place.best)
        except RunError as error:
            logger.warning(f"The best policy so far is not kept: {error} Training continues.")
            return False
        return True

    def save_result(self, result: Mapping[str, Any]) -> None:
        write_result(self.place.result, result)

    def take_request(self) -> control.Request | None:
        return control.take_request(self.place)

    def discard(self) -> None:
        self.close()
        if self._is_new:
            self.place.remove()

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        if self._lock is not None:
            control.withdraw(self.place)
            self._lock.release()
            self._lock = None  # closed again, it leaves the next process's marker alone
