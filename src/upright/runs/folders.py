"""The folders of runs and experiments: the names of their files, which are written here and nowhere else.

runs/<env>/<experiment>/
  config.json             the environment and every setting, resolved (see `upright.runs.description`)
  summary.json            what the seeds' final policies have reached together
  seed-0/
    metrics.jsonl         append-only
    checkpoints/          everything that the run resumes from (see `upright.runs.checkpoint`)
    policy/               what predict needs
    best/                 the same, of the best evaluation so far; with eval_freq
    result.json           the final evaluation
    tensorboard/          event files; with --tensorboard
    lock                  held by the process that trains here
    running.json          which process that is (see `upright.runs.control`)
    request.json          what another process asks of it
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from upright import files
from upright.environments.sources import EnvironmentSource, describe
from upright.runs.description import is_same
from upright.settings.config import Config

SEED = "seed-"  # how the name of a run's folder begins


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, and the names of the files in it."""

    path: Path

    @property
    def experiment(self) -> ExperimentFolder:
        """The folder of the experiment that the run belongs to."""
        return ExperimentFolder(self.path.parent)

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def lock(self) -> Path:
        return self.path / files.LOCK

    @property
    def marker(self) -> Path:
        return self.path / "running.json"

    @property
    def request(self) -> Path:
        return self.path / "request.json"

    def is_taken(self) -> bool:
        """True if there is anything but the lock of a process that stopped before it wrote more."""
        path = self.path
        return path.exists() and (not path.is_dir() or any(inner != self.lock for inner in path.iterdir()))

    @property
    def has_checkpoint(self) -> bool:
        """True if a run has written a checkpoint here, whether it is whole or not."""
        return any(self.manifests())

    def manifests(self) -> Iterator[Path]:
        """Yield the manifest of each checkpoint, whether it is whole or not."""
        return self.checkpoints.glob("*/manifest.json")

    def clear_unbegun(self) -> None:
        """Empty the folder of a run that was killed before its first checkpoint and policy, unless it is in use."""
        unbegun = {self.metrics, self.checkpoints, self.tensorboard, self.marker, self.request}
        held = files.lock(self.path)
        try:
            paths = [path for path in self.path.iterdir() if path != self.lock]
            if not self.has_checkpoint and all(path in unbegun or path.name.startswith(".") for path in paths):
                for path in paths:
                    files.remove(path)
        finally:
            held.release()

    def remove(self) -> None:
        """Remove the folder, and that of its experiment if it holds no other run."""
        shutil.rmtree(self.path)
        experiment = self.experiment
        if set(experiment.path.iterdir()) <= {experiment.config}:
            experiment.config.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another process may begin its run there
                experiment.path.rmdir()


@dataclass(frozen=True)
class ExperimentFolder:
    """The folder of an experiment, and the names of the files in it."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    def seed(self, seed: int) -> RunFolder:
        """Return the folder of the run with this seed."""
        return RunFolder(self.path / f"{SEED}{seed}")

    def seeds(self) -> list[RunFolder]:
        """Return the folders of the seeds, whether they hold a run or not, in the order of their numbers."""
        paths = [path for path in self.path.glob(f"{SEED}*") if path.is_dir()]
        return [RunFolder(path) for path in sorted(paths, key=lambda path: (len(path.name), path.name))]

    def runs(self) -> list[RunFolder]:
        """Return the folders of the runs that have written metrics, in the order of their numbers."""
        return [run for run in self.seeds() if run.metrics.exists()]


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study of `upright tune`, and the names of the files in it."""

    path: Path

    @property
    def study(self) -> Path:
        return self.path / "study.json"

    @property
    def database(self) -> Path:
        return self.path / "study.db"

    @property
    def best(self) -> Path:
        return self.path / "best.json"

    def trial(self, name: str) -> ExperimentFolder:
        """Return the folder of the experiment that is the trial with this name."""
        return ExperimentFolder(self.path / name)


def seed_folder(experiment: Path, seed: int) -> Path:
    """Return the folder of an experiment's run with this seed."""
    return ExperimentFolder(experiment).seed(seed).path


def new_folder(root: Path, source: EnvironmentSource, config: Config, preset: str, seed: int) -> Path:
    """Return a free folder root/<env>/<preset>[-k]/seed-<seed>, in the experiment with these settings if any."""
    experiments = _folders(root, source, preset, {"": config})
    runs = (ExperimentFolder(experiment).seed(seed) for experiment in experiments)
    return next(run.path for run in runs if not run.is_taken())


def experiment_folder(root: Path, source: EnvironmentSource, config: Config, preset: str) -> Path:
    """Return the folder root/<env>/<preset>[-k] of the experiment with these settings, or a free one."""
    return next(_folders(root, source, preset, {"": config}))


def sweep_folder(root: Path, source: EnvironmentSource, name: str, configs: Mapping[str, Config]) -> Path:
    """Return the folder root/<env>/<name>[-k] in which each point is the experiment with its settings, or absent."""
    return next(_folders(root, source, name, configs))


def _folders(root: Path, source: EnvironmentSource, name: str, configs: Mapping[str, Config]) -> Iterator[Path]:
    """Yield the folders in which each of these is the experiment with these settings, or absent."""
    for folder in numbered_folders(root, source, name):
        points = {ExperimentFolder(folder / point): config for point, config in configs.items()}
        others = (point.path.exists() and not is_same(point.config, source, config) for point, config in points.items())
        if not any(others):
            yield folder


def numbered_folders(root: Path, source: EnvironmentSource, name: str) -> Iterator[Path]:
    """Yield root/<env>/<name>, root/<env>/<name>-2 and so on."""
    within = root / environment_name(source)
    return (within / (name if k == 1 else f"{name}-{k}") for k in itertools.count(1))


def environment_name(source: EnvironmentSource) -> str:
    """Return the environment's name as that of a folder."""
    return re.sub(r"[^\w.-]+", "_", describe(source))
