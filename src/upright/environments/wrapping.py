"""Wrappers around an environment: those that the settings name, and the one that cuts continuous actions into bins."""

from __future__ import annotations

import ast
import importlib
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
