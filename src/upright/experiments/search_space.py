"""The search space of `upright tune`: settings with their values, and how a draw from it becomes a Config."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright import files
from upright.errors import SettingError
from upright.files import is_number
from upright.settings.config import Config
from upright.settings.foreign_names import unknown_setting
from upright.settings.kinds import KINDS, Munchausen, kind

if TYPE_CHECKING:
    import optuna

MOST_CHOICES = 1_000
# Trials have to be at the same task, and judged alike.
NOT_SEARCHED = (
    "total_timesteps", "env_kwargs", "wrapper", "discretize", "max_episode_steps", "eval_freq", "n_eval_episodes"
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """One of these values, as JSON has them."""

    values: tuple[Any, ...]

    def draw(self, trial: optuna.Trial, name: str) -> Any:
        """One value, which the study knows by its text if it is a list."""
        named = {json.dumps(each) if isinstance(each, list) else each: each for each in self.values}
        return named[trial.suggest_categorical(name, list(named))]

    def ends(self) -> tuple[Any, ...]:
        """Raise SettingError for values that cannot be drawn."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A number between two, both included; a whole one if both are. log: evenly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def draw(self, trial: optuna.Trial, name: str) -> Any:
        """A number."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def ends(self) -> tuple[Any, ...]:
        """Raise SettingError for values that cannot be drawn."""
        return self.low, self.high


Space = Mapping[str, Choice | Range]

# A setting with a dot belongs to a kind of loss or replay, or to Munchausen, and is drawn only where that was drawn.
# loss.double is drawn only without Munchausen, with which it cannot be combined.
SPACE: Space = {
    "learning_rate": Range(3e-4, 1e-2, log=True),
    "learning_rate_schedule": Choice(("constant", "linear")),
    "net_arch": Choice(([64, 64], [128, 128], [256, 256])),
    "layer_norm": Choice((False, True)),
    "dueling": Choice((False, True)),
    "batch_size": Choice((32, 64, 128, 256)),
    "train_freq": Choice((1, 2, 4, 8)),
    "target_update_interval": Range(50, 2_000, log=True),
    "buffer_size": Choice((10_000, 30_000, 100_000)),
    "replay": Choice(("uniform", "prioritised")),
    "n_steps": Choice((1, 2, 3, 5, 10)),
    "gamma": Choice((0.95, 0.98, 0.99, 0.995, 0.999)),
    "loss": Choice(("q_learning", "quantile")),
    "loss.error": Choice(("huber", "squared")),
    "loss.quantiles": Choice((20, 50)),
    "loss.double": Choice((False, True)),
    "munchausen": Choice((False, True)),
    "munchausen.alpha": Range(0.3, 0.95),
    "munchausen.temperature": Range(0.01, 0.1, log=True),
    "exploration_final_eps": Range(0.005, 0.1, log=True),
    "exploration_fraction": Range(0.05, 0.5),
}


def read_space(path: Path) -> Space:
    """The space in a JSON file, which takes the place of the table: a list of values, or low, high and log.

    {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}, "net_arch": [[64, 64], [256, 256]]}
    """
    return space_from_dict(files.read_json(path), str(path))


def space_from_dict(values: Mapping[str, Any], where: str) -> Space:
    """Read what `space_to_dict` returned, or a user wrote. Raises SettingError for anything else."""
    space: dict[str, Choice | Range] = {}
    counts = _counts()
    for name, each in values.items():
        match each:
            case [_, *_] if len(each) <= MOST_CHOICES and all(map(_is_choice, each)):
                space[name] = Choice(tuple(each))
            case {"low": low, "high": high, **rest} if is_number(low) and is_number(high) and set(rest) <= {"log"}:
                log = rest.get("log", False)
                if not isinstance(log, bool) or not low <= high or (log and low <= 0):
                    raise SettingError(
                        f"{name} in {where} goes from {low} to {high}: low has to be at most high, and above 0 where "
                        "log is true; log is true or false."
                    )
                whole = name in counts and float(low).is_integer() and float(high).is_integer()
                space[name] = Range(int(low), int(high), log) if whole else Range(low, high, log)
            case _:
                raise SettingError(
                    f"{name} in {where} has to be a list of values, as in [1, 3, 5], or "
                    '{"low": 1e-4, "high": 1e-2, "log": true}.'
                )
    if not space:
        raise SettingError(f"{where} has no setting to search.")
    return space


def _counts() -> set[str]:
    """The settings that are whole numbers, whose ranges JSON may write as 1e3."""
    parts = [("", Config), ("munchausen.", Munchausen)]
    parts += [(f"{root}.", cls) for root, kinds in KINDS.items() for cls in kinds.values()]
    return {
        prefix + name
        for prefix, cls in parts
        for name, annotation in typing.get_type_hints(cls).items()
        if annotation in (int, int | None)
    }


def space_to_dict(space: Space) -> dict[str, Any]:
    """As JSON values."""
    return {
        name: list(each.values) if isinstance(each, Choice) else dataclasses.asdict(each)
        for name, each in space.items()
    }


def _is_choice(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, int) for each in value) and len(value) <= MOST_CHOICES
    return value is None or isinstance(value, (bool, str)) or is_number(value)


def check_space(space: Space, config: Config) -> None:
    """Refuse a setting that there is not, or a value that it cannot have, before anything is trained."""
    known = [each.name for each in dataclasses.fields(Config)]
    for name, each in space.items():
        root, dot, part = name.partition(".")
        if root in NOT_SEARCHED:
            raise SettingError(
                f"{root} cannot be searched: what differs in it cannot be compared; give it as --option."
            )
        if root not in known or (dot and root not in (*KINDS, "munchausen")):
            raise SettingError(unknown_setting(name, known))
        parents = _parents(root, space, config) if dot else [None]
        having = [parent for parent in parents if not dot or _has(parent, part)]
        if not having:
            raise SettingError(f"{name} is to be searched, but no {root} that is searched has {part}.")
        parent: Any = having[0]
        for value in each.ends():
            if dot:
                dataclasses.replace(parent, **{part: value})
            elif root == "munchausen" or root in KINDS:
                _part(root, value, config)
            else:
                _check_value(name, value, space, config)


def _check_value(name: str, value: Any, space: Space, config: Config) -> None:
    """Refuse a value that can stand neither by itself nor beside any value of one other setting that is searched."""
    try:
        config.override(**{name: _as_setting(value)})
    except SettingError:
        others = [other for other in space if "." not in other and other != name]
        for beside in [{other: _as_setting(end)} for other in others for end in space[other].ends()]:
            with contextlib.suppress(SettingError):
                config.override(**{name: _as_setting(value)}, **beside)
                return
        raise


def narrowed(space: Space, fixed: Iterable[str], config: Config) -> Space:
    """The space without the settings that are fixed, and without the parts of what then cannot be drawn."""
    left = {name: each for name, each in space.items() if name not in set(fixed)}
    return {
        name: each
        for name, each in left.items()
        if "." not in name
        or any(_has(parent, name.partition(".")[2]) for parent in _parents(name.partition(".")[0], left, config))
    }


def _has(parent: Any, part: str) -> bool:
    return parent is not None and part in [field.name for field in dataclasses.fields(parent)]


def _parents(root: str, space: Space, config: Config) -> list[Any]:
    """Return the values that a loss, a replay or Munchausen can have."""
    each = space.get(root)
    return [getattr(config, root)] if each is None else [_part(root, value, config) for value in each.ends()]


def _part(root: str, value: Any, config: Config) -> Any:
    """The loss, replay or Munchausen that a value of the space stands for, with the config's numbers if it has it."""
    current = getattr(config, root)
    if root == "munchausen":
        if not isinstance(value, bool):
            raise SettingError(f"munchausen is {value!r} in the space, but it has to be true or false.")
        return (current or Munchausen()) if value else None
    if not isinstance(value, str):
        raise SettingError(f"{root} is {value!r} in the space, but it has to be one of {', '.join(KINDS[root])}.")
    return current if isinstance(current, kind(root, value)) else kind(root, value)()


def draw(trial: optuna.Trial, space: Space, config: Config) -> Config:
    """The config with what the trial draws from the space. Raises SettingError where that cannot be combined."""
    return configured(config, dict(_drawn(trial, space, config)))


def _drawn(trial: optuna.Trial, space: Space, config: Config) -> Iterator[tuple[str, Any]]:
    parts = {root: getattr(config, root) for root in (*KINDS, "munchausen")}
    for name, each in sorted(
        space.items(), key=lambda item: "." in item[0]
    ):  # stable: in the table's order but for that
        root, dot, part = name.partition(".")
        if dot and not _has(parts[root], part):
            continue
        if name == "loss.double" and parts["munchausen"] is not None:
            yield name, False
            continue
        value = each.draw(trial, name)
        if not dot and root in parts:
            parts[root] = _part(root, value, config)
        yield name, value


def configured(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with values of a space, all at once, so that only the whole has to be possible."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        root, dot, _ = name.partition(".")
        if not dot:
            changes[root] = _part(root, value, config) if root in (*KINDS, "munchausen") else _as_setting(value)
    for name, value in values.items():
        root, dot, part = name.partition(".")
        if dot:
            changes[root] = dataclasses.replace(changes.get(root, getattr(config, root)), **{part: value})
    return dataclasses.replace(config, **changes)


def _as_setting(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
