"""Environments and spaces of the package gym, Gymnasium's predecessor, as Gymnasium's: through shimmy.

Nothing here imports gym before there is something of gym to convert. Its environments are made without `gym.make`, and
so without its wrappers, of which the checker fails under NumPy 2.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator

from upright.errors import EnvironmentFault, MissingExtra, SpaceError
from upright.messages import first_line

PORT = "import gymnasium as gym"  # what makes an environment of today of most classes of the old package


def package() -> ModuleType | None:
    """Gym itself if it has been imported. (Some let the name gym stand for Gymnasium.)"""
    module = sys.modules.get("gym")
    cls = getattr(module, "Env", None)
    return module if isinstance(cls, type) and not issubclass(cls, gymnasium.Env) else None


def is_old(value: Any) -> bool:
    """True for an environment of gym, and for a class of such environments."""
    gym = package()
    cls = value if isinstance(value, type) else type(value)
    return gym is not None and issubclass(cls, gym.Env) and not issubclass(cls, gymnasium.Env)


def registered() -> Mapping[str, Any]:
    """The specifications in gym's registry by their ids; none where gym has not been imported."""
    registry = getattr(getattr(package(), "envs", None), "registry", {})
    found: Mapping[str, Any] = getattr(registry, "env_specs", registry)  # until gym 0.25 it was an object that held it
    return found


def make_specified(spec: Any, arguments: Mapping[str, Any], limited: bool, name: str) -> gymnasium.Env[Any, Any]:
    """The environment of gym that was registered so, with either package.

    limited: with the time limit of its registration
    """
    create: Any = spec.entry_point
    if isinstance(create, str):
        create = load_env_creator(create)
    kwargs = getattr(spec, "kwargs", None) or getattr(spec, "_kwargs", None) or {}  # the latter until gym 0.21
    env = make(create, {**kwargs, **arguments}, name)
    env.unwrapped.spec = EnvSpec(spec.id, entry_point=create, reward_threshold=spec.reward_threshold)
    if limited and spec.max_episode_steps is not None:
        env = gymnasium.wrappers.TimeLimit(env, spec.max_episode_steps)
    return env


def make(create: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> gymnasium.Env[Any, Any]:
    """The environment that a class or another entry point of gym makes, as one of Gymnasium."""
    arguments = dict(arguments)
    # Before gym 0.26, environments took the mode when they rendered.
    mode = None if _takes(create, "render_mode") else arguments.pop("render_mode", None)
    return modern(create(**arguments), name, mode)


def modern(env: Any, name: str, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """An environment of gym as one of Gymnasium. Raises MissingExtra without shimmy.

    To see whose interface it has, gym 0.26's or that of the versions before, it is reset once.
    """
    try:
        import gym.wrappers  # noqa: F401 - without which shimmy has nothing to convert
        from shimmy.openai_gym_compatibility import GymV21CompatibilityV0, GymV26CompatibilityV0
    except ImportError as error:
        raise MissingExtra(
            f"{name} is an environment of the old package gym: write `{PORT}` where it is defined, or train it "
            "through shimmy: pip install 'upright[gym]'."
        ) from error
    env = _without_checker(env)
    for attribute in ("observation_space", "action_space"):
        space = getattr(env, attribute, None)
        if not isinstance(converted(space), spaces.Space):
            what = "no" if space is None else f"{space!r} as its"
            raise EnvironmentFault(f"{name} has {what} {attribute}: set it in the constructor to a space.")
    adapted = _Adapted(env)
    adapted.seed(0)
    result = adapted.reset()
    adapted.of_26 = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)
    try:
        made: gymnasium.Env[Any, Any]
        if adapted.of_26:
            made = GymV26CompatibilityV0(env=adapted)
        else:
            made = GymV21CompatibilityV0(env=adapted, render_mode=render_mode)
    except NotImplementedError as error:
        raise EnvironmentFault(
            f"{name} is an environment of the old package gym, which shimmy cannot convert ({first_line(error)}): "
            f"write `{PORT}` where it is defined."
        ) from error
    made.spec = None  # gym's, of which Gymnasium's wrappers can read nothing
    made.observation_space, made.action_space = converted(env.observation_space), converted(env.action_space)
    metadata = made.metadata or {}  # some environments have None
    modes = metadata.get("render_modes") or metadata.get("render.modes") or []  # the latter until gym 0.21
    made.metadata = {**metadata, "render_modes": modes}
    return made


def is_limited(env: gymnasium.Env[Any, Any]) -> bool:
    """True if gym's time limit is among the layers of what `modern` made."""
    adapted = vars(env.unwrapped).get("gym_env")
    return isinstance(adapted, _Adapted) and any("_max_episode_steps" in vars(layer) for layer in _layers(adapted.env))


def converted(space: Any) -> Any:
    """A space of gym as Gymnasium's; anything else as it is. Raises SpaceError for one that Gymnasium lacks."""
    kinds = {cls.__name__ for cls in type(space).__mro__ if cls.__module__.partition(".")[0] == "gym"}
    if isinstance(space, spaces.Space) or not kinds:
        return space
    if "Discrete" in kinds:
        return spaces.Discrete(int(space.n), start=int(getattr(space, "start", 0)))
    if "Box" in kinds:
        return spaces.Box(space.low, space.high, space.shape, space.dtype)
    if "MultiDiscrete" in kinds:
        return spaces.MultiDiscrete(space.nvec)
    if "MultiBinary" in kinds:
        return spaces.MultiBinary(space.n)
    if "Tuple" in kinds:
        return spaces.Tuple(tuple(converted(part) for part in space.spaces))
    if "Dict" in kinds:
        return spaces.Dict({key: converted(part) for key, part in space.spaces.items()})
    if "Text" in kinds:
        return spaces.Text(space.max_length, min_length=space.min_length, charset=space.characters)
    raise SpaceError(f"The space {space} of the old package gym is not supported: take one of gymnasium.spaces.")


class _Adapted:
    """An environment of gym that is seeded and stepped as shimmy does it, whatever its version has for that.

    A version has seeded with the method `seed` until 0.25, and with an argument of `reset` from 0.22 on; shimmy calls
    the one or gives the other. Its spaces are seeded, too. In 0.25 `reset` returned no info, but `step` five values.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self._takes_seed = all(_takes(layer.reset, "seed") for layer in _layers(env))
        self._seed: dict[str, int] = {}
        self.of_26 = False

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # before it is set, as in a copy
            raise AttributeError(name)
        return getattr(self.env, name)

    def seed(self, seed: int) -> None:
        """Seed the episode that the next reset begins."""
        self._seed_spaces(seed)
        if self._takes_seed:
            self._seed = {"seed": seed}
        elif callable(getattr(self.env, "seed", None)):
            self.env.seed(seed)
        elif hasattr(type(self.env.unwrapped), "np_random"):
            self.env.unwrapped.np_random = np.random.default_rng(seed)

    def reset(self, **arguments: Any) -> Any:
        """Begin an episode, with what `seed` was given or with the arguments of gym 0.26."""
        if arguments.get("seed") is not None:
            self._seed_spaces(arguments["seed"])
        arguments, self._seed = {**self._seed, **arguments}, {}
        return self.env.reset(**arguments)

    def step(self, action: Any) -> Any:
        """Step, and return the four values of gym until 0.25 if it is not of gym 0.26."""
        result = self.env.step(action)
        if self.of_26 or not (isinstance(result, tuple) and len(result) == 5):
            return result
        observation, reward, terminated, truncated, info = result
        truncation = {"TimeLimit.truncated": truncated and not terminated}
        return observation, reward, terminated or truncated, {**info, **truncation}

    def _seed_spaces(self, seed: int) -> None:
        for space in (self.env.observation_space, self.env.action_space):
            space.seed(seed)


def _layers(env: Any) -> Iterator[Any]:
    """An environment of gym and those that it wraps, the outermost first."""
    innermost = env.unwrapped
    while env is not innermost:
        yield env
        env = env.env
    yield innermost


def _takes(function: Callable[..., Any], argument: str) -> bool:
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _without_checker(env: Any) -> Any:
    """Leave out the checker that `gym.make` puts around an environment: it asks for np.bool8, which NumPy 2 lacks."""
    while _checks(env):
        env = env.env
    for layer in _layers(env):
        while _checks(vars(layer).get("env")):
            layer.env = layer.env.env
    return env


def _checks(layer: Any) -> bool:
    return type(layer).__name__ == "PassiveEnvChecker"
