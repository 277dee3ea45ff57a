"""The command line's words as dataclasses: tyro makes the options out of Config, and mistakes become one sentence."""

import argparse
import contextlib
import dataclasses
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from upright.cli.grid import expand, point_name
from upright.errors import SettingError, did_you_mean
from upright.settings.config import FINAL_EPISODES, KINDS, Config, Munchausen
from upright.settings.foreign_names import FOREIGN_NAMES
from upright.settings.presets import PRESETS, preset


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
    """Train an agent, or one a seed; evaluate final policies greedily over 100 episodes; keep all in run folders."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """A Gymnasium id, or module:Id, or module:Class (a class derived from gymnasium.Env)."""
    config: Annotated[Config, tyro.conf.arg(name="")]
    preset: Annotated[str, _name("Where the settings start from", PRESETS)] = "default"
    settings: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE")] = None
    """A JSON file of settings that take the place of the preset's: a study's best.json, or a config.json, or part."""
    loss: Annotated[str, _name("What the network represents, with its own --loss.…", KINDS["loss"])] = "q_learning"
    replay: Annotated[str, _name("How a batch is drawn, with its own --replay.…", KINDS["replay"])] = "uniform"
    munchausen: bool = True
    """Munchausen's log-policy reward; its settings are --munchausen.…"""
    seed: int = 0
    """Seed of everything random: environments, parameters, exploration, batches. [0, inf)."""
    seeds: int | None = None
    """Train so many seeds side by side, --seed the first; called again, it does what is missing. [1, 10000]."""
    jobs: int | None = None
    """With --seeds: seeds trained at once, at most; default: as many as there are cores. [1, inf)."""
    cluster: str | None = None
    """With --seeds: address of a Ray cluster to train them on; auto: this machine's, if any; local: a new one."""
    storage_url: str | None = None
    """With --cluster: fsspec URL where its machines keep the seeds, if they do not have --out's folder in common."""
    out: Path | None = None
    """Folder of the experiment, in which the run takes seed-<seed>; default: a free runs/<env>/<preset>."""
    tensorboard: bool = False
    """Also write event files for TensorBoard into the run folder."""
    dashboard: bool = False
    """Serve the dashboard beside the run, as long as it trains, and print its link."""
    quiet: bool = False
    """Print nothing but errors, and the object that --json asks for."""
    json: bool = False
    """Print the result as one JSON object on the last line of standard output; all else goes to standard error."""

    @property
    def name(self) -> str:
        """What the experiment is called after: the preset, or the file, or the folder of a config.json."""
        if self.settings is None:
            return self.preset
        return self.settings.resolve().parent.name if self.settings.name == "config.json" else self.settings.stem


@dataclass(frozen=True)
class Sweep(Train):
    """Train an experiment for each point of a grid: settings take several values, and all combine.

    A list is one value: --net-arch 64,64 256. A switch takes true and false: --dueling true false. --env-kwargs and
    --wrapper alone take their words together, as in `upright train`.
    """

    seeds: int = 5
    """Seeds of each point, --seed the first; called again, the sweep does what is missing. [1, 10000]."""
    out: Path | None = None
    """Folder of the sweep, in which each point is an experiment; default: runs/<env>/<settings that are swept>."""


@dataclass(frozen=True)
class Tune(Train):
    """Search for settings with Optuna, and write the best as a file that `upright train ENV --config` takes.

    A setting that is given here is no longer searched.
    """

    trials: int = 50
    """Configurations to try, those of the same command before included. [1, inf)."""
    seeds: int = 3
    """Seeds that each of them is trained with, --seed the first. [1, 10000]."""
    jobs: int | None = None
    """Seeds trained at once, at most; default: all of a trial, since it can be pruned when all have come so far."""
    space: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON file with what to search in place of the table in the documentation."""
    out: Path | None = None
    """Folder of the study, in which each trial is an experiment; default: runs/<env>/tune."""
    given: tyro.conf.Suppress[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Resume:
    """Go on with a run that was stopped or killed, from its newest checkpoint, as if it had never stopped."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    total_timesteps: int | None = None
    """Train to that many environment steps instead, also where the run had ended. [1, inf)."""
    env: str | None = None
    """The environment again, where its name has changed or was a Python callable."""
    trust: bool = False
    """Import the modules that the run's files name for its environment and wrappers, and so run their code."""
    tensorboard: bool = False
    """Also write event files for TensorBoard into the run folder."""
    dashboard: bool = False
    """Serve the dashboard beside the run, as long as it trains, and print its link."""
    quiet: bool = False
    """Print nothing but errors, and the object that --json asks for."""
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
    trust: bool = False
    """Import the modules that the policy's file names for its environment and wrappers, and so run their code."""
    json: bool = False
    """Print the result as one JSON object on the last line of standard output."""


@dataclass(frozen=True)
class Watch:
    """Render greedy episodes of a run in a window."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or of a saved policy."""
    episodes: int = 3
    """Episodes to show. [1, inf)."""
    seed: int = 0
    """Seed of the episodes. [0, inf)."""
    env: str | None = None
    """Environment to show, instead of the one that it was trained on."""
    trust: bool = False
    """Import the modules that the policy's file names for its environment and wrappers, and so run their code."""


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs and experiments into a file."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of runs, or of experiments, whose seeds become one curve."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """The picture to write; its suffix says as what: png, svg or pdf."""
    returns: Literal["auto", "train", "eval"] = "auto"
    """Of the episodes while training, or of the evaluations; auto: the evaluations', where all runs have some."""
    smooth: int | None = None
    """Episodes, or evaluations, that each point is the mean of; default: 100 episodes, or 1 evaluation. [1, inf)."""


@dataclass(frozen=True)
class Compare:
    """Put experiments side by side: final policies with intervals, probability of improvement, learning curves."""

    experiments: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT...")]
    """Folders of experiments, or folders that hold some; the first is what the others are compared with."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = None
    """A picture to write: curves, profiles and intervals; its suffix says as what: png, svg or pdf."""
    json: bool = False
    """Print the comparison as one JSON object on the last line of standard output, in place of the tables."""


@dataclass(frozen=True)
class Record:
    """Make a video of greedy episodes of a run, with the values of the actions beside them."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or of a saved policy."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """The video to write; its suffix says as what: mp4, gif or webp."""
    episodes: int = 1
    """Episodes to record. [1, inf)."""
    plain: bool = False
    """Only what the environment renders, without the values."""
    seed: int = 0
    """Seed of the episodes. [0, inf)."""
    env: str | None = None
    """Environment to record, instead of the one that it was trained on."""
    trust: bool = False
    """Import the modules that the policy's file names for its environment and wrappers, and so run their code."""


@dataclass(frozen=True)
class Dashboard:
    """Serve a local page on which runs are compared, agents watched, and training stopped; print its link."""

    runs: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUNS")] = Path("runs")
    """Folder below which runs are looked for."""
    host: str = "127.0.0.1"
    """Address to serve on; any that other machines can reach needs --allow-remote."""
    port: int | None = None
    """Port to serve on; default: 8765, or a free one where that is taken. [0, 65535]."""
    allow_remote: bool = False
    """Let other machines in, unencrypted: whoever has the link sees every run and can stop training."""
    trust: bool = False
    """Import the modules that the runs' files name for environments and wrappers, and so run their code."""


def parse(command: str, form: type, words: list[str]) -> Any:
    """The command's arguments as its dataclass; of a sweep, those of each of its points by the point's name."""
    if form is not Sweep:
        return _parse(command, form, words)
    swept, grid = expand(words)
    points: dict[str, Sweep] = {}
    for each in grid:
        point = _parse(command, form, each)
        name = point_name(swept, point)
        if name in points:
            raise SettingError(f"The grid has {name} twice: give each value once.")
        points[name] = point
    if not swept:
        raise SettingError("Nothing is swept: give a setting several values, as in --learning-rate 1e-3 2e-3.")
    return points


def _parse(command: str, form: type, words: list[str]) -> Any:
    """Tyro's own words about a mistake become one sentence."""
    default: Any = {"default": _chosen(form, words)} if issubclass(form, Train) else {}
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


def _chosen(form: type[Train], words: list[str]) -> Any:
    """Where the settings start from: the preset, with the kinds of loss, replay and Munchausen asked for."""
    if any(word.partition("=")[0] == "--env" for word in words):
        command = form.__name__.lower()
        raise SettingError(f"The environment stands by itself, without --env: upright {command} CartPole-v1.")
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--preset", "--loss", "--replay", "--config"):
        peek.add_argument(name)
    peek.add_argument("--munchausen", action=argparse.BooleanOptionalAction)
    try:
        chosen, _ = peek.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise SettingError(f"{error}.") from error
    asked = {name: getattr(chosen, name) for name in ("loss", "replay", "munchausen")}
    config = preset(chosen.preset or "default")
    if chosen.config is not None:
        from upright.environments.trust import check_settings_file
        from upright.settings.file import read_settings

        path = Path(chosen.config)
        config = read_settings(path, config)
        check_settings_file(path, config, _given(words))
    config = config.override(**{name: value for name, value in asked.items() if value is not None})
    start = form(
        env=tyro.MISSING,
        config=config,
        preset=chosen.preset or "default",
        loss=_kind_name("loss", config.loss),
        replay=_kind_name("replay", config.replay),
        munchausen=config.munchausen is not None,
    )
    return dataclasses.replace(start, given=_given(words)) if isinstance(start, Tune) else start


def _given(words: list[str]) -> tuple[str, ...]:
    """The settings that these words give, those of a loss as loss.double."""
    options = [word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("--")]
    return tuple(".".join(part.removeprefix("no_") for part in option.split(".")) for option in options)


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
        except (ValueError, RecursionError):
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
    known = [each.name for each in dataclasses.fields(form) if each.name not in ("settings", "given")]
    if form is Resume and name.partition(".")[0] in [each.name for each in dataclasses.fields(Config)]:
        return f"A resumed run keeps its settings: {word!r} cannot change; only --total-timesteps can. Train a new run."
    if issubclass(form, Train):
        known += [each.name for each in dataclasses.fields(Config)]
        name = FOREIGN_NAMES.get(name, name)
        config = _chosen(form, words).config
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
    hint = did_you_mean(_option(name), dict.fromkeys(_option(each) for each in known))
    return f"There is no option {word!r}.{hint}"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
