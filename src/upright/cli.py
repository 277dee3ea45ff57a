"""The `upright` command: envs, train, evaluate, watch.

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.arguments import FINAL_EPISODES, Envs, Evaluate, Train, Watch, parse
from upright.errors import Diverged, SettingError, UprightError, did_you_mean

if TYPE_CHECKING:
    from upright.evaluate import Evaluation
    from upright.metrics import Sink
    from upright.run import Run

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
    """Train one run and evaluate its final policy."""
    from upright.run import new_folder, seed_folder

    config, started = arguments.config, time.perf_counter()
    if arguments.out is None:
        folder = new_folder(Path("runs"), arguments.env, config, arguments.preset, arguments.seed)
    else:
        folder = seed_folder(arguments.out, arguments.seed)
    console = _console(sys.stderr if arguments.json else sys.stdout)
    with _printed(console, arguments.quiet) as say:
        result = _train(arguments, folder, console, say, started)
    if arguments.json:
        print(json.dumps(result))
    return INTERRUPTED if result["episodes"] == 0 else 0


def _train(arguments: Train, folder: Path, console: Any, say: Callable[[str], None], started: float) -> dict[str, Any]:
    """Train, evaluate and save; the result, without an evaluation if Ctrl-C ended it."""
    from upright.metrics import TensorBoard, Terminal
    from upright.run import Run

    sinks: list[Sink] = [TensorBoard(folder / "tensorboard")] if arguments.tensorboard else []
    run = Run(arguments.env, arguments.config, arguments.seed, folder)
    try:
        learner, total = run.agent.learner, run.config.total_timesteps
        say(f"Training {run.name} for {total:,} steps: engine {learner.engine} on {learner.device}.")
        if not arguments.quiet:
            sinks.append(Terminal(console, total, run.name))
        finished, evaluation = _loop(run, sinks), None
        run.save()
        if finished:
            with contextlib.suppress(KeyboardInterrupt):
                evaluation = run.agent.evaluate(FINAL_EPISODES)
        result = _result(arguments, run, evaluation, time.perf_counter() - started)
        run.save_result(result)
        stopped = f"Stopped at step {run.step:,}; what was learned is saved."
        say(stopped if evaluation is None else f"Final policy: {evaluation}.")
        say(f"Run: {folder}")
        return result
    except Exception as error:
        if run.step == 0:
            run.discard()
        if run.step == 0 or isinstance(error, Diverged):
            raise
        run.save()
        if not isinstance(error, UprightError):
            raise
        raise UprightError(f"{error} What was learned in {run.step:,} steps is saved in {folder}.") from error
    finally:
        run.close()


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


def _loop(run: Run, sinks: list[Sink]) -> bool:
    """Run the loop to its end, unless Ctrl-C ends it; whether it got there."""
    from upright.train import train

    try:
        for progress in train(run):
            for sink in sinks:
                sink.write(progress)
        return True
    except KeyboardInterrupt:
        return False
    finally:
        for sink in sinks:
            sink.close()


def _result(arguments: Train, run: Run, evaluation: Evaluation | None, seconds: float) -> dict[str, Any]:
    return {
        "env": arguments.env,
        "preset": arguments.preset,
        "seed": arguments.seed,
        "engine": run.agent.learner.engine,
        "steps": run.step,
        "updates": run.updates,
        "seconds": round(seconds, 3),
        **_scores(evaluation),
        "run": str(run.folder),
    }


def _scores(evaluation: Evaluation | None) -> dict[str, Any]:
    """Null where there was no evaluation, or no threshold to solve."""
    return {
        "final_mean": evaluation and evaluation.mean,
        "final_std": evaluation and evaluation.std,
        "episodes": 0 if evaluation is None else len(evaluation.returns),
        "threshold": evaluation and evaluation.threshold,
        "solved": evaluation and evaluation.solved,
    }


def evaluate(arguments: Evaluate) -> int:
    """Evaluate a saved policy."""
    from upright.agent import load

    agent = load(arguments.run, trust=arguments.trust)
    evaluation = agent.evaluate(arguments.episodes, arguments.seed, arguments.env)
    if arguments.json:
        env = arguments.env or agent.source
        print(json.dumps({"env": env, "seed": arguments.seed, **_scores(evaluation), "run": str(arguments.run)}))
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


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "envs": (Envs, envs),
    "train": (Train, train),
    "evaluate": (Evaluate, evaluate),
    "watch": (Watch, watch),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it did what was asked, 2 for a mistake of the user's, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    # So that module:Class finds a module in the folder that the user stands in; last, so that it hides no other.
    sys.path.append(str(Path.cwd()))
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
        status = action(parse(words[0], form, words[1:]))
        sys.stdout.flush()
        return status
    except UprightError as error:
        print(f"upright: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has had enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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
