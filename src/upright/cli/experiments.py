"""`upright train --seeds` and `upright sweep`: what they train, what they print, and their exit status."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

SEED_FAILED = 1
MOST_SEEDS = 10_000


class Outcome(NamedTuple):
    """What became of some tasks, and the number of the signal that stopped them, or None."""

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
        outcome = _train(arguments, tasks, f"{len(tasks):,} seeds", console, say)
        summary = _summaries(outcome).get(folder)
        if summary is not None and not arguments.quiet:
            console.print(table(summary))
        say(f"Experiment: {folder}")
    about = {} if summary is None else summary.to_dict()
    reasons = {str(event.task.seed): event.reason for event in outcome.failed}
    return _end(arguments, outcome, {**about, "failed": reasons, "experiment": str(folder)})


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
        outcome = _train(arguments, by_seed, f"{len(tasks[0]):,} seeds at each of {len(points):,} points", console, say)
        summaries = _summaries(outcome)
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
        say(f"Sweep: {folder}")
    return _end(arguments, outcome, {**result, "failed": {event.task.folder: event.reason for event in outcome.failed}})


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


def _train(arguments: Train, tasks: list[Task], what: str, console: Any, say: Callable[[str], None]) -> Outcome:
    together = f"{at_once(tasks, arguments.jobs)} at once"
    if arguments.cluster is not None:
        together = f"on a Ray cluster ({arguments.cluster})"
    say(f"Training {arguments.env} for {arguments.config.total_timesteps:,} steps with {what}, {together}.")
    outcome = follow(
        train_tasks(tasks, arguments.jobs, arguments.cluster, arguments.storage_url), tasks, console, arguments.quiet
    )
    if outcome.signal is not None:
        count = len(outcome.finished)
        say(f"Stopped with {count:,} of {len(tasks):,} seeds finished; the same command goes on with the others.")
    return outcome


def follow(events: Generator[Event], tasks: Sequence[Task], console: Any, quiet: bool) -> Outcome:
    """Show what happens to these tasks, until all have ended or a signal stops them."""
    outcome = Outcome([], [], None)
    received: list[int] = []
    shown = None if quiet else SeedsTerminal(console, tasks)
    try:
        # Ray says on standard output what became of a worker, which is no place for that.
        with signals(received), contextlib.redirect_stdout(sys.stderr), contextlib.closing(events):
            for event in events:
                match event:
                    case Finished():
                        outcome.finished.append(event)
                    case Failed(task=task, reason=reason):
                        outcome.failed.append(event)
                        if shown is None:
                            print(f"upright: {task.folder} failed: {reason}", file=sys.stderr)
                if shown is not None:
                    shown.take(event)
    except KeyboardInterrupt:
        return outcome._replace(signal=received[0])
    finally:
        if shown is not None:
            shown.close()
    return outcome


def _summaries(outcome: Outcome) -> dict[Path, Summary]:
    """The summaries of the experiments with finished seeds, by their folders, in which they are also written."""
    results: dict[Path, list[dict[str, Any]]] = {}
    for event in outcome.finished:
        results.setdefault(Path(event.task.folder).parent, []).append(event.result)
    summaries = {folder: summarise(found) for folder, found in results.items()}
    for folder, summary in summaries.items():
        write_summary(ExperimentFolder(folder).summary, summary)
    return summaries


def _end(arguments: Train, outcome: Outcome, result: dict[str, Any]) -> int:
    """Print the result if it is asked for, and say how many failed; the exit status."""
    if arguments.json:
        print(json.dumps(result))
    if outcome.failed:
        count = len(outcome.failed)
        seeds = "1 seed" if count == 1 else f"{count:,} seeds"
        print(f"upright: {seeds} failed; the same command tries again.", file=sys.stderr)
    if outcome.signal is not None:
        return 128 + outcome.signal
    return SEED_FAILED if outcome.failed else 0
