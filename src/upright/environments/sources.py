"""From a Gymnasium id, a class or a callable, and the settings, to one environment with its wrappers."""

from __future__ import annotations

import ast
import copy
import importlib
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from upright.environments.actions import undiscretizable
from upright.errors import EnvironmentFault, SettingError, UprightError, did_you_mean
from upright.messages import first_line, logger
from upright.settings.config import Config

DEFAULT_TIME_LIMIT = 1_000

# What `Config` belongs to: a Gymnasium id, "module:Id", "module:Class", or a callable that returns an environment.
EnvironmentSource = str | Callable[..., gymnasium.Env[Any, Any]]


def make(
    source: EnvironmentSource,
    config: Config | None = None,
    render_mode: str | None = None,
    notify: Callable[[str], None] = logger.warning,
) -> gymnasium.Env[Any, Any]:
    """The environment with its wrappers; `notify` is told what its user should know, such as a time limit.

    Raises EnvironmentFault when it cannot be made, and SettingError for a wrapper that does not exist.
    """
    config = Config() if config is None else config
    name = describe(source)
    if isinstance(source, gymnasium.Env):
        raise EnvironmentFault(
            f"{name} is an environment, of which training, evaluation and every worker need one of their own: "
            "give its id, its class, or a callable that makes one."
        )
    arguments = copy.deepcopy(dict(config.env_kwargs))  # what an environment does to them is not to reach the others
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    limit = config.max_episode_steps
    with quiet(), _construction(name, config):
        if isinstance(source, str):
            env, newer = _make_by_name(source, arguments, limited=limit is None)
            if newer:
                notify(f"{source} is out of date: {newer} succeeds it.")
        else:
            env = source(**arguments)
        made: object = env
        if not isinstance(made, gymnasium.Env):
            kind = "a vector of environments" if isinstance(made, VectorEnv) else f"a {type(made).__name__}"
            raise EnvironmentFault(
                f"{name} made {kind}, not a gymnasium.Env; return one environment, and let num_envs make the vector."
            )
        if limit is None and not _is_limited(env):
            limit = DEFAULT_TIME_LIMIT
            notify(f"{name} names no time limit: episodes are truncated after {limit:,} steps (--max-episode-steps).")
        for wrapper in config.wrapper:
            env = _wrap(env, wrapper)
        if limit is not None:
            env = gymnasium.wrappers.TimeLimit(env, limit)  # outside the wrappers, so that it counts the agent's steps
        if config.discretize is not None:
            env = _discretize(env, name, config.discretize)
    return env


def describe(source: EnvironmentSource) -> str:
    """The name under which messages and folders speak of an environment."""
    if isinstance(source, str):
        return source
    return str(getattr(source, "__name__", type(source).__name__))


def portable_name(source: EnvironmentSource) -> str | None:
    """The text that makes the same environment in another process, or None when only this process can."""
    if isinstance(source, str):
        return source
    module, name = getattr(source, "__module__", None), getattr(source, "__qualname__", "")
    if not (isinstance(source, type) and module and module != "__main__" and name.isidentifier()):
        return None
    return f"{module}:{name}"


def _make_by_name(source: str, arguments: dict[str, Any], limited: bool) -> tuple[gymnasium.Env[Any, Any], str | None]:
    module, _, name = source.rpartition(":")
    if module:
        imported = importlib.import_module(module)
        if name not in gymnasium.registry:
            cls = getattr(imported, name, None)
            if isinstance(cls, type) and issubclass(cls, gymnasium.Env):
                return cls(**arguments), None
            classes = [each for each in vars(imported) if _is_environment_class(vars(imported)[each])]
            raise EnvironmentFault(
                f"The module {module!r} has no environment {name!r}: neither a registered id nor a class derived "
                f"from gymnasium.Env.{did_you_mean(name, [*gymnasium.registry, *classes])}"
            )
    # The checker is left out because upright.environments.environment.Environment checks every step itself.
    limit = None if limited else -1  # Gymnasium's word for no limit
    env = gymnasium.make(name, max_episode_steps=limit, disable_env_checker=True, **arguments)
    return env, successor(name)


def successor(name: str) -> str | None:
    """The newest registered version of an id's name; None when that is the id itself, or there is none."""
    stem = re.sub(r"-v\d+$", "", name)
    versions = [each for each in gymnasium.registry if re.fullmatch(re.escape(stem) + r"-v\d+", each)]
    newest = max(versions, key=_version, default=None)
    return None if newest == name else newest


def _version(name: str) -> int:
    match = re.search(r"-v(\d+)$", name)
    return int(match[1]) if match else -1


def _is_environment_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, gymnasium.Env) and value is not gymnasium.Env


def _is_limited(env: gymnasium.Env[Any, Any]) -> bool:
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, gymnasium.wrappers.TimeLimit):
            return True
        layer = layer.env
    return False


def _wrap(env: gymnasium.Env[Any, Any], text: str) -> gymnasium.Env[Any, Any]:
    """Apply a wrapper written Class, module:Class or module:Class(key=value, …), the values plain Python literals."""
    path, _, rest = text.partition("(")
    module, _, name = path.strip().rpartition(":")
    try:
        home = importlib.import_module(module or "gymnasium.wrappers")
        call = ast.parse(f"wrapper({rest or ')'}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("not a list of key=value")
        arguments = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except ImportError as error:
        raise SettingError(f"The wrapper {text!r} cannot be imported: {error}.") from error
    except (SyntaxError, ValueError) as error:
        raise SettingError(f"The wrapper {text!r} cannot be read: write module:Class(key=value, …).") from error
    found = getattr(home, name, None)
    if not (isinstance(found, type) and issubclass(found, gymnasium.Wrapper)):
        known = [each for each in dir(home) if isinstance(getattr(home, each, None), type)]
        raise SettingError(
            f"There is no wrapper {name!r} in {home.__name__}.{did_you_mean(name, known)} "
            "A wrapper is a class derived from gymnasium.Wrapper, written module:Class."
        )
    try:
        return found(env, **arguments)
    except Exception as error:
        raise SettingError(f"The wrapper {text!r} cannot be applied: {first_line(error)}.") from error


def _discretize(env: gymnasium.Env[Any, Any], name: str, bins: int) -> gymnasium.Env[Any, Any]:
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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Gymnasium's warnings about versions and workers, which upright says in sentences of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="gymnasium")
        warnings.filterwarnings("ignore", message=r".*(WARN|ERROR): ")
        yield


@contextmanager
def _construction(name: str, config: Config) -> Iterator[None]:
    """Turn whatever making an environment raises into one sentence."""
    try:
        yield
    except UprightError:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvironmentFault(f"{name} needs a package that is not installed: {first_line(error)}") from error
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise EnvironmentFault(unknown_environment(name)) from error
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f"{name} needs the module {error.name!r}, which cannot be imported here: install it, or check the spelling."
        ) from error
    except ImportError as error:
        newest = successor(name)
        instead = f" {newest} succeeds it." if newest else ""
        raise EnvironmentFault(f"{name} cannot be made:{instead} Gymnasium says: {first_line(error)}") from error
    except Exception as error:
        arguments = f" with env_kwargs {dict(config.env_kwargs)}" if config.env_kwargs else ""
        raise EnvironmentFault(
            f"{name} raised {type(error).__name__} when it was made{arguments}: {first_line(error)}"
        ) from error


def unknown_environment(name: str) -> str:
    """The sentence for an id that is not in Gymnasium's registry, with its successor or the nearest ids."""
    newest = successor(name)
    if newest is not None:
        outdated = _version(name) < _version(newest)
        relation = f"any more: {newest} succeeds it" if outdated else f"yet: {newest} is the newest"
        return f"There is no environment {name!r} {relation}."
    if "/" in name and not any(each.startswith(name.split("/")[0] + "/") for each in gymnasium.registry):
        return (
            f"There is no environment {name!r}: nothing has registered the namespace {name.split('/')[0]!r}; "
            f"name the package that does, as in package:{name} (for Atari: pip install ale-py, then ale_py:{name})."
        )
    hint = did_you_mean(name, gymnasium.registry)
    return f"There is no environment {name!r}.{hint} `upright envs` lists all of them."
