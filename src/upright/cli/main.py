"""The `upright` command: envs, train, sweep, tune, resume, evaluate, watch, record, plot, compare, dashboard.

Nothing here imports NumPy, Gymnasium or PyTorch before it is needed, so that help and mistakes answer at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.cli.arguments import (
    Compare,
    Dashboard,
    Envs,
    Evaluate,
    Plot,
    Record,
    Resume,
    Sweep,
    Train,
    Tune,
    Watch,
    parse,
)
from upright.errors import SettingError, UprightError, did_you_mean

if TYPE_CHECKING:
    from upright.runs.metrics import Sink
    from upright.runs.run import Run

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def envs(arguments: Envs) -> int:
    """Print the registry with a verdict on each id."""
    from upright.environments.registry import inspect, registered

    names = registered(arguments.filter)
    if not names:
        from upright.environments.sources import unknown_environment

        raise SettingError(unknown_environment(arguments.filter))
    entries = [inspect(name) for name in names]
    if arguments.json:
        for entry in entries:
            print(json.dumps({**dataclasses.asdict(entry), "trains": entry.trains}))
        return 0
    from rich import box
    from rich.table import Table

    from upright.views.terminal import console_on

    table = Table("id", "observation", "action", "threshold", "verdict", box=box.SIMPLE_HEAD)
    for entry in entries:
        threshold = "" if entry.threshold is None else f"{entry.threshold:g}"
        table.add_row(entry.id, entry.observation, entry.action, threshold, entry.verdict)
    console_on(sys.stdout).print(table)
    return 0


def train(arguments: Train) -> int:
    """Train one run and evaluate its final policy, or those of several seeds."""
    if arguments.seeds is not None:
        from upright.cli.experiments import experiment

        return experiment(arguments)
    for name in ("jobs", "cluster", "storage_url"):
        if getattr(arguments, name) is not None:
            raise SettingError(
                f"--{name.replace('_', '-')} is for several seeds at once: give their number with --seeds."
            )
    from upright.runs.folders import new_folder, seed_folder
    from upright.runs.run import Run

    config = arguments.config
    if arguments.out is None:
        folder = new_folder(Path("runs"), arguments.env, config, arguments.name, arguments.seed)
    else:
        folder = seed_folder(arguments.out, arguments.seed)
    return _finish(arguments, folder, lambda: Run(arguments.env, config, arguments.seed, folder), arguments.preset)


def sweep(points: dict[str, Sweep]) -> int:
    """Train an experiment for each point of a grid."""
    from upright.cli.experiments import sweep

    return sweep(points)


def tune(arguments: Tune) -> int:
    """Search for settings."""
    from upright.cli.tune import tune

    return tune(arguments)


def resume(arguments: Resume) -> int:
    """Go on with a run from its newest checkpoint."""
    from upright.runs.run import Run

    folder = arguments.run
    return _finish(
        arguments, folder, lambda: Run.open(folder, arguments.total_timesteps, arguments.env, trust=arguments.trust)
    )


def _finish(arguments: Train | Resume, folder: Path, begin: Callable[[], Run], preset: str | None = None) -> int:
    """Train a run to its end, or to where it is stopped, and print what came of it; the exit status."""
    from upright.dashboard import beside
    from upright.views.terminal import console_on, printed

    console = console_on(sys.stderr if arguments.json else sys.stdout)
    trust = isinstance(arguments, Resume) and arguments.trust  # a new run vouches for no other in its folder
    with printed(console, arguments.quiet) as say, beside.if_asked(arguments.dashboard, folder, trust, console):
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
    from upright.result import train_to_result
    from upright.runs.folders import RunFolder
    from upright.runs.metrics import TensorBoard
    from upright.views.terminal import Terminal

    began = time.perf_counter()
    sinks: list[Sink] = [TensorBoard(RunFolder(folder).tensorboard)] if arguments.tensorboard else []
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
    from upright.views.watch import show

    agent = load(arguments.run, trust=arguments.trust)
    try:
        for reward, length in show(agent, arguments.episodes, arguments.seed, arguments.env):
            print(f"return {reward:g} in {length:,} steps")
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def plot(arguments: Plot) -> int:
    """Draw the curves of runs into a file."""
    from upright.comparison.curves import plot

    for experiment in plot(arguments.runs, arguments.out, arguments.returns, arguments.smooth):
        print(f"{experiment.env}, {experiment.label}: {', '.join(experiment.curves)}")
    print(f"Picture: {arguments.out}")
    return 0


def compare(arguments: Compare) -> int:
    """Print experiments side by side, and draw them if a picture is asked for."""
    from upright.comparison.compare import read_comparison
    from upright.comparison.report import report_on
    from upright.comparison.table import tables
    from upright.views.terminal import console_on

    if arguments.out is not None:
        from upright.comparison.curves import check_picture

        check_picture(arguments.out)
    comparison = read_comparison(arguments.experiments)
    report = report_on(comparison)
    if arguments.out is not None:
        from upright.comparison.curves import save
        from upright.comparison.picture import draw

        save(draw(comparison), arguments.out)
    if arguments.json:
        print(json.dumps(report.to_dict()))
        return 0
    console = console_on(sys.stdout)
    for shown in tables(report, console.width):
        console.print(shown, highlight=False, soft_wrap=isinstance(shown, str), markup=False)
    if arguments.out is not None:
        print(f"Picture: {arguments.out}")
    return 0


def record(arguments: Record) -> int:
    """Write episodes of a saved policy to a video."""
    from upright.agent import load
    from upright.views.record import write_video

    agent = load(arguments.run, trust=arguments.trust)
    for reward, length in write_video(
        agent, arguments.out, arguments.episodes, arguments.seed, arguments.env, arguments.plain
    ):
        print(f"return {reward:g} in {length:,} steps")
    print(f"Video: {arguments.out}")
    return 0


def dashboard(arguments: Dashboard) -> int:
    """Serve the dashboard until Ctrl-C."""
    from upright.dashboard.beside import check_installed

    check_installed()
    from upright.dashboard.server import serve
    from upright.runs.folders import SEED

    root = arguments.runs
    if root.name.startswith(SEED):  # a run: its experiment is what can be compared
        root = root.absolute().parent
    with contextlib.suppress(KeyboardInterrupt):
        serve(
            root,
            arguments.host,
            arguments.port,
            arguments.allow_remote,
            arguments.trust,
            functools.partial(print, flush=True),
        )
    return 0


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "envs": (Envs, envs),
    "train": (Train, train),
    "sweep": (Sweep, sweep),
    "tune": (Tune, tune),
    "resume": (Resume, resume),
    "evaluate": (Evaluate, evaluate),
    "watch": (Watch, watch),
    "record": (Record, record),
    "plot": (Plot, plot),
    "compare": (Compare, compare),
    "dashboard": (Dashboard, dashboard),
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
    if isinstance(arguments, dict):  # of a sweep's points
        return any(map(_asks_for_a_module, arguments.values()))
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
