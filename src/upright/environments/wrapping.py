"""Wrappers around an environment: those that the settings name, and the one that cuts continuous actions into bins."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.vector import VectorWrapper

from upright.environments.actions import undiscretizable
from upright.errors import SettingError, did_you_mean
from upright.messages import first_line


def wrap(env: gymnasium.Env[Any, Any], text: str) -> gymnasium.Env[Any, Any]:
    """Apply a wrapper written Class, module:Class or module:Class(key=value, …), the values plain Python literals."""
    path, _, rest = text.partition("(")
    module, _, name = path.strip().rpartition(":")
    try:
        home = importlib.import_module(module or "gymnasium.wrappers")
        call = ast.parse(f"wrapper({rest or ')'}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("not a list of key=value")
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ImportError as error:
        raise SettingError(f"The wrapper {text!r} cannot be imported: {error}.") from error
    except (SyntaxError, ValueError) as error:
        raise SettingError(f"The wrapper {text!r} cannot be read: write module:Class(key=value, …).") from error
    found = getattr(home, name, None)
    if isinstance(found, type) and issubclass(found, VectorWrapper):
        one = f": {name}" if name in gymnasium.wrappers.__all__ else ""
        raise SettingError(f"The wrapper {text!r} is one of vectors, and wrapper names those of one environment{one}.")
    if not (isinstance(found, type) and issubclass(found, gymnasium.Wrapper)):
        classes = [key for key in dir(home) if isinstance(getattr(home, key, None), type)]
        raise SettingError(
            f"There is no wrapper {name!r} in {home.__name__}.{did_you_mean(name, classes)} "
            "A wrapper is a class derived from gymnasium.Wrapper, written module:Class."
        )
    try:
        return found(env, **arguments)
    except Exception as error:
        raise SettingError(f"The wrapper {text!r} cannot be applied: {first_line(error)}.") from error


def discretize(env: gymnasium.Env[Any, Any], name: str, bins: int) -> gymnasium.Env[Any, Any]:
    """Cut each dimension of continuous actions into bins. Raises SettingError where that cannot be."""
    if not isinstance(env.action_space, spaces.Box):
        raise SettingError(
            f"discretize cuts continuous actions into bins, but {name} has {env.action_space}; leave it out."
        )
    problem = undiscretizable(env.action_space)
    if problem:
        raise SettingError(
            f"discretize cannot be used on {name}: its action space {env.action_space} is continuous, and {problem}."
        )
    dimensions = math.prod(env.action_space.shape)
    # As a MultiDiscrete, so that one place, Actions, knows the joint table and its limit.
    return gymnasium.wrappers.DiscretizeAction(env, bins, multidiscrete=dimensions > 1)


class _Reset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Passes on to an environment's reset those of Gymnasium's arguments that it takes."""

    def __init__(self, env: gymnasium.Env[Any, Any], takes: set[str]) -> None:
        super().__init__(env)
        self._takes = takes

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None and "seed" not in self._takes:
            self.env.unwrapped.np_random, _ = gymnasium.utils.seeding.np_random(seed)
        arguments: dict[str, Any] = {"seed": seed, "options": options}
        return self.env.reset(**{name: value for name, value in arguments.items() if name in self._takes})


def with_reset_arguments(env: gymnasium.Env[Any, Any]) -> tuple[gymnasium.Env[Any, Any], set[str]]:
    """The environment, with its reset adapted if it does not take seed and options; and those that it does not take."""
    try:
        parameters = inspect.signature(env.unwrapped.reset).parameters.values()
    except (TypeError, ValueError):  # of a method that is not Python's
        return env, set()
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    lacking = set() if takes_all else {"seed", "options"} - {parameter.name for parameter in parameters}
    if not lacking:
        return env, lacking
    adapted = _Reset(env.unwrapped, {"seed", "options"} - lacking)
    wrappers = list(layers(env))
    if not wrappers:
        return adapted, lacking
    wrappers[-1].env = adapted  # Gymnasium's own wrappers pass both arguments on
    return env, lacking


def layers(env: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Wrapper[Any, Any, Any, Any]]:
    """The wrappers of an environment, the outermost first."""
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):
        yield layer
        layer = layer.env


def gathering(env: gymnasium.Env[Any, Any]) -> list[str]:
    """The wrappers that scale by the mean and spread of what they have seen, which a RunningMeanStd of theirs holds."""
    return [
        type(layer).__name__
        for layer in layers(env)
        if any(type(value).__name__ == "RunningMeanStd" for value in vars(layer).values())
    ]
