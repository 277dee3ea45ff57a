"""The `upright` command: envs, train, evaluate, watch.

tyro makes the options of `train` out of Config. Nothing here imports NumPy, Gymnasium or PyTorch before it is
needed, so that help and mistakes answer at once.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from upright.config import FOREIGN_NAMES, KINDS, Config, Munchausen
from upright.errors import Diverged, SettingError, UprightError, did_you_mean
from upright.presets import PRESETS, preset

if TYPE_CHECKING:
    from upright.evaluate import Evaluation
    from upright.metrics import Sink
    from upright.run import Run

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
FINAL_EPISODES = 100


def _name(text: str, names: Iterable[str]) -> Any:
    return tyro.conf.arg(metavar="NAME", help=f"{text}: {', '.join(names)}.")


@dataclass(frozen=True)
class Envs:
    """List Gymnasium's registry: observation, action, reward threshold, and whether upright trains on it."""

    filter: Annotated[str, tyro.conf.Positional] = ""
    """Only ids that contain this text."""
    json: bool = False
    """Print one JSON object a line."""


@dataclass(frozen=True)
class Train:
    """Train one agent, evaluate its final policy greedily over 100 episodes, and keep both in a run folder."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """A Gymnasium id, or module:Id, or module:Class (a class derived from gymnasium.Env)."""
    config: Annotated[Config, tyro.conf.arg(name="")]
    preset: Annotated[str, _name("Where the settings start from", PRESETS)] = "default"
    loss: Annotated[str, _name("What the network represents, with its own --loss.…", KINDS["loss"])] = "q_learning"
    replay: Annotated[str, _name("How a batch is drawn, with its own --replay.…", KINDS["replay"])] = "uniform"
    munchausen: bool = True
    """Munchausen's log-policy reward; its settings are --munchausen.…"""
    seed: int = 0
    """Seed of everything random: environments, parameters, exploration, batches. [0, inf)."""
    out: Path | None = None
    """Folder of the experiment, in which the run takes seed-<seed>; default: a free runs/<env>/<preset>."""
    tensorboard: bool = False
    """Also write event files for TensorBoard into the run folder."""
    quiet: bool = False
    """Print nothing while training."""
    json: bool = False
    """Print the result as one JSON object on the last line of standard output; all else goes to standard error."""


@dataclass(frozen=True)
class Evaluate:
    """Run the greedy policy of a run on fresh environments with seeds of their own."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or of a saved policy."""
    episodes: int = FINAL_EPISODES
    """Episodes to run. [1, inf)."""
    seed: int = 0
    """Seed of the episodes. [0, inf)."""
    env: str | None = None
    """Environment to evaluate on, instead of the one that it was trained on."""
    json: bool = False
    """Print the result as one JSON object on the last line of standard output."""


@dataclass(frozen=True)
class Watch:
    """Render greedy episodes of a run in a window, until it is closed or Ctrl-C."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or of a saved policy."""
    episodes: int = 3
    """Episodes to show. [1, inf)."""
    seed: int = 0
    """Seed of the episodes. [0, inf)."""
    env: str | None = None
    """Environment to show, instead of the one that it was trained on."""


def envs(arguments: Envs) -> int:
    from upright.registry import inspect, registered

    names = registered(arguments.filter)
    if not names:
        from upright.envs import unknown_environment

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
    _one_thread_for_vectors(run)
    try:
        learner, total = run.agent.learner, run.config.total_timesteps
        say(f"Training {run.name} for {total:,} steps: engine {learner.engine} on {learner.device}.")
        if not arguments.quiet:
            sinks.append(Terminal(console, total, run.name))
        finished = _loop(run, sinks)
        run.save()
        evaluation = run.agent.evaluate(FINAL_EPISODES) if finished else None
        result = _result(arguments, run, evaluation, time.perf_counter() - started)
        run.save_result(result)
        say(f"Final policy: {evaluation}." if finished else f"Stopped at step {run.step:,}; what was learned is saved.")
        say(f"Run: {folder}")
        return result
    except UprightError as error:
        if run.step == 0:
            run.discard()
        if run.step == 0 or isinstance(error, Diverged):
            raise
        run.save()
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


def _loop(run: "Run", sinks: "list[Sink]") -> bool:
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


def _result(arguments: Train, run: "Run", evaluation: "Evaluation | None", seconds: float) -> dict[str, Any]:
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


def _scores(evaluation: "Evaluation | None") -> dict[str, Any]:
    """Null where there was no evaluation, or no threshold to solve."""
    return {
        "final_mean": evaluation and evaluation.mean,
        "final_std": evaluation and evaluation.std,
        "episodes": 0 if evaluation is None else len(evaluation.returns),
        "threshold": evaluation and evaluation.threshold,
        "solved": evaluation and evaluation.solved,
    }


def _one_thread_for_vectors(run: "Run") -> None:
    """Networks of a few hundred units lose more to handing work between threads than they gain."""
    if not run.agent.observations.is_image and max(run.config.net_arch, default=0) <= 512:
        import torch

        torch.set_num_threads(1)


def evaluate(arguments: Evaluate) -> int:
    from upright.agent import load

    _at_least_one(arguments.episodes)
    agent = load(arguments.run)
    evaluation = agent.evaluate(arguments.episodes, arguments.seed, arguments.env)
    if arguments.json:
        env = arguments.env or agent.source
        print(json.dumps({"env": env, "seed": arguments.seed, **_scores(evaluation), "run": str(arguments.run)}))
    else:
        print(f"{evaluation}.")
    return 0


def watch(arguments: Watch) -> int:
    from upright.agent import load
    from upright.watch import watch

    _at_least_one(arguments.episodes)
    try:
        for reward, length in watch(load(arguments.run), arguments.episodes, arguments.seed, arguments.env):
            print(f"return {reward:g} in {length:,} steps")
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _at_least_one(episodes: int) -> None:
    if episodes < 1:
        raise SettingError(f"episodes is {episodes}, but it has to lie in [1, inf).")


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
        return action(_parse(words[0], form, words[1:]))
    except UprightError as error:
        print(f"upright: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


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


def _parse(command: str, form: type, words: list[str]) -> Any:
    """The command's arguments as its dataclass. tyro's own words about a mistake become one sentence."""
    default: Any = {} if form is not Train else {"default": _chosen(words)}
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            parsed, unknown = tyro.cli(
                form,
                prog=f"upright {command}",
                args=words,
                return_unknown_args=True,
                registry=_registry(),
                config=(tyro.conf.AvoidSubcommands,),
                **default,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise SettingError(_one_sentence(printed.getvalue())) from None
    if unknown:
        raise SettingError(_unknown_word(unknown[0], form, words))
    return parsed


def _chosen(words: list[str]) -> Any:
    """Where `train`'s settings start from: the preset, with the kinds of loss, replay and Munchausen asked for."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--preset", "--loss", "--replay"):
        peek.add_argument(name)
    peek.add_argument("--munchausen", action=argparse.BooleanOptionalAction)
    try:
        chosen, _ = peek.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise SettingError(f"{error}.") from error
    asked = {name: getattr(chosen, name) for name in ("loss", "replay", "munchausen")}
    config = preset(chosen.preset or "default")
    config = config.override(**{name: value for name, value in asked.items() if value is not None})
    return Train(
        env=tyro.MISSING,
        config=config,
        preset=chosen.preset or "default",
        loss=_kind_name("loss", config.loss),
        replay=_kind_name("replay", config.replay),
        munchausen=config.munchausen is not None,
    )


def _kind_name(setting: str, value: Any) -> str:
    return next(name for name, cls in KINDS[setting].items() if isinstance(value, cls))


def _registry() -> tyro.constructors.ConstructorRegistry:
    """Teach tyro `--env-kwargs key=value …`, each value JSON where it can be read so, else text."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def env_kwargs(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if info.type_origin is not Mapping:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*",
            metavar="KEY=VALUE ...",
            instance_from_str=_pairs,
            is_instance=lambda value: isinstance(value, Mapping),
            str_from_instance=lambda value: [f"{key}={json.dumps(each)}" for key, each in value.items()],
        )

    return registry


def _pairs(words: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key and equals):
            raise SettingError(
                f"--env-kwargs takes key=value, and {word!r} is none; write --env-kwargs is_slippery=false."
            )
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = {"True": True, "False": False, "None": None}.get(text, text)
    return values


def _one_sentence(printed: str) -> str:
    """The first paragraph of tyro's report below its title, which stands in the frame or above a rule."""
    framed = "│" in printed
    lines = [line.strip(" │") for line in printed.splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line and set(line) <= {"─", "-"}:
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    words = " ".join(paragraphs[0] if framed or len(paragraphs) == 1 else paragraphs[1]).split()
    text = re.sub(r"\s+([.,])", r"\1", " ".join(words))
    return text if text.endswith(".") else f"{text}."


def _unknown_word(word: str, form: type, words: list[str]) -> str:
    if not word.startswith("-"):
        return f"There is no place for {word!r}: put options first in the form --name value."
    name = word.lstrip("-").partition("=")[0].replace("-", "_").removeprefix("no_")
    known = [each.name for each in dataclasses.fields(form) if each.name != "config"]
    if form is Train:
        known += [each.name for each in dataclasses.fields(Config)]
        name = FOREIGN_NAMES.get(name, name)
        config = _chosen(words).config
        homes: dict[str, dict[str, type]] = {**KINDS, "munchausen": {"": Munchausen}}
        for part, kinds in homes.items():
            value = getattr(config, part)
            known += [f"{part}.{each.name}" for each in dataclasses.fields(value)] if value is not None else []
            home = [
                f"--{part} {each}".strip()
                for each, cls in kinds.items()
                if name in [f"{part}.{field.name}" for field in dataclasses.fields(cls)]
            ]
            if home and name not in known:
                return f"There is no option {word!r} with these settings: choose {home[0]}, then {_option(name)}."
    if name in known:
        return f"There is no option {word!r}. Did you mean {_option(name)!r}?"
    hint = did_you_mean(_option(name), [_option(each) for each in known])
    return f"There is no option {word!r}.{hint}"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _console(file: Any) -> Any:
    from rich.console import Console

    # What is piped into a file or another program is not cut to the width of a terminal.
    return Console(file=file) if file.isatty() else Console(file=file, width=240)


if __name__ == "__main__":
    sys.exit(main())

__all__ = ["PRESETS", "main"]
