"""Things given as an environment that are none, or not one that one agent plays: what is said of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePath
from types import ModuleType
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from upright.environments import old_gym
from upright.errors import did_you_mean
from upright.settings.config import Config

GIVE = "give an id, a class derived from gymnasium.Env, or a callable that makes an environment"

# What `gymnasium.make` takes for itself, and so never hands to an environment.
MAKES_OWN = {
    "id": "which is the environment itself: leave it out",
    "max_episode_steps": "which is a setting: --max-episode-steps {value} (max_episode_steps={value} in Python)",
    "disable_env_checker": "which upright decides, for it checks every step itself: leave it out",
}


def objection(source: Any, name: str) -> str | None:
    """The sentence about what can be no source of environments, or None."""
    match source:
        case EnvSpec():
            return None
        case None:
            return f"The environment is None: {GIVE}."
        case str():
            return _objection_to_text(source)
        case gymnasium.Env():
            return _objection_to_one(name)
        case VectorEnv():
            return f"{name} is a vector of environments: {GIVE}, and let num_envs make the vector."
        case spaces.Space():
            return f"{source!r} is a space, not an environment: {GIVE}."
        case ModuleType() if is_multi_agent(source):
            return multi_agent(name)
        case ModuleType():
            return f"{name} is a module, not an environment: name its class, as in {name}:MyEnv, or {GIVE}."
    if not isinstance(source, type) and old_gym.is_old(source):
        return _objection_to_one(name)
    if is_multi_agent(source):
        return multi_agent(name)
    if not callable(source):
        return f"{source!r} is {_kind(source)}, not an environment: {GIVE}."
    return _objection_to_callable(source, name)


def objection_to_made(made: Any, source: Any, name: str) -> str | None:
    """The sentence about what a source has made instead of an environment, or None."""
    if is_multi_agent(made):
        return multi_agent(name)
    if isinstance(made, gymnasium.Env):
        return None
    if isinstance(source, type) and type(made) is source:
        return not_derived(name)
    if made is None:
        return f"{name} made None, not a gymnasium.Env: let it return the environment."
    if isinstance(made, type) or callable(made):
        return f"{name} made {_kind(made)}, which is still to be called: return an environment, as lambda: MyEnv()."
    kind = "a vector of environments" if isinstance(made, VectorEnv) else _kind(made)
    return f"{name} made {kind}, not a gymnasium.Env; return one environment, and let num_envs make the vector."


def objection_to_spaces(env: gymnasium.Env[Any, Any], name: str) -> str | None:
    """The sentence about an environment that does not tell its spaces, or None."""
    for attribute, example in (("observation_space", "Box(-1, 1, (4,))"), ("action_space", "Discrete(2)")):
        space = getattr(env, attribute, None)
        if not isinstance(space, spaces.Space):
            what = "no" if space is None else f"{space!r} as its"
            return (
                f"{name} has {what} {attribute}: set it in the constructor to a space, as in "
                f"self.{attribute} = gymnasium.spaces.{example}."
            )
    return None


def objection_to_arguments(
    create: Callable[..., Any], name: str, arguments: Collection[str], given: Collection[str] = ()
) -> str | None:
    """The sentence about arguments that a constructor does not take or that it lacks; None where they fit.

    given: the arguments that its registration gives it besides
    """
    try:
        parameters = inspect.signature(create).parameters.values()
    except (TypeError, ValueError):
        return None
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    nameless = (*variadic, inspect.Parameter.POSITIONAL_ONLY)
    named = [parameter.name for parameter in parameters if parameter.kind not in nameless]
    unknown = [argument for argument in arguments if argument not in named]
    if unknown and not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        takes = f"it takes {', '.join(named)}" if named else "it takes none"
        setting = unknown[0] in Config.__dataclass_fields__
        hint = f" {unknown[0]} is a setting, not one of env_kwargs." if setting else did_you_mean(unknown[0], named)
        return f"{name} takes no argument {unknown[0]!r} when it is made; {takes}.{hint}"
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in variadic
        and parameter.name not in {*arguments, *given}
    ]
    if missing:
        return (
            f"{name} needs {' and '.join(missing)} when it is made: --env-kwargs {missing[0]}=… "
            f"(env_kwargs={{{missing[0]!r}: …}} in Python), or, for what cannot be written as text, a function that "
            "makes the environment (lambda: …)."
        )
    return None


def objection_to_makes_own(name: str, arguments: Mapping[str, Any]) -> str | None:
    """The sentence about env_kwargs of an id that `gymnasium.make` takes for itself, or None."""
    for argument, value in arguments.items():
        if argument in MAKES_OWN:
            return f"env_kwargs of {name} holds {argument!r}, {MAKES_OWN[argument].format(value=value)}."
    return None


def is_multi_agent(value: Any) -> bool:
    """True for an environment of several agents, of PettingZoo or RLlib, its class, and PettingZoo's modules."""
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] == "pettingzoo"
    cls = value if isinstance(value, type) else type(value)
    return any(kind.__name__ in ("AECEnv", "ParallelEnv", "MultiAgentEnv") for kind in cls.__mro__)


def not_derived(name: str) -> str:
    """The sentence about a class that is not one of environments."""
    return f"{name} is a class that is not derived from gymnasium.Env: derive it, class {name}(gymnasium.Env)."


def multi_agent(name: str) -> str:
    """The sentence about an environment of several agents."""
    return (
        f"{name} is an environment of several agents, and the DQN family trains one: write a gymnasium.Env in which "
        "the others are part of the environment."
    )


def _objection_to_text(source: str) -> str | None:
    module, _, _ = source.rpartition(":")
    if not source.strip(" :"):
        return f"The environment's name is {source!r}: {GIVE}."
    if module.partition(".")[0] == "pettingzoo":
        return multi_agent(source)
    path, _, cls = source.partition(".py")
    if source.endswith(".py") or ".py:" in source:
        stem = PurePath(path).name
        named = f"{stem}:{cls.removeprefix(':') or 'MyEnv'}"
        return f"{source!r} is a file: from its folder, name the module and the class in it, as in {named}."
    if module.startswith("."):
        return f"{source!r} names its module relative to another: name it in full, as in package.module:MyEnv."
    return None


def _objection_to_one(name: str) -> str:
    return (
        f"{name} is an environment, of which training, evaluation and every worker need one of their own: "
        "give its id, its class, or a callable that makes one."
    )


def _objection_to_callable(source: Callable[..., Any], name: str) -> str | None:
    if isinstance(source, type):
        return _objection_to_class(source, name)
    unusual = inspect.iscoroutinefunction(source) or inspect.isasyncgenfunction(source)
    if unusual or inspect.isgeneratorfunction(source):
        kind = "an async function" if unusual else "a generator"
        return f"{name} is {kind}, which returns no environment when it is called: make it a plain function that does."
    return None


def _objection_to_class(source: type, name: str) -> str | None:
    if issubclass(source, VectorEnv):
        return f"{name} is a class of vectors of environments: {GIVE}, and let num_envs make the vector."
    if issubclass(source, spaces.Space):
        return f"{name} is a class of spaces, not of environments: {GIVE}."
    if issubclass(source, gymnasium.Wrapper):
        first = next(iter(inspect.signature(source).parameters.values()), None)
        if first is not None and first.default is first.empty and first.kind is first.POSITIONAL_OR_KEYWORD:
            return f"{name} is a wrapper: give the environment, and the wrapper by its name, in wrapper (--wrapper)."
    # A class that makes its instances itself may make environments.
    if source.__new__ is object.__new__ and not (issubclass(source, gymnasium.Env) or old_gym.is_old(source)):
        return not_derived(name)
    return None


def _kind(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"
