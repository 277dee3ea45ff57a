"""An experiment: one configuration over several seeds, each in `runs/<env>/<experiment>/seed-<seed>`.

    for event in experiment("CartPole-v1", seeds=range(20), folder="runs/CartPole-v1/mine"):
        ...

What is finished is taken as it is, and what was begun resumes from its checkpoint: the same call does what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from upright import files
from upright.environments.sources import EnvironmentSource, describe, portable_name
from upright.errors import RunError, SettingError, one_line, wrong
from upright.evaluation import check_seed
from upright.experiments.cluster import train_on_cluster
from upright.experiments.pool import train_in_processes
from upright.experiments.seeds import Event, Finished, Task, finished
from upright.machine import cores
from upright.runs.description import describe_run, is_same
from upright.runs.folders import ExperimentFolder, seed_folder
from upright.runs.run import Run
from upright.settings.config import Config


def experiment(
    env: EnvironmentSource,
    config: Config | None = None,
    seeds: Iterable[int] = range(10),
    *,
    folder: str | os.PathLike[str],
    jobs: int | None = None,
    cluster: str | None = None,
    storage_url: str | None = None,
    preset: str | None = None,
    tensorboard: bool = False,
) -> Generator[Event]:
    """Train these seeds side by side, and yield what happens: Reported, Warned, and a Finished or Failed for each.

    folder: the experiment's · jobs: seeds trained at once, at most; None for as many as there are cores
    cluster: the address of a Ray cluster that trains them instead, "auto" or "local" (see docs/cluster.md)
    storage_url: with a cluster, where its machines keep the seeds, if they do not have the folder in common
    preset: where the settings started from, for the results
    One seed's failure does not stop the others. To close the generator stops them, each with a checkpoint.
    Raises, before anything is trained or written, what a `Run` with these settings would raise.
    """
    config = Config() if config is None else config
    for name, text in (("cluster", cluster), ("storage_url", storage_url)):
        if not (text is None or isinstance(text, str)):
            raise wrong(name, text, "an address, as text")
    if not (jobs is None or type(jobs) is int):
        raise wrong("jobs", jobs, "a whole number, 1 or more")
    tasks = plan(env, config, seeds, files.as_path(folder), preset, tensorboard, elsewhere=cluster is not None)
    return train_tasks(tasks, jobs, cluster, storage_url)


def plan(
    env: EnvironmentSource,
    config: Config,
    seeds: Iterable[int],
    folder: Path,
    preset: str | None = None,
    tensorboard: bool = False,
    elsewhere: bool = False,
) -> list[Task]:
    """A task for each seed of the experiment in this folder. Raises UprightError where they could not be trained.

    elsewhere: they will be trained on other machines, which know the folder by its absolute path, and may have another
    device
    """
    if not isinstance(config, Config):
        raise wrong("config", config, "an upright.Config")
    if not (preset is None or isinstance(preset, str)):
        raise wrong("preset", preset, "a name, or None")
    if not isinstance(tensorboard, bool):
        raise wrong("tensorboard", tensorboard, "True or False")
    if not isinstance(seeds, Iterable):
        raise wrong("seeds", seeds, "a list of whole numbers, such as range(10)")
    name = portable_name(env)
    if name is None:
        raise SettingError(
            f"{describe(env)} cannot be made in another process: give a registered id, or a class of an importable "
            "module, by itself or as module:Class."
        )
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is not a folder; choose another (--out).")
    if folder.exists() and not is_same(ExperimentFolder(folder).config, name, config) and any(folder.iterdir()):
        raise RunError(
            f"{folder} holds an experiment with another environment or other settings; choose another folder (--out)."
        )
    for seed in (seeds := list(seeds)):
        check_seed(seed)
    if len(set(seeds)) < len(seeds):
        raise SettingError(f"seeds is {one_line(str(seeds))}, but each has to stand there once.")
    tried = config.override(num_envs=1, vectorization_mode="sync")
    if elsewhere:
        folder, tried = folder.absolute(), tried.override(device="auto")
    Run(name, tried).close()  # raises what every seed would raise
    settings = describe_run(name, config)["config"]
    return [Task(name, settings, int(seed), str(seed_folder(folder, seed)), preset, tensorboard) for seed in seeds]


def train_tasks(
    tasks: Sequence[Task], jobs: int | None = None, cluster: str | None = None, storage_url: str | None = None
) -> Generator[Event]:
    """Train these tasks, of one experiment or of several, that `plan` gave; what is finished comes first."""
    count = at_once(tasks, jobs)
    if jobs is not None and cluster is not None:
        raise SettingError("jobs is for the cores of this machine, and cluster for those of another: give one of them.")
    if storage_url is not None and cluster is None:
        raise SettingError("storage_url is where a cluster keeps its seeds: give the address of one with cluster, too.")
    missing = yield from take_finished(tasks)
    if not missing:
        return
    if cluster is None:
        yield from train_in_processes(missing, count)
    else:
        yield from train_on_cluster(missing, cluster, storage_url)


def take_finished(tasks: Sequence[Task]) -> Generator[Event, None, list[Task]]:
    """Yield what is finished already; return the tasks that are not."""
    missing = []
    for task in tasks:
        result = finished(task)
        if result is None:
            missing.append(task)
        else:
            yield Finished(task, result)
    return missing


def at_once(tasks: Sequence[Task], jobs: int | None = None) -> int:
    """Return how many of these tasks are trained at once: one a core, or fewer where each has workers of its own."""
    if jobs is not None and jobs < 1:
        raise SettingError(f"jobs is {jobs}, but it has to be 1 or more.")
    taken = max((task.cores for task in tasks), default=1)
    return max(1, min(cores() // taken, len(tasks), jobs or len(tasks)))
