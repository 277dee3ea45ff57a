"""From a Gymnasium id, a class or a callable, and the settings, to one environment with its wrappers."""

from __future__ import annotations

import copy
import importlib
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
from gymnasium.envs.registration import ENV_ID_RE, EnvSpec, load_env_creator

from upright.environments import claims, old_gym, refusals
from upright.environments.packages import missing, package_of, package_with
from upright.environments.wrapping import discretize, gathering, layers, with_reset_arguments, wrap
from upright.errors import EnvironmentFault, UprightError, did_you_mean, wrong
from upright.messages import first_line, logger
from upright.settings.config import Config

DEFAULT_TIME_LIMIT = 1_000
TAIL = " was raised from the environment creator for "  # Gymnasium's, of what is said already

# What `Config` belongs to: a Gymnasium id, "module:Id", "module:Class", a callable that returns an environment, or the
# specification of a registered one.
EnvironmentSource = str | Callable[..., gymnasium.Env[Any, Any]] | EnvSpec


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
    if not isinstance(config, Config):
        raise wrong("config", config, "an upright.Config")
    name = describe(source)
    refuse(refusals.objection(source, name))
    arguments = copy.deepcopy(dict(config.env_kwargs))  # what one environment does to them is not to reach others
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    limit = config.max_episode_steps
    with quiet(), _construction(name, config):
        env, lacking = with_reset_arguments(_make(source, name, arguments, limit is None, notify))
        if "seed" in lacking:
            notify(
                f"{name} takes no seed in reset(): its own generator is seeded, and what it draws otherwise is not "
                "repeated by the same seed."
            )
        if limit is None and not _is_limited(env):
            limit = DEFAULT_TIME_LIMIT
            notify(f"{name} names no time limit: episodes are truncated after {limit:,} steps (--max-episode-steps).")
        for wrapper in config.wrapper:
            env = wrap(env, wrapper)
        for wrapper in gathering(env):
            notify(
                f"{wrapper} gathers statistics, which begin from nothing in every environment, evaluation's included, "
                "and are not in the saved policy: scale by fixed numbers instead, as TransformObservation can."
            )
        if limit is not None:
            env = gymnasium.wrappers.TimeLimit(env, limit)  # outside the wrappers, so that it counts the agent's steps
        if config.discretize is not None:
            env = discretize(env, name, config.discretize)
    return env


def describe(source: EnvironmentSource) -> str:
    """The name under which messages and folders speak of an environment."""
    if isinstance(source, str):
        return source
    if isinstance(source, EnvSpec):
        return source.id
    return str(getattr(source, "__name__", type(source).__name__))


def portable_name(source: EnvironmentSource) -> str | None:
    """The text that makes the same environment in another process, or None when only this process can."""
    if isinstance(source, str):
        return source
    if isinstance(source, EnvSpec):
        return source.id if gymnasium.registry.get(source.id) == source else None
    module, name = getattr(source, "__module__", None), getattr(source, "__qualname__", "")
    if not (isinstance(source, type) and module and module != "__main__" and name.isidentifier()):
        return None
    return f"{module}:{name}"


def refuse(objection: str | None) -> None:
    """Raise EnvironmentFault where there is something to object."""
    if objection is not None:
        raise EnvironmentFault(objection)


def _make(
    source: EnvironmentSource, name: str, arguments: dict[str, Any], limited: bool, notify: Callable[[str], None]
) -> gymnasium.Env[Any, Any]:
    """The environment itself; limited: with the time limit of its registration."""
    made: Any
    if isinstance(source, str):
        made = _make_by_name(source, arguments, limited, notify)
    elif isinstance(source, EnvSpec):
        made = _make_registered(source, name, arguments, limited)
    else:
        made = _call(source, name, arguments)
    refuse(refusals.objection_to_made(made, source, name))
    env: gymnasium.Env[Any, Any] = made
    for attribute in ("observation_space", "action_space"):
        space = getattr(env, attribute, None)
        modern = old_gym.converted(space)
        if modern is not space:  # an environment of today with spaces of the old package
            env = gymnasium.Wrapper(env)
            setattr(env, attribute, modern)
    refuse(refusals.objection_to_spaces(env, name))
    return env


def _make_by_name(
    source: str, arguments: dict[str, Any], limited: bool, notify: Callable[[str], None]
) -> gymnasium.Env[Any, Any]:
    module, _, name = source.rpartition(":")
    imported = importlib.import_module(module) if module else None
    if name not in gymnasium.registry and (package := package_with(module) if module else package_of(name)):
        package.register()
    of_old = module.partition(".")[0] == "gym" and old_gym.package() is not None
    if module and (of_old or name not in gymnasium.registry):
        cls: Any = getattr(imported, name, None)
        if isinstance(cls, type) and (issubclass(cls, gymnasium.Env) or old_gym.is_old(cls)):
            refuse(refusals.objection(cls, source))
            made: gymnasium.Env[Any, Any] = _call(cls, source, arguments)
            return made
        if spec := old_gym.registered().get(name):
            return old_gym.make_specified(spec, arguments, limited, source)
        if refusals.is_multi_agent(cls):
            raise EnvironmentFault(refusals.multi_agent(source))
        classes = [key for key, value in vars(imported).items() if _is_environment_class(value)]
        known = old_gym.registered() if of_old else gymnasium.registry
        raise EnvironmentFault(
            f"The module {module!r} has no environment {name!r}: neither a registered id nor a class derived "
            f"from gymnasium.Env.{did_you_mean(name, [*known, *classes])}"
        )
    if not ENV_ID_RE.fullmatch(name):
        raise EnvironmentFault(unknown_environment(name))
    env = _make_registered(name, source, arguments, limited)
    if newer := successor(name):
        notify(f"{source} is out of date: {newer} succeeds it.")
    return env


def _make_registered(id: str | EnvSpec, name: str, arguments: dict[str, Any], limited: bool) -> gymnasium.Env[Any, Any]:
    refuse(refusals.objection_to_makes_own(name, arguments))
    limit = None if limited else -1  # Gymnasium's word for no limit
    spec = id if isinstance(id, EnvSpec) else gymnasium.registry.get(id)
    create: Any = None if spec is None else spec.entry_point
    if isinstance(create, str):
        create = load_env_creator(create)
    if spec is not None and old_gym.is_old(create):
        return old_gym.make_specified(spec, arguments, limited, name)
    with _arguments_explained(create, name, arguments, () if spec is None else spec.kwargs):
        # The checker is left out because upright.environments.environment.Environment checks every step itself.
        return gymnasium.make(id, max_episode_steps=limit, disable_env_checker=True, **arguments)


def _call(create: Callable[..., Any], name: str, arguments: dict[str, Any]) -> Any:
    with _arguments_explained(create, name, arguments):
        if old_gym.is_old(create):
            return old_gym.make(create, arguments, name)
        made = create(**arguments)
        return old_gym.modern(made, name) if old_gym.is_old(made) else made


@contextmanager
def _arguments_explained(
    create: Callable[..., Any] | None, name: str, arguments: dict[str, Any], given: Collection[str] = ()
) -> Iterator[None]:
    """Turn the TypeError of arguments that do not fit into the sentence about them."""
    try:
        yield
    except TypeError as error:
        objection = None if create is None else refusals.objection_to_arguments(create, name, arguments, given)
        if objection is None:
            raise
        raise EnvironmentFault(objection) from error


def successor(name: str) -> str | None:
    """The newest registered version of an id's name; None when that is the id itself, or there is none.

    Of other packages' environments, versions may be variants, none of which succeeds another.
    """
    spec = gymnasium.registry.get(name)
    if spec is not None:
        point = spec.entry_point
        home = point if isinstance(point, str) else getattr(point, "__module__", "")
        if not home.startswith("gymnasium."):
            return None
    stem = re.sub(r"-v\d+$", "", name)
    versions = [other for other in gymnasium.registry if re.fullmatch(re.escape(stem) + r"-v\d+", other)]
    newest = max(versions, key=_version, default=None)
    return None if newest == name else newest


def _version(name: str) -> int:
    match = re.search(r"-v(\d+)$", name)
    return int(match[1]) if match else -1


def _is_environment_class(value: Any) -> bool:
    derived = isinstance(value, type) and issubclass(value, gymnasium.Env) and value is not gymnasium.Env
    return derived or (isinstance(value, type) and old_gym.is_old(value))


def _is_limited(env: gymnasium.Env[Any, Any]) -> bool:
    return old_gym.is_limited(env) or any(isinstance(layer, gymnasium.wrappers.TimeLimit) for layer in layers(env))


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
        raise EnvironmentFault(_missing_module(name, error.name or "")) from error
    except ImportError as error:
        newest = successor(name)
        instead = f" {newest} succeeds it." if newest else ""
        raise EnvironmentFault(f"{name} cannot be made:{instead} Gymnasium says: {first_line(error)}") from error
    except (Exception, SystemExit) as error:
        arguments = f" with env_kwargs {dict(config.env_kwargs)}" if config.env_kwargs else ""
        what = first_line(error).partition(TAIL)[0]
        raise EnvironmentFault(
            f"{name} raised {type(error).__name__} when it was made{arguments}: {what}{claims.hint()}"
        ) from error


def _missing_module(name: str, module: str) -> str:
    package = package_with(module)
    if package is not None and "." not in module:
        return missing(package, name.rpartition(":")[2])
    if module == "gym":
        return (
            f"{name} needs the old package gym, which is not installed: pip install gym==0.26.2 'upright[gym]', or "
            f"take Gymnasium's own environment: {name.rpartition(':')[2]}."
        )
    if module == "pkg_resources":
        return f"{name} needs pkg_resources, which setuptools lacks from version 82 on: pip install 'setuptools<82'."
    return f"{name} needs the module {module!r}, which cannot be imported here: install it, or check the spelling."


def unknown_environment(name: str) -> str:
    """The sentence for an id that is not in Gymnasium's registry, with its successor or the nearest ids."""
    package = package_of(name)
    if package is not None and not any(package_of(other) is package for other in gymnasium.registry):
        return missing(package, name)
    if name in old_gym.registered():
        return f"There is no environment {name!r} in Gymnasium, but the old package gym has it: gym:{name}."
    newest = successor(name)
    if newest is not None:
        outdated = _version(name) < _version(newest)
        relation = f"any more: {newest} succeeds it" if outdated else f"yet: {newest} is the newest"
        return f"There is no environment {name!r} {relation}."
    if "/" in name and not any(other.startswith(name.split("/")[0] + "/") for other in gymnasium.registry):
        return (
            f"There is no environment {name!r}: nothing has registered the namespace {name.split('/')[0]!r}; "
            f"name the module that does, as in module:{name}."
        )
    hint = did_you_mean(name, gymnasium.registry)
    return f"There is no environment {name!r}.{hint} `upright envs` lists all of them."
