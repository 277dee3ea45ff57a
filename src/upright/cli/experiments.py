"""`upright train --seeds` and `upright sweep`: what they train, what they print, and their exit status."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from upright import files
from upright.cli.arguments import Sweep, Train
from upright.comparison.summary import Summary, summarise, write_summary
from upright.dashboard import beside
from upright.errors import SettingError
from upright.experiments.panel import SeedsTerminal, sweep_table, table
from upright.experiments.seeds import Event, Failed, Finished, Task
from upright.experiments.training import at_once, plan, train_tasks
from upright.result import signals
from upright.runs.folders import ExperimentFolder, experiment_folder, sweep_folder
from upright.views.terminal import console_on, printed

E = TypeVar("E")

SEED_FAILED = 1
MOST_SEEDS = 10_000


class Trained(NamedTuple):
    """The ends of some tasks, and the number of the signal that stopped the others, or None."""

    finished: list[Finished]
    failed: list[Failed]
    signal: int | None


def experiment(arguments: Train) -> int:
    """Train several seeds side by side, and print what their final policies come to."""
    folder = arguments.out or experiment_folder(Path("runs"), arguments.env, arguments.config, arguments.name)
    folder = folder.absolute() if arguments.cluster else folder
    console = console_on(sys.stderr if arguments.json else sys.stdout)
    tasks = _tasks(arguments, folder)
    shown = beside.if_asked(arguments.dashboard, Path(tasks[0].folder), False, console)
    with printed(console, arguments.quiet) as say, shown:
        trained = _train_tasks(arguments, tasks, f"{len(tasks):,} seeds", console, say)
        summary = _summaries(trained).get(folder)
        if summary is not None and not arguments.quiet:
            console.print(table(summary))
        _say_if_not_evaluated(arguments, say)
        say(f"Experiment: {folder}")
    about = {} if summary is None else summary.to_dict()
    reasons = {str(event.task.seed): event.reason for event in trained.failed}
    return _end(arguments, trained, {**about, "failed": reasons, "experiment": str(folder)})


def sweep(points: dict[str, Sweep]) -> int:
    """Train an experiment for each point of a grid, by its name, and print which came to what, the best first."""
    arguments = next(iter(points.values()))
    swept = [each.partition("=")[0] for each in next(iter(points)).split(",")]
    configs = {name: point.config for name, point in points.items()}
    folder = arguments.out or sweep_folder(Path("runs"), arguments.env, ",".join(swept), configs)
    folder = folder.absolute() if arguments.cluster else folder
    console = console_on(sys.stderr if arguments.json else sys.stdout)
    tasks = [_tasks(point, folder / name) for name, point in points.items()]
    by_seed = [task for seed in zip(*tasks, strict=True) for task in seed]  # so that all points can soon be compared
    shown = beside.if_asked(arguments.dashboard, folder / "point", False, console)
    with printed(console, arguments.quiet) as say, shown:
        trained = _train_tasks(
            arguments, by_seed, f"{len(tasks[0]):,} seeds at each of {len(points):,} points", console, say
        )
        summaries = _summaries(trained)
        found = {name: summaries[folder / name] for name in points if folder / name in summaries}
        found = dict(sorted(found.items(), key=lambda point: point[1].interquartile_mean.value, reverse=True))
        about = [
            {"point": name, "experiment": str(folder / name), **summary.to_dict()} for name, summary in found.items()
        ]
        result = {"env": arguments.env, "sweep": str(folder), "swept": swept, "points": about}
        if found:
            files.write(folder / "sweep.json", (json.dumps(result, indent=2) + "\n").encode())
            if not arguments.quiet:
                console.print(sweep_table(found))
        _say_if_not_evaluated(arguments, say)
        say(f"Sweep: {folder}")
    return _end(arguments, trained, {**result, "failed": {event.task.folder: event.reason for event in trained.failed}})


def _tasks(arguments: Train, folder: Path) -> list[Task]:
    """The seeds of one experiment. What a run says as it is made, its seeds' processes will say."""
    seeds = seeds_of(arguments)
    with printed(None, quiet=True):
        return plan(
            arguments.env,
            arguments.config,
            seeds,
            folder,
            arguments.preset,
            arguments.tensorboard,
            elsewhere=arguments.cluster is not None,
        )


def seeds_of(arguments: Train) -> range:
    """The seeds that the command line asks for."""
    count = arguments.seeds or 0
    if not 1 <= count <= MOST_SEEDS:
        raise SettingError(f"seeds is {count}, but it has to lie in [1, {MOST_SEEDS}].")
    return range(arguments.seed, arguments.seed + count)


def _train_tasks(arguments: Train, tasks: list[Task], what: str, console: Any, say: Callable[[str], None]) -> Trained:
    together = f"{at_once(tasks, arguments.jobs)} at once"
    if arguments.cluster is not None:
        together = f"on a Ray cluster ({arguments.cluster})"
    say(f"Training {arguments.env} for {arguments.config.total_timesteps:,} steps with {what}, {together}.")
    trained = Trained([], [], None)
    shown = None if arguments.quiet else SeedsTerminal(console, tasks)

    def take(event: Event) -> None:
        match event:
            case Finished():
                trained.finished.append(event)
            case Failed(task=task, reason=reason):
                trained.failed.append(event)
                if shown is None:
                    print(f"upright: {task.folder} failed: {reason}", file=sys.stderr)
        if shown is not None:
            shown.take(event)

    try:
        stop = follow(train_tasks(tasks, arguments.jobs, arguments.cluster, arguments.storage_url), take)
    finally:
        if shown is not None:
            shown.close()
    if stop is not None:
        count = len(trained.finished)
        say(f"Stopped with {count:,} of {len(tasks):,} seeds finished; the same command continues with the others.")
    return trained._replace(signal=stop)


def follow(
    events: Generator[E], take: Callable[[E], None], *contexts: contextlib.AbstractContextManager[Any]
) -> int | None:
    """Hand each event to `take` until all have come, or a signal stops them: return its number, or None.

    contexts: entered before the first event is asked for
    """
    received: list[int] = []
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(signals(received))
            # Ray prints what became of a worker, where only the result belongs.
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            for context in contexts:
                stack.enter_context(context)
            stack.enter_context(contextlib.closing(events))
            for event in events:
                take(event)
    except KeyboardInterrupt:
        return received[0]
    return None


def _summaries(trained: Trained) -> dict[Path, Summary]:
    """The summaries of the experiments with finished seeds, by their folders, in which they are also written."""
    results: dict[Path, list[dict[str, Any]]] = {}
    for event in trained.finished:
        if event.result.get("final_mean") is None:  # with n_final_episodes=0
            continue
        results.setdefault(Path(event.task.folder).parent, []).append(event.result)
    summaries = {folder: summarise(found) for folder, found in results.items()}
    for folder, summary in summaries.items():
        write_summary(ExperimentFolder(folder).summary, summary)
    return summaries


def _say_if_not_evaluated(arguments: Train, say: Callable[[str], None]) -> None:
    if arguments.config.n_final_episodes == 0:
        say("The final policies were not evaluated (n_final_episodes is 0), so there are no scores to summarise.")


def _end(arguments: Train, trained: Trained, result: dict[str, Any]) -> int:
    """Print the result if it is asked for, and say how many failed; the exit status."""
    if arguments.json:
        print(json.dumps(result))
    if trained.failed:
        count = len(trained.failed)
        seeds = "1 seed" if count == 1 else f"{count:,} seeds"
        print(f"upright: {seeds} failed; the same command tries again.", file=sys.stderr)
    if trained.signal is not None:
        return 128 + trained.signal
    return SEED_FAILED if trained.failed else 0
