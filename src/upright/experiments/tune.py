"""A search for settings with Optuna: `upright tune`. A trial is one configuration over a few seeds, an experiment.

runs/<env>/<study>/
  study.json     what is searched, from which settings, over which seeds
  study.db       Optuna's storage
  best.json      the settings of the best trial so far: upright train ENV --config best.json
  trial-<n>/     the experiment of trial n, locked by the process that trains it
  lock           held by a process while it begins a trial, or writes best.json

Several processes may work on one study. A trial of one that was killed has a free lock: the next process that begins a
trial resumes it, and its seeds resume from their checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from upright import files
from upright.comparison.curves import read_curve
from upright.comparison.statistics import interquartile_mean
from upright.comparison.summary import summarise
from upright.errors import FolderInUse, MissingExtra, RunError, SettingError, UprightError
from upright.experiments.search_space import Space, draw, space_to_dict
from upright.experiments.seeds import Event, Failed, Finished, Reported, Task
from upright.experiments.training import plan
from upright.messages import first_line
from upright.runs.description import describe_run, is_same_description, write_description
from upright.runs.folders import StudyFolder
from upright.settings.config import Config

if TYPE_CHECKING:
    import filelock
    import optuna

STUDY_SCHEMA = 1
RANDOM_TRIALS = 10  # before the sampler follows what it has seen
JUDGED_TRIALS = 5  # finished ones, with whose median a trial is compared before it may be pruned
PATIENCE = 60.0  # seconds for what another process does under the study's lock, or with its database
LEAVING = 30.0  # seconds for the seeds of a process that was killed to write their checkpoints
FRESH = 1_000  # the first of the seeds on which the best settings are to be judged

# Trains tasks side by side and yields what happens, with what is finished first; to close it stops them.
Trainer = Callable[[Sequence[Task]], Generator[Event]]


@dataclass(frozen=True)
class Study:
    """The definition of a study.

    config: the settings that no trial changes, and where the others start from; its eval_freq says how often a trial
    may be pruned · seeds: those of every trial · elsewhere: whether they are trained on other machines
    tensorboard: whether they write event files
    """

    env: str
    config: Config
    space: Space
    seeds: tuple[int, ...]
    folder: Path
    elsewhere: bool = False
    tensorboard: bool = False

    @property
    def place(self) -> StudyFolder:
        """The names of the files in its folder."""
        return StudyFolder(self.folder)

    def plan(self, config: Config, name: str) -> list[Task]:
        """The tasks of a trial with these settings. Raises UprightError where they could not be trained or judged."""
        if config.n_final_episodes == 0:
            raise SettingError(
                "n_final_episodes is 0, but a study chooses by the final evaluations of its trials; give it 1 or more "
                "(--n-final-episodes 100)."
            )
        folder = self.place.trial(name).path
        return plan(self.env, config, self.seeds, folder, tensorboard=self.tensorboard, elsewhere=self.elsewhere)


@dataclass(frozen=True)
class TrialBegan:
    """A trial began or was resumed, with what it drew."""

    number: int
    drawn: dict[str, Any]


@dataclass(frozen=True)
class TrialEnded:
    """A trial ended, with the interquartile mean of its final policies, or None and why it has none."""

    number: int
    score: float | None
    why: str = ""


def describe_study(env: str, config: Config, space: Space, seeds: Sequence[int]) -> dict[str, Any]:
    """As study.json has it."""
    about = {**describe_run(env, config), "schema": STUDY_SCHEMA}
    return {**about, "space": space_to_dict(space), "seeds": list(seeds)}


def is_same_study(folder: Path, about: dict[str, Any]) -> bool:
    """True if a folder holds this study, whichever version of upright wrote it."""
    return is_same_description(StudyFolder(folder).study, about)


def run_trials(study: Study, count: int, train: Trainer) -> Generator[TrialBegan | Event | TrialEnded]:
    """Train trials until the study has `count` of them, those before and those of other processes included.

    To close the generator, or to raise an exception in it, stops the trial that it is in, to be taken up again.
    Raises UprightError, before anything is written, where no trial could be trained.
    """
    with _sentences(study.folder):
        stored = _open(study)
        while (begun := _begin(study, stored, count)) is not None:
            trial, config, held = begun
            try:
                yield TrialBegan(trial.number, dict(trial.params))
                yield from _train_trial(study, stored, trial, config, train)
            except BaseException:
                with _alone(study.folder):
                    _take_up_again(stored, trial.number)
                raise
            finally:
                held.release()


def _open(study: Study) -> optuna.Study:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("Optuna is not installed: pip install 'upright[tune]'") from error
    about = describe_study(study.env, study.config, study.space, study.seeds)
    if study.place.study.exists() and not is_same_study(study.folder, about):
        raise RunError(f"{study.folder} holds another study; choose another folder (--out).")
    study.plan(study.config, "trial")  # raises what every trial would raise
    files.make_folder(study.folder)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _alone(study.folder):
        path = study.place.database
        files.refuse_link(path)
        if not study.place.study.exists():
            files.write(study.place.study, (json.dumps(about, indent=2) + "\n").encode())
        return optuna.create_study(
            # Where another process writes, SQLite waits; it does so well only on a disk of this machine.
            storage=optuna.storages.RDBStorage(
                f"sqlite:///{path.absolute()}", engine_kwargs={"connect_args": {"timeout": PATIENCE}}
            ),
            study_name=study.env,
            direction="maximize",
            load_if_exists=True,
            # The first evaluations show chance, not settings.
            pruner=optuna.pruners.MedianPruner(
                JUDGED_TRIALS, n_warmup_steps=study.config.total_timesteps // 5, n_min_trials=JUDGED_TRIALS
            ),
        )


def _begin(study: Study, stored: optuna.Study, count: int) -> tuple[optuna.Trial, Config, filelock.BaseFileLock] | None:
    """The next trial with its settings, and the lock on its folder; None where there are enough."""
    import optuna
    from optuna.trial import TrialState

    with _alone(study.folder):
        for each in stored.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not _is_held(study.folder / _name(each)):
                _take_up_again(stored, each.number)
        while True:
            trials = stored.get_trials(deepcopy=False)
            # A trial that was taken up again stands there as a failed one, too.
            counted = [each for each in trials if each.state != TrialState.FAIL or "why" in each.user_attrs]
            if len(counted) >= count and not any(each.state == TrialState.WAITING for each in trials):
                _write_best(study, stored)  # as a process that was killed could not
                return None
            # A new one for each, so that neither a resumed study nor another process draws the same again.
            seed = np.random.SeedSequence([study.seeds[0], len(trials)]).generate_state(1)
            stored.sampler = optuna.samplers.TPESampler(
                n_startup_trials=RANDOM_TRIALS, multivariate=True, constant_liar=True, seed=int(seed[0])
            )
            trial = stored.ask()
            if "folder" not in trial.user_attrs:
                number = trial.number
                while (study.folder / f"trial-{number}").exists():  # of a study.db that was lost
                    number += 1
                trial.set_user_attr("folder", f"trial-{number}")
            try:
                config = draw(trial, study.space, study.config)
            except SettingError as error:
                trial.set_user_attr("why", str(error))
                stored.tell(trial, state=TrialState.PRUNED)
                continue
            folder = study.place.trial(_name(trial))
            write_description(folder.config, study.env, config)
            return trial, config, files.lock(folder.path)


def _name(trial: optuna.Trial | optuna.trial.FrozenTrial) -> str:
    """Return the name of a trial's folder: its own, or that of the trial that it resumes."""
    name = trial.user_attrs.get("folder")
    return name if isinstance(name, str) and re.fullmatch(r"trial-\d+", name) else f"trial-{trial.number}"


def _is_held(folder: Path) -> bool:
    if folder.is_dir():
        try:
            files.lock(folder).release()
        except FolderInUse:
            return True
    return False


def _take_up_again(stored: optuna.Study, number: int) -> None:
    """Let a trial that was broken off be the next one, in the same folder."""
    from optuna.trial import TrialState

    trial = stored.trials[number]
    if trial.state == TrialState.RUNNING:
        stored.tell(number, state=TrialState.FAIL)
        stored.enqueue_trial(trial.params, user_attrs={"folder": _name(trial)})


def _train_trial(
    study: Study, stored: optuna.Study, trial: optuna.Trial, config: Config, train: Trainer
) -> Iterator[Event | TrialEnded]:
    """Train a trial's seeds, and tell Optuna what became of it."""
    from optuna.trial import TrialState

    results: list[dict[str, Any]] = []
    tasks: list[Task] = []
    pruned = why = ""
    interim = _Interim(config.eval_freq, len(study.seeds))
    try:
        tasks = study.plan(config, _name(trial))
    except UprightError as error:  # these settings need more memory than there is, for one
        why = str(error)
    _wait_for(tasks)
    with contextlib.closing(train(tasks)) as events:
        while not (pruned or why) and (event := next(events, None)) is not None:
            yield event
            match event:
                case Failed(task=task, reason=reason):
                    why = f"{Path(task.folder).name} failed: {reason}"
                case Finished(task=task, result=result):
                    results.append(result)
                    interim.add_all(task)
                case Reported(task=task, step=step, metrics={"eval/mean_reward": value}):
                    interim.add(task, step, value)
            for step, value in interim.new():
                trial.report(value, step)
                if not pruned and step < config.total_timesteps and trial.should_prune():
                    pruned = f"pruned at step {step:,}, with {value:.4g}"
    score = None
    if not (pruned or why):
        summary = summarise(results)
        score = summary.interquartile_mean.value
        trial.set_user_attr("summary", summary.to_dict())
    else:
        trial.set_user_attr("why", pruned or why)
    with _alone(study.folder):
        stored.tell(trial, score, TrialState.PRUNED if pruned else TrialState.FAIL if why else TrialState.COMPLETE)
        _write_best(study, stored)
    for task in tasks:
        files.remove(task.place.checkpoints)  # they hold replay memories, which fill a disk
    yield TrialEnded(trial.number, score, pruned or why)


class _Interim:
    """The interim evaluations of a trial's seeds, of which the trial reports what all have come to."""

    def __init__(self, eval_freq: int, seeds: int) -> None:
        self._eval_freq, self._seeds, self._reported = eval_freq, seeds, 0
        self._values: dict[int, dict[str, float]] = {}

    def add(self, task: Task, step: int, value: float) -> None:
        """Take an evaluation. With several environments it comes with the first step at or after its turn."""
        self._values.setdefault(step // self._eval_freq * self._eval_freq, {})[task.folder] = value

    def add_all(self, task: Task) -> None:
        """Take all evaluations of a seed that is finished: of one that was so before, nothing is reported."""
        with contextlib.suppress(RunError):  # they only prune
            curve = read_curve(task.place, "eval")
            for step, value in zip(curve.steps, curve.returns, strict=True):
                self.add(task, int(step), float(value))

    def new(self) -> Iterator[tuple[int, float]]:
        """The interquartile mean over the seeds at each step that the last of them has come to."""
        for step in sorted(self._values):
            if step > self._reported and len(self._values[step]) == self._seeds:
                self._reported = step
                yield step, interquartile_mean(list(self._values[step].values()))


def _wait_for(tasks: Sequence[Task]) -> None:
    """Let the seeds of a process that was killed write their checkpoints."""
    end = time.monotonic() + LEAVING
    while any(_is_held(Path(task.folder)) for task in tasks) and time.monotonic() < end:
        time.sleep(0.1)


def best_of(stored: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """The finished trial with the highest score, if there is one."""
    from optuna.trial import TrialState

    complete = stored.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: -math.inf if trial.value is None else trial.value, default=None)


def _write_best(study: Study, stored: optuna.Study) -> None:
    best = best_of(stored)
    if best is not None:
        about = files.read_json(study.place.trial(_name(best)).config)
        about |= {"trial": best.number, "experiment": _name(best), "drawn": best.params, **best.user_attrs}
        files.write(study.place.best, (json.dumps(about, indent=2) + "\n").encode())


def read_best(folder: Path) -> dict[str, Any] | None:
    """Return what best.json says of the best trial so far in a study's folder, or None."""
    try:
        return files.read_json(StudyFolder(folder).best)
    except RunError:
        return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the study's lock, when the process that has it lets go of it."""
    held = files.lock(folder, PATIENCE)
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def _sentences(folder: Path) -> Iterator[None]:
    """Turn errors of Optuna's storage into one message."""
    try:
        yield
    except UprightError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("sqlalchemy", "optuna", "alembic"):
            raise
        raise RunError(
            f"{folder / 'study.db'} cannot be used: {first_line(error)}; what was trained stays in {folder}."
        ) from error
