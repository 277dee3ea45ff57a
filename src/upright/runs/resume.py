"""A run as it is found on disk to be resumed: the newest whole checkpoint, and what its files say of the run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from upright import files
from upright.environments.sources import EnvironmentSource
from upright.environments.trust import allowed_source, named_environment
from upright.errors import EnvironmentFault, RunError, SettingError, UprightError, wrong
from upright.evaluation import check_seed
from upright.replay import Ring
from upright.runs.checkpoint import Checkpoint, Checkpoints
from upright.runs.folders import RunFolder
from upright.settings.config import Config
from upright.state import check_counts

MOST_ENVIRONMENTS = 64  # and worker processes, that a file that is not trusted may start
ONLINE = "learner/online/"  # how the names of the online parameters begin among a checkpoint's arrays


@dataclass(frozen=True)
class Found:
    """A run that can be resumed, whose folder this process holds by `lock`.

    source, config, seed: of the run, with what the caller gave instead · metrics_size, metrics_sha256: of the metrics
    that were written before the checkpoint · elapsed: seconds that the run had taken
    """

    place: RunFolder
    lock: filelock.BaseFileLock
    checkpoint: Checkpoint
    source: EnvironmentSource
    config: Config
    seed: int
    metrics_size: int
    metrics_sha256: str
    elapsed: float

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return int(self.checkpoint.about["step"])

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The online parameters by name."""
        arrays = self.checkpoint.arrays.items()
        return {name.removeprefix(ONLINE): array for name, array in arrays if name.startswith(ONLINE)}

    @contextlib.contextmanager
    def fitting(self) -> Iterator[None]:
        """Turn what is raised by arrays that do not belong to this run into a RunError."""
        try:
            yield
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise self.misfit(error) from error

    def misfit(self, error: Exception) -> RunError:
        """Return the error for arrays that do not belong to this run."""
        return RunError(f"The checkpoint {self.step:,} in {self.place.path} does not fit its run: {error}.")

    def restore_rows(self, ring: Ring) -> None:
        """Read the replay memory's rows."""
        Checkpoints(self.place.path, 1).restore_rows(self.checkpoint, ring)

    def check_rows(self, ring: Ring, num_actions: int) -> None:
        """Raise ValueError unless the memory's rows are all there, and all of its actions are the environment's."""
        segments = self.checkpoint.segments
        if len(ring) and not (segments and segments[-1].end == ring.pushed):
            raise ValueError(f"its segments do not end with transition {ring.pushed}")
        if len(ring) and segments[0].first > ring.pushed - len(ring):
            raise ValueError(f"its segments begin with transition {segments[0].first}")
        check_counts("actions", ring.columns.action[: len(ring)], (len(ring),), below=num_actions)


def find_run(
    folder: Path,
    total_timesteps: int | None = None,
    source: EnvironmentSource | None = None,
    has_network: bool = False,
    trust: bool = False,
    config: Config | None = None,
) -> Found:
    """Lock a run's folder, and return what it resumes from; see `Run.open` for the arguments and the errors."""
    if not (config is None or isinstance(config, Config)):
        raise wrong("config", config, "an upright.Config")
    if not isinstance(trust, bool):
        raise wrong("trust", trust, "True or False")
    place = RunFolder(folder)
    if not folder.is_dir():
        raise RunError(f"{folder} is not the folder of a run; give one such as runs/CartPole-v1/default/seed-0.")
    try:
        within = list(folder.iterdir())
    except OSError as error:
        raise RunError(f"{folder} cannot be read: {error.strerror}.") from error
    for path in within:
        files.refuse_link(path)
    if not place.checkpoints.is_dir():  # perhaps somebody else's folder: not even a lock is put there
        Checkpoints(folder, 1).newest()
    lock = files.lock(folder)
    try:
        checkpoint = Checkpoints(folder, 1).newest()
        about = checkpoint.about
        settings, seed, named = described(folder, about)
        if config is not None:
            total_timesteps, trust = config.total_timesteps, True
        if total_timesteps is not None:
            settings = settings.override(total_timesteps=total_timesteps)
            check_extension(settings.total_timesteps, int(about["step"]))
        if config not in (None, settings):
            raise RunError(f"The run in {folder} has other settings; choose another folder (--out).")
        allowed = allowed_source(source, named, settings, trust)
        if settings.num_envs > MOST_ENVIRONMENTS and not trust:
            raise EnvironmentFault(
                f"The run in {folder} has {settings.num_envs:,} environments; if you trust its files to start that "
                "many, say so: --trust, or trust=True."
            )
        if about.get("own_network") and not has_network:
            raise RunError(f"The run in {folder} has a network of its maker's: give it again, network=...")
        size, sha256, elapsed = _progress(folder, about)
        return Found(place, lock, checkpoint, allowed, settings, seed, size, sha256, elapsed)
    except BaseException:
        lock.release()
        raise


def check_extension(total_timesteps: int, step: int) -> None:
    """Refuse to train to fewer steps than were taken."""
    if total_timesteps < step:
        raise SettingError(
            f"total_timesteps is {total_timesteps:,}, but the run has taken {step:,} steps already: give more."
        )


def described(folder: Path, about: Mapping[str, Any]) -> tuple[Config, int, str | None]:
    """Return the settings, the seed and the environment's name in a checkpoint's manifest. Raises RunError."""
    try:
        config, seed, env = Config.from_file(about["config"]), about["seed"], named_environment(about["env"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UprightError) as error:
        raise RunError(f"The checkpoint in {folder} does not describe a run: {error}.") from error
    check_seed(seed)
    return config, seed, env


def _progress(folder: Path, about: Mapping[str, Any]) -> tuple[int, str, float]:
    """The size and the digest of the metrics in a checkpoint's manifest, and the seconds that the run had taken."""
    try:
        size, sha256 = int(about["metrics"]["size"]), str(about["metrics"]["sha256"])
        elapsed = float(about["elapsed"])
        if not 0 <= size < 2**62 or not math.isfinite(elapsed):
            raise ValueError(f"its metrics have {size} bytes after {elapsed} seconds")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"The checkpoint {about['step']:,} in {folder} does not fit its run: {error}.") from error
    return size, sha256, elapsed
