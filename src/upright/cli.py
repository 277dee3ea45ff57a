"""The `upright` command: envs, train, resume, evaluate, watch, record, plot, compare.

Nothing here imports NumPy, Gymnasium or PyTorch before it is needed, so that help and mistakes answer at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.arguments import Compare, Envs, Evaluate, Plot, Record, Resume, Train, Watch, parse
from upright.errors import SettingError, UprightError, did_you_mean

if TYPE_CHECKING:
    from upright.metrics import Sink
    from upright.run import Run
    from upright.seeds import Event, Failed, Task

SEED_FAILED = 1
USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def envs(arguments: Envs) -> int:
    """Print the registry with a verdict on each id."""
    from upright.registry import inspect, registered

    names = registered(arguments.filter)
    if not names:
        from upright.sources import unknown_environment

        raise SettingError(unknown_environment(arguments.filter))
    entries = [inspect(name) for name in names]
    if arguments.json:
        for entry in entries:
            print(json.dumps({**dataclasses.asdict(entry), "trains": entry.trains}))
        return 0
    from rich import box
    from rich.table import Table

    table = Table("id", "observation", "action", "threshold", "verdict", box=box.SIMPLE_HEAD)
    for entry in entries:
        threshold = "" if entry.threshold is None else f"{entry.threshold:g}"
        table.add_row(entry.id, entry.observation, entry.action, threshold, entry.verdict)
    _console(sys.stdout).print(table)
    return 0


def train(arguments: Train) -> int:
    """Train one run and evaluate its final policy, or those of several seeds."""
    if arguments.seeds is not None:
        return _experiment(arguments, arguments.seeds)
    if arguments.jobs is not None:
        raise SettingError("--jobs is for several seeds at once: give their number with --seeds.")
    from upright.folders import new_folder, seed_folder
    from upright.run import Run

    config = arguments.config
    if arguments.out is None:
        folder = new_folder(Path("runs"), arguments.env, config, arguments.preset, arguments.seed)
    else:
        folder = seed_folder(arguments.out, arguments.seed)
    return _finish(arguments, folder, lambda: Run(arguments.env, config, arguments.seed, folder), arguments.preset)


def _experiment(arguments: Train, count: int) -> int:
    """Train several seeds side by side, and print what their final policies come to."""
    from upright.experiment import at_once, plan, summarise, train_tasks, write_summary
    from upright.folders import experiment_folder
    from upright.panel import table

    if count < 1:
        raise SettingError(f"seeds is {count}, but it has to be 1 or more.")
    env, config, preset, first = arguments.env, arguments.config, arguments.preset, arguments.seed
    folder = arguments.out or experiment_folder(Path("runs"), env, config, preset)
    console = _console(sys.stderr if arguments.json else sys.stdout)
    with _printed(console, arguments.quiet) as say:
        tasks = plan(env, config, range(first, first + count), folder, preset, arguments.tensorboard)
        together = at_once(tasks, arguments.jobs)
        say(f"Training {env} for {config.total_timesteps:,} steps with {count:,} seeds, {together} at once.")
        results, failed, stop = _follow(train_tasks(tasks, arguments.jobs), tasks, console, arguments.quiet)
        summary = summarise(results) if results else {}
        if summary:
            write_summary(folder, summary)
            if not arguments.quiet:
                console.print(table(summary))
        if stop is not None:
            say(f"Stopped with {len(results)} of {count} seeds finished; the same command goes on with the others.")
        say(f"Experiment: {folder}")
    if arguments.json:
        reasons = {str(event.task.seed): event.reason for event in failed}
        print(json.dumps({**summary, "failed": reasons, "experiment": str(folder)}))
    if failed:
        print(f"upright: {len(failed)} of {count} seeds failed; the same command tries again.", file=sys.stderr)
    return 128 + stop if stop is not None else SEED_FAILED if failed else 0


def _follow(
    events: Generator[Event], tasks: Sequence[Task], console: Any, quiet: bool
) -> tuple[list[dict[str, Any]], list[Failed], int | None]:
    """Show what happens to the seeds: the results, those that have none, and the signal that stopped them."""
    from upright.panel import SeedsTerminal
    from upright.result import signals
    from upright.seeds import Failed, Finished

    results: list[dict[str, Any]] = []
    failed: list[Failed] = []
    received: list[int] = []
    shown = None if quiet else SeedsTerminal(console, tasks)
    try:
        with signals(received), contextlib.closing(events):
            for event in events:
                match event:
                    case Finished(result=result):
                        results.append(result)
                    case Failed(task=task, reason=reason):
                        failed.append(event)
                        if shown is None:
                            print(f"upright: {task.folder} failed: {reason}", file=sys.stderr)
                if shown is not None:
                    shown.take(event)
    except KeyboardInterrupt:
        return results, failed, received[0]
    finally:
        if shown is not None:
            shown.close()
    return results, failed, None


def resume(arguments: Resume) -> int:
    """Go on with a run from its newest checkpoint."""
    from upright.run import Run

    folder = arguments.run
    return _finish(
        arguments, folder, lambda: Run.open(folder, arguments.total_timesteps, arguments.env, trust=arguments.trust)
    )


def _finish(arguments: Train | Resume, folder: Path, begin: Callable[[], Run], preset: str | None = None) -> int:
    """Train a run to its end, or to where it is stopped, and print what came of it; the exit status."""
    console = _console(sys.stderr if arguments.json else sys.stdout)
    with _printed(console, arguments.quiet) as say:
        result, stop = _train(arguments, folder, begin, preset, console, say)
    if arguments.json:
        print(json.dumps(result))
    return 0 if stop is None else 128 + stop


def _train(
    arguments: Train | Resume,
    folder: Path,
    begin: Callable[[], Run],
    preset: str | None,
    console: Any,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], int | None]:
    """Train, evaluate and save: the result, without an evaluation if a signal ended it, and that signal."""
    from upright.metrics import TensorBoard
    from upright.result import train_to_result
    from upright.terminal import Terminal

    began = time.perf_counter()
    sinks: list[Sink] = [TensorBoard(folder / "tensorboard")] if arguments.tensorboard else []
    run = begin()
    try:
        learner, total, first = run.agent.learner, run.config.total_timesteps, run.step
        since = f" from step {first:,}" if first else ""
        say(f"Training {run.name} for {total:,} steps{since}: engine {learner.engine} on {learner.device}.")
        if not arguments.quiet:
            sinks.append(Terminal(console, total, run.name, run.agent.engine, first))
    except BaseException:
        run.discard()
        raise
    ended = train_to_result(run, began, preset, sinks)
    stopped = f"Stopped at step {run.step:,}, with no checkpoint to go on from."
    if run.checkpointed is not None:
        since = "" if run.checkpointed == run.step else f" from step {run.checkpointed:,}"
        stopped = f"Stopped at step {run.step:,}; go on{since} with: upright resume {folder}"
    say(stopped if ended.evaluation is None else f"Final policy: {ended.evaluation}.")
    say(f"Run: {folder}")
    return ended.result, ended.signal


@contextlib.contextmanager
def _printed(console: Any, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Print what is logged meanwhile, and what is said through the function that this yields."""

    def say(text: str) -> None:
        if not quiet:
            console.print(text, highlight=False, soft_wrap=True, markup=False)

    logger, handler = logging.getLogger("upright"), logging.Handler()
    handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield say
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def evaluate(arguments: Evaluate) -> int:
    """Evaluate a saved policy."""
    from upright.agent import load
    from upright.result import scores

    agent = load(arguments.run, trust=arguments.trust)
    evaluation = agent.evaluate(arguments.episodes, arguments.seed, arguments.env)
    if arguments.json:
        env = arguments.env or agent.source
        print(json.dumps({"env": env, "seed": arguments.seed, **scores(evaluation), "run": str(arguments.run)}))
    else:
        print(f"{evaluation}.")
    return 0


def watch(arguments: Watch) -> int:
    """Show a saved policy in a window."""
    from upright.agent import load
    from upright.watch import watch

    agent = load(arguments.run, trust=arguments.trust)
    try:
        for reward, length in watch(agent, arguments.episodes, arguments.seed, arguments.env):
            print(f"return {reward:g} in {length:,} steps")
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def plot(arguments: Plot) -> int:
    """Draw the curves of runs into a file."""
    from upright.curves import plot

    for experiment in plot(arguments.runs, arguments.out, arguments.returns, arguments.smooth):
        print(f"{experiment.env}, {experiment.label}: {', '.join(experiment.curves)}")
    print(f"Picture: {arguments.out}")
    return 0


def compare(arguments: Compare) -> int:
    """Print experiments side by side, and draw them if a picture is asked for."""
    from upright.compare import read_comparison
    from upright.comparison_table import tables

    if arguments.out is not None:
        from upright.curves import check_picture

        check_picture(arguments.out)
    comparison = read_comparison(arguments.experiments)
    about = comparison.to_dict()
    if arguments.out is not None:
        from upright.comparison_picture import draw
        from upright.curves import save

        save(draw(comparison), arguments.out)
    if arguments.json:
        print(json.dumps(about))
        return 0
    console = _console(sys.stdout)
    for each in tables(about, console.width):
        console.print(each, highlight=False, soft_wrap=isinstance(each, str), markup=False)
    if arguments.out is not None:
        print(f"Picture: {arguments.out}")
    return 0


def record(arguments: Record) -> int:
    """Write episodes of a saved policy to a video."""
    from upright.agent import load
    from upright.record import record

    agent = load(arguments.run, trust=arguments.trust)
    for reward, length in record(
        agent, arguments.out, arguments.episodes, arguments.seed, arguments.env, arguments.plain
    ):
        print(f"return {reward:g} in {length:,} steps")
    print(f"Video: {arguments.out}")
    return 0


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "envs": (Envs, envs),
    "train": (Train, train),
    "resume": (Resume, resume),
    "evaluate": (Evaluate, evaluate),
    "watch": (Watch, watch),
    "record": (Record, record),
    "plot": (Plot, plot),
    "compare": (Compare, compare),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it did what was asked, 2 for a mistake of the user's, 128 + its number for a signal."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without Greek letters is no reason to fail
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_overview())
            return 0
        if words[0] == "--version":
            import upright

            print(upright.__version__)
            return 0
        if words[0] not in COMMANDS:
            raise SettingError(
                f"There is no command {words[0]!r}.{did_you_mean(words[0], COMMANDS)} "
                f"The commands are {', '.join(COMMANDS)}."
            )
        form, action = COMMANDS[words[0]]
        arguments = parse(words[0], form, words[1:])
        if _asks_for_a_module(arguments):
            # So that module:Class finds a module in the folder that the user stands in; last, so that it hides no
            # other. Not otherwise: what stands in a folder that was downloaded is not to stand in for what is missing.
            sys.path.append(str(Path.cwd()))
        status = action(arguments)
        sys.stdout.flush()
        return status
    except UprightError as error:
        print(f"upright: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt as interrupt:
        return 128 + interrupt.args[0] if interrupt.args else INTERRUPTED
    except BrokenPipeError:  # whoever read the output has had enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # what a path that the user gave came to, where nothing else has said so
        about = UprightError(f"{error.filename or 'The system'} cannot be used: {error.strerror or error}.")
        print(f"upright: {about}", file=sys.stderr)
        return USAGE_ERROR


def _asks_for_a_module(arguments: Any) -> bool:
    """Whether the command line names a module for the environment or a wrapper, or trusts a file that may."""
    config = getattr(arguments, "config", None)
    names = (getattr(arguments, "env", None) or "", *(config.wrapper if config is not None else ()))
    return getattr(arguments, "trust", False) or any(":" in name for name in names)


def _overview() -> str:
    lines = [f"  upright {name:<9} {(form.__doc__ or '').splitlines()[0]}" for name, (form, _) in COMMANDS.items()]
    return "\n".join(
        [
            "upright: the deep Q-network family for any discrete-action Gymnasium environment.",
            "",
            *lines,
            "",
            "  upright train CartPole-v1 --preset rainbow --seed 3",
            "  upright COMMAND --help lists a command's options, with their units and defaults.",
        ]
    )


def _console(file: Any) -> Any:
    from rich.console import Console

    # What is piped into a file or another program is not cut to the width of a terminal.
    return Console(file=file) if file.isatty() else Console(file=file, width=240)


if __name__ == "__main__":
    sys.exit(main())
