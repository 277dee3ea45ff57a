"""`upright tune`: what it searches, what it prints, and its exit status."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from upright.cli.arguments import Tune
from upright.cli.experiments import follow, seeds_of
from upright.cli.values import as_words
from upright.comparison.statistics import Estimate
from upright.dashboard import beside
from upright.errors import SettingError
from upright.experiments.cluster import connected
from upright.experiments.pool import train_in_processes
from upright.experiments.search_space import SPACE, check_space, narrowed, read_space
from upright.experiments.seeds import Event, Reported, Task, Warned
from upright.experiments.training import take_finished, train_tasks
from upright.experiments.tune import (
    FRESH,
    Study,
    TrialBegan,
    TrialEnded,
    describe_study,
    is_same_study,
    read_best,
    run_trials,
)
from upright.runs.folders import numbered_folders
from upright.views.terminal import console_on, print_plainly, printed

NOTHING_FINISHED = 1
EVALUATIONS = 10  # of a trial, where --eval-freq does not say how often


def tune(arguments: Tune) -> int:
    """Search for settings, and print the best and how to judge it."""
    study = _study(arguments)
    console = console_on(sys.stderr if arguments.json else sys.stdout)

    def say(text: str) -> None:
        if not arguments.quiet:
            print_plainly(console, text)

    with printed(None, quiet=True):
        study.plan(study.config, "trial")  # raises what every trial would raise, before a dashboard starts
    shown = beside.if_asked(arguments.dashboard, study.folder / "trial", False, console)
    with printed(None, quiet=True), shown:  # what a run logs as it is made, the processes of its seeds log
        say(
            f"Searching {len(study.space)} settings for {study.env}: {arguments.trials:,} trials of "
            f"{study.config.total_timesteps:,} steps with {len(study.seeds):,} seeds. Study: {study.folder}"
        )
        stop = _search(arguments, study, console, say)
        best = read_best(study.folder)
        command = None if best is None else _command(arguments, study)
        for text in _conclusion(study, best, command):
            say(text)
    if arguments.json:
        print(json.dumps({"env": study.env, "study": str(study.folder), "best": best, "command": command}))
    return 128 + stop if stop is not None else NOTHING_FINISHED if best is None else 0


def _search(arguments: Tune, study: Study, console: Any, say: Callable[[str], None]) -> int | None:
    """Train the trials; the number of the signal that stopped them, or None."""
    status = None if arguments.quiet or not console.is_terminal else console.status("")
    warned: set[str] = set()
    number = 0

    def take(event: TrialBegan | Event | TrialEnded) -> None:
        nonlocal number
        match event:
            case TrialBegan(number=number, drawn=drawn):
                say(f"trial {number}: {_settings(drawn)}")
            case TrialEnded(score=None, why=why):
                say(f"trial {number} {why}")
            case TrialEnded(score=float(score)):
                say(f"trial {number} came to {score:.4g}")
            case Warned(text=text) if text not in warned:
                warned.add(text)
                say(text)
            case Reported(task=task, step=step) if status is not None:
                status.update(f"trial {number}, {Path(task.folder).name}: step {step:,}")

    nothing = contextlib.nullcontext()
    cluster = nothing if arguments.cluster is None else connected(arguments.cluster)  # one for all trials
    trials = run_trials(study, arguments.trials, lambda tasks: _train_seeds(arguments, tasks))
    stop = follow(trials, take, cluster, status or nothing)
    if stop is not None:
        say("Stopped; the same command continues.")
    return stop


def _conclusion(study: Study, best: Mapping[str, Any] | None, command: str | None) -> Iterator[str]:
    """The best settings, and how to judge them."""
    if best is None:
        yield "No trial has come to its end."
        return
    middle = Estimate.from_dict(best["summary"]["interquartile_mean"])
    interval = f"[{middle.low:.4g}, {middle.high:.4g}]"
    yield f"Best: trial {best['trial']}, {middle.value:.4g} {interval}: {_settings(best['drawn'])}"
    yield (
        f"That is the interquartile mean of the final policies of seeds {study.seeds[0]} to {study.seeds[-1]}, on "
        "which it was chosen: it flatters, the more the more trials there were. To judge these settings, train fresh "
        "seeds:"
    )
    yield f"  {command}"


def _study(arguments: Tune) -> Study:
    if arguments.trials < 1:
        raise SettingError(f"trials is {arguments.trials}, but it has to be 1 or more.")
    seeds = tuple(seeds_of(arguments))
    # Raises what does not combine.
    next(train_tasks([], arguments.jobs, arguments.cluster, arguments.storage_url), None)
    config = arguments.config
    if config.eval_freq == 0:
        config = config.override(eval_freq=max(1, config.total_timesteps // EVALUATIONS))
    space = SPACE
    if arguments.space is not None:
        space = read_space(arguments.space)
        check_space(space, config)
    space = narrowed(space, arguments.given, config)
    if not space:
        raise SettingError("There is nothing left to search: every setting of the space is given.")
    about = describe_study(arguments.env, config, space, seeds)
    folder = arguments.out or next(
        each
        for each in numbered_folders(Path("runs"), arguments.env, "tune")
        if not each.exists() or is_same_study(each, about)
    )
    elsewhere = arguments.cluster is not None
    folder = folder.absolute() if elsewhere else folder
    return Study(arguments.env, config, space, seeds, folder, elsewhere, arguments.tensorboard)


def _train_seeds(arguments: Tune, tasks: Sequence[Task]) -> Generator[Event]:
    """Train a trial's seeds; unless something else is asked for all at once, also on fewer cores, to prune it early."""
    if arguments.jobs is not None or arguments.cluster is not None:
        yield from train_tasks(tasks, arguments.jobs, arguments.cluster, arguments.storage_url)
        return
    missing = yield from take_finished(tasks)
    yield from train_in_processes(missing, len(missing))


def _command(arguments: Tune, study: Study) -> str:
    """Return the command that trains the best settings on seeds that the study has not seen."""
    first = max(FRESH, study.seeds[-1] + 1)
    words = ["upright", "train", study.env, "--config", str(study.place.best), "--seeds", "20"]
    words += ["--seed", str(first)]
    if study.config.wrapper:  # a file's word is not taken for what imports a module
        words += ["--wrapper", *study.config.wrapper]
    if study.config.env_kwargs:
        words += ["--env-kwargs", *as_words(study.config.env_kwargs)]
    return shlex.join(words)


def _settings(drawn: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in drawn.items()
    )
