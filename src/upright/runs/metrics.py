"""The reports of a run, under SB3's tags, and the files that keep them: JSON lines, TensorBoard."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from upright.errors import MissingExtra, RunError
from upright.files import is_own_file
from upright.messages import logger
from upright.runs import records
from upright.state import check_counts

if TYPE_CHECKING:
    from upright.environments.vectors import Outcome

READ_AT_ONCE = 2**20  # bytes
WINDOW = 100  # episodes in rollout/ep_rew_mean, rollout/ep_len_mean and rollout/success_rate, as in SB3


@dataclass(frozen=True)
class Episode:
    """One ended episode: the run's step at its end, its environment, undiscounted return and length in steps."""

    step: int
    env: int
    reward: float
    length: int


@dataclass(frozen=True)
class Progress:
    """A report, which `train` yields every `log_interval` steps, and once at the end.

    step, total: steps so far, and to go to · episodes: those that ended since the last one
    metrics: by SB3's tag; train/… only after the first update, rollout/ep_… only after the first episode,
    rollout/success_rate only where the environment says which episodes succeeded
    """

    step: int
    total: int
    episodes: tuple[Episode, ...]
    metrics: dict[str, float]


class EpisodeStatistics:
    """Counts returns and lengths of E environments while their episodes run.

    count: episodes so far · new: those that nobody has taken yet
    """

    def __init__(self, num_envs: int) -> None:
        self._num_envs = num_envs
        self._recent: deque[Episode] = deque(maxlen=WINDOW)
        self._successes: deque[bool] = deque(maxlen=WINDOW)
        self.new: list[Episode] = []
        self.count = 0
        self.forget_running()

    def add(self, step: int, outcome: Outcome) -> None:
        """Take what one step of every environment led to."""
        for i, reward in enumerate(outcome.reward):
            if outcome.valid[i]:
                self._reward[i] += reward
                self._length[i] += 1
                if outcome.terminated[i] or outcome.truncated[i]:
                    episode = Episode(step, i, self._reward[i], self._length[i])
                    self._recent.append(episode)
                    self.new.append(episode)
                    self.count += 1
                    if (success := outcome.success[i]) is not None:
                        self._successes.append(success)
                    self._reward[i], self._length[i] = 0.0, 0

    def forget_running(self) -> None:
        """Count from 0 again in every environment."""
        self._reward, self._length = [0.0] * self._num_envs, [0] * self._num_envs

    def forget(self, env: int) -> None:
        """Count from 0 again in one environment."""
        self._reward[env], self._length[env] = 0.0, 0

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays; an episode is a row of step, environment, return and length."""
        return {
            "reward": np.array(self._reward),
            "length": np.array(self._length, np.int64),
            "count": np.array(self.count),
            "recent": _rows(self._recent),
            "new": _rows(self.new),
            "successes": np.array(self._successes, np.bool_),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from what `state` returned. Raises ValueError for what it cannot have returned."""
        check_counts("count", state["count"])
        check_counts("length", state["length"], (self._num_envs,))
        if state["reward"].shape != (self._num_envs,) or state["reward"].dtype != np.float64:
            raise ValueError(f"its reward is {state['reward'].dtype} {state['reward'].shape}")
        self._reward, self._length = state["reward"].tolist(), state["length"].tolist()
        self.count = int(state["count"])
        self._recent.clear()
        self._recent.extend(_episodes(state["recent"]))
        self.new = _episodes(state["new"])
        successes = state.get("successes", np.zeros(0, np.bool_))  # older checkpoints have none
        if successes.ndim != 1 or successes.dtype != np.bool_:
            raise ValueError(f"its successes are {successes.dtype} {successes.shape}")
        self._successes.clear()
        self._successes.extend(successes.tolist())

    def take(self) -> tuple[Episode, ...]:
        """The episodes that ended since the last call."""
        new, self.new = tuple(self.new), []
        return new

    def means(self) -> dict[str, float]:
        """rollout/ep_rew_mean and rollout/ep_len_mean over the last 100 episodes.

        And rollout/success_rate over the last 100 of which the environment said whether they succeeded.
        """
        if not self._recent:
            return {}
        means = {
            "rollout/ep_rew_mean": float(np.mean([episode.reward for episode in self._recent])),
            "rollout/ep_len_mean": float(np.mean([episode.length for episode in self._recent])),
        }
        if self._successes:
            means["rollout/success_rate"] = float(np.mean(self._successes))
        return means


def _rows(episodes: Iterable[Episode]) -> np.ndarray:
    rows = [(episode.step, episode.env, episode.reward, episode.length) for episode in episodes]
    return np.array(rows, np.float64).reshape(-1, 4)


def _episodes(rows: np.ndarray) -> list[Episode]:
    if rows.ndim != 2 or rows.shape[1] != 4 or not (np.abs(rows[:, [0, 1, 3]]) < 2**53).all():
        raise ValueError("its episodes are none")
    return [Episode(int(step), int(env), reward, int(length)) for step, env, reward, length in rows.tolist()]


class Sink(Protocol):
    """Takes what a run reports."""

    def write(self, progress: Progress) -> None:
        """Take one report."""

    def close(self) -> None:
        """Flush and close."""


class JsonLines:
    """metrics.jsonl: a line for each episode, then a line for the record (see `upright.runs.records`), by their steps.

    size, sha256: of what was given to it so far. Where the disk is full, lines wait in memory for the next try.
    """

    def __init__(self, path: Path, size: int = 0, sha256: str | None = None) -> None:
        """Begin a new file, or continue after the first `size` bytes of one, whose digest was `sha256`."""
        self._path = path
        self._waiting = b""
        self._is_full = False
        self._hash = hashlib.sha256()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # O_NONBLOCK for a pipe, which would wait for its other end; a regular file does not mind.
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            self._file = open(os.open(path, flags, 0o666), "r+b", buffering=0)
            if not is_own_file(os.fstat(self._file.fileno())):
                self._file.close()
                raise RunError(f"{path} is no file, or has another name elsewhere (a hard link); copy the folder.")
            self.size = 0
            while kept := self._file.read(min(size - self.size, READ_AT_ONCE)):
                self._hash.update(kept)
                self.size += len(kept)
            if sha256 is not None and self._hash.hexdigest() != sha256:
                logger.warning(f"{path} is not what this run wrote up to its checkpoint; it continues after that.")
            self._file.truncate(self.size)
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}; choose another folder (--out).") from error

    @property
    def sha256(self) -> str:
        """The digest of all that was given to it."""
        return self._hash.hexdigest()

    def write(self, progress: Progress) -> None:
        lines = list(map(records.episode_line, progress.episodes))
        if progress.metrics:
            lines.append(records.record_line(progress))
        self.write_lines(lines)

    def write_lines(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append an object a line."""
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        self._hash.update(text)
        self.size += len(text)
        self._waiting += text
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            self._is_full = False
        except OSError as error:
            if not self._is_full:
                logger.warning(
                    f"{self._path} cannot be written: {error.strerror}; training continues, and its lines wait in "
                    "memory until there is room."
                )
            self._is_full = True

    def sync(self) -> None:
        """Put all on to the disk. Raises RunError when something waits for room."""
        self.write_lines([])
        try:
            if self._waiting:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(f"{self._path} cannot be written: {error.strerror}; make room for it.") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written was said when it was tried
            self._file.close()


class TensorBoard:
    """Event files with SB3's tags, in a folder that is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError as error:
            raise MissingExtra("TensorBoard is not installed: pip install 'upright[tensorboard]'") from error
        self._open: Callable[[], Any] = lambda: Writer(str(folder))
        self._writer: Any = None

    def write(self, progress: Progress) -> None:
        self._writer = self._writer or self._open()
        for tag, value in progress.metrics.items():
            self._writer.add_scalar(tag, value, progress.step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
