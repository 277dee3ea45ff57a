"""The `upright` command: envs, train, sweep, tune, resume, evaluate, watch, record, plot, compare, dashboard.

Nothing here imports NumPy, Gymnasium or PyTorch before it is needed, so that help and mistakes answer at once.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

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
)
from upright.cli.parsing import parse
from upright.errors import SettingError, UprightError, did_you_mean

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it

COMMANDS: dict[str, type] = {
    "envs": Envs,
    "train": Train,
    "sweep": Sweep,
    "tune": Tune,
    "resume": Resume,
    "evaluate": Evaluate,
    "watch": Watch,
    "record": Record,
    "plot": Plot,
    "compare": Compare,
    "dashboard": Dashboard,
}


def _action(command: str) -> Callable[[Any], int]:
    """The function of the command's name, in a module that is imported when the command is given."""
    home: ModuleType
    match command:
        case "train" | "resume":
            from upright.cli import training

            home = training
        case "sweep":
            from upright.cli import experiments

            home = experiments
        case "tune":
            from upright.cli import tuning

            home = tuning
        case "evaluate" | "watch" | "record":
            from upright.cli import policies

            home = policies
        case _:
            from upright.cli import reading

            home = reading
    action: Callable[[Any], int] = getattr(home, command)
    return action


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
        form = COMMANDS[words[0]]
        arguments = parse(words[0], form, words[1:])
        if _asks_for_a_module(arguments):
            # So that module:Class finds a module in the folder that the user stands in; last, so that it hides no
            # other. Not otherwise: what stands in a folder that was downloaded is not to stand in for what is missing.
            sys.path.append(str(Path.cwd()))
        status = _action(words[0])(arguments)
        sys.stdout.flush()
        return status
    except UprightError as error:
        print(f"upright: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt as interrupt:
        return 128 + interrupt.args[0] if interrupt.args else INTERRUPTED
    except BrokenPipeError:  # the reader of the output has closed it, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # what a path that the user gave came to, where nothing else has said so
        about = UprightError(f"{error.filename or 'The system'} cannot be used: {error.strerror or error}.")
        print(f"upright: {about}", file=sys.stderr)
        return USAGE_ERROR


def _asks_for_a_module(arguments: Any) -> bool:
    """True if the command line names a module for the environment or a wrapper, or trusts a file that may."""
    if isinstance(arguments, dict):  # of a sweep's points
        return any(map(_asks_for_a_module, arguments.values()))
    config = getattr(arguments, "config", None)
    names = (getattr(arguments, "env", None) or "", *(config.wrapper if config is not None else ()))
    return getattr(arguments, "trust", False) or any(":" in name for name in names)


def _overview() -> str:
    lines = [f"  upright {name:<9} {(form.__doc__ or '').splitlines()[0]}" for name, form in COMMANDS.items()]
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
