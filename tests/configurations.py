"""Configurations that tests share. Those of losses, replays and activations are made from what the settings name, so
that a new one meets every property that the others have to have, in every engine that can do it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from upright.errors import SettingError
from upright.learners import obstacle_to_native
from upright.learners.problem import Problem
from upright.settings.config import Config
from upright.settings.kinds import KINDS, Loss, Munchausen, QLearning, Replay
from upright.settings.presets import PRESETS

PROBLEM = Problem(observation_shape=(4,), is_image=False, num_actions=3)
BOOTSTRAPS = ("greedy", "double", "munchausen")


def options(name: str, cls: type = Config) -> tuple[str, ...]:
    """The values of a setting that is one of several words."""
    return get_args(get_type_hints(cls)[name])


def bounds(cls: type, name: str) -> tuple[float, bool, float, bool] | None:
    """The least value of a number, and whether it may be that; the same of the greatest."""
    if (interval := cls._ranges.get(name)) is None:
        return None
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    return low, interval[0] == "[", high, interval[-1] == "]"


def small(cls: type) -> Any:
    """A value of that class with few outputs: its whole numbers are 5, 6, …, no two the same, the rest as by default."""
    hints = get_type_hints(cls)
    whole = [field.name for field in dataclasses.fields(cls) if hints[field.name] is int]
    return cls(**dict(zip(whole, itertools.count(5), strict=False)))


def variants(value: Any) -> Iterator[tuple[str, Any]]:
    """The value with each of its words, and with the numbers at which its equations may change, by name."""
    cls = type(value)
    hints = get_type_hints(cls)
    for field in dataclasses.fields(value):
        now, others = getattr(value, field.name), []
        if get_origin(hints[field.name]) is Literal:
            others = [each for each in options(field.name, cls) if each != now]
        elif hints[field.name] is float and (found := bounds(cls, field.name)):
            others = [now / 2, *([found[0]] if found[1] else [])]
        for other in others:
            yield f"{field.name}={other}", dataclasses.replace(value, **{field.name: other})


LOSSES: dict[str, Loss] = {name: small(cls) for name, cls in KINDS["loss"].items()}
REPLAYS: dict[str, Replay] = {name: small(cls) for name, cls in KINDS["replay"].items()}
ACTIVATIONS = options("activation")
# The losses as they are, and each with one of its own settings changed.
VARIANTS: dict[str, Loss] = {
    **LOSSES,
    **{f"{name}, {change}": other for name, loss in LOSSES.items() for change, other in variants(loss)},
}


def bootstrapped(loss: Loss, bootstrap: str, munchausen: Munchausen | None = None) -> dict[str, Any]:
    """The settings by which a loss bootstraps so; munchausen: the paper's numbers, unless others are given."""
    return {
        "loss": dataclasses.replace(loss, double=True) if bootstrap == "double" else loss,
        "munchausen": (munchausen or Munchausen()) if bootstrap == "munchausen" else None,
    }


def bootstraps(loss: Loss) -> list[str]:
    """Those of BOOTSTRAPS that the loss combines with, the first of which is its own."""
    found = ["greedy"]
    if any(field.name == "double" for field in dataclasses.fields(loss)):
        found.append("double")
    with contextlib.suppress(SettingError):
        Config(**bootstrapped(loss, "munchausen"))
        found.append("munchausen")
    return found


# Each loss with each bootstrap that it combines with.
BOOTSTRAPPED = [(name, bootstrap) for name, loss in LOSSES.items() for bootstrap in bootstraps(loss)]

# Each loss with all that a network can have, and with Munchausen if it combines with that.
EVERYTHING: dict[str, dict[str, Any]] = {
    name: {**bootstrapped(loss, bootstraps(loss)[-1]), "dueling": True, "noisy": True, "layer_norm": True}
    for name, loss in LOSSES.items()
}

# What a learner's state has to hold: the optimisers' moments, the target's lag, noise, fractions, buffers of batches.
STATES: dict[str, dict[str, Any]] = {
    "adamw, amsgrad": {"optimizer": "adamw", "amsgrad": True, "weight_decay": 0.1},
    "rmsprop, lagging target": {"optimizer": "rmsprop", "tau": 0.1},
    "noisy, dueling": {"optimizer": "adam", "noisy": True, "dueling": True},
    **{optimizer: {"optimizer": optimizer} for optimizer in options("optimizer")},
    **{activation: {"optimizer": "adam", "activation": activation} for activation in ACTIVATIONS},
    **{replay: {"optimizer": "adam", "replay": value} for replay, value in REPLAYS.items()},
    **{loss: {"optimizer": "adam", **settings} for loss, settings in EVERYTHING.items()},
}


def plain(**settings: Any) -> Config:
    """A small configuration without extras: squared error, SGD at a rate of 1, no clipping, uniform replay."""
    defaults = {
        "net_arch": (8,),
        "loss": QLearning(error="squared"),
        "munchausen": None,
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "max_grad_norm": None,
        "engine": "torch",
        "device": "cpu",
    }
    return Config(**{**defaults, **settings})


def native_can(**settings: Any) -> bool:
    """True if the native engine computes with these settings."""
    return obstacle_to_native(plain(**settings), PROBLEM, has_own_network=False) is None


# What of the above the native engine can do; empty where upright was installed without a compiler.
NATIVE_LOSSES = [name for name, loss in LOSSES.items() if native_can(loss=loss)]
NATIVE_ACTIVATIONS = [name for name in ACTIVATIONS if native_can(activation=name)]
NATIVE_EVERYTHING = {name: EVERYTHING[name] for name in NATIVE_LOSSES}
NATIVE_STATES = {name: settings for name, settings in STATES.items() if native_can(**settings)}


# Runs

# Settings of a run of a fraction of a second.
SHORT: Mapping[str, Any] = {"total_timesteps": 300, "learning_starts": 50, "batch_size": 8, "net_arch": (8,)}

# A run that is small and yet has everything: a full replay memory, several checkpoints, evaluations, target updates.
TINY = PRESETS["default"].override(
    total_timesteps=600,
    checkpoint_every=150,
    learning_starts=50,
    batch_size=8,
    buffer_size=250,
    net_arch=(8,),
    log_interval=100,
    target_update_interval=40,
    eval_freq=200,
    n_eval_episodes=2,
    max_episode_steps=100,
)


def as_words(**settings: Any) -> list[str]:
    """Settings as the command line has them."""
    found = []
    for name, value in settings.items():
        found += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return found
