"""Gymnasium's registry with a verdict on each environment: trains, trains with --discretize, or why not."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium import spaces

from upright.environments.actions import Actions, suggested_bins, undiscretizable
from upright.environments.packages import asked_for, package_of
from upright.environments.sources import make, successor
from upright.environments.spaces import Observations
from upright.errors import UprightError, wrong


@dataclass(frozen=True)
class Entry:
    """One id: its spaces as text, Gymnasium's reward threshold, and the verdict.

    verdict: "trains", "trains with --discretize N", or a sentence that says why not; and who succeeds the id
    """

    id: str
    observation: str
    action: str
    threshold: float | None
    verdict: str

    @property
    def trains(self) -> bool:
        """True if `upright train` can be given this id, with --discretize if the verdict says so."""
        return self.verdict.startswith("trains")


def inspect(name: str) -> Entry:
    """Make the environment and look at it; an id that cannot be made says so in its verdict."""
    try:
        env: gymnasium.Env[Any, Any] | UprightError = make(name, notify=lambda _: None)
    except UprightError as error:
        env = error
    # Only now is an id registered whose package is imported when it is made.
    if not isinstance(name, str):
        raise wrong("name", name, "an environment's id, as text")
    spec = gymnasium.registry.get(name)
    threshold = None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)
    newest = successor(name)
    if isinstance(env, UprightError):
        heir = f" {newest} succeeds it." if newest is not None and newest not in str(env) else ""
        return Entry(name, "", "", threshold, f"{env}{heir}")
    try:
        verdict = _verdict(env) + (f" ({newest} succeeds it)" if newest is not None else "")
        return Entry(name, _short(env.observation_space), _short(env.action_space), threshold, verdict)
    finally:
        env.close()


def registered(filter: str = "") -> list[str]:
    """All ids that contain the text, in alphabetical order, a known package's among them if the text names that."""
    package = asked_for(filter)
    if package is not None:
        with contextlib.suppress(ImportError):  # where it is not installed, `unknown_environment` says so
            package.register()
    names = [name for name in gymnasium.registry if filter.lower() in name.lower()]
    if not names and package is not None:
        names = [name for name in gymnasium.registry if package_of(name) is package]
    return sorted(names)


def _verdict(env: gymnasium.Env[Any, Any]) -> str:
    try:
        Observations(env.observation_space)
        if isinstance(env.action_space, spaces.Box) and undiscretizable(env.action_space) is None:
            return f"trains with --discretize {suggested_bins(env.action_space)}"
        Actions(env.action_space)
    except UprightError as error:
        return str(error)
    return "trains"


def _short(space: spaces.Space[Any]) -> str:
    match space:
        case spaces.Box():
            return f"Box{list(space.shape)} {space.dtype}"
        case spaces.Dict():
            return "Dict(" + ", ".join(f"{key}: {_short(inner)}" for key, inner in space.spaces.items()) + ")"
        case spaces.Tuple():
            return "Tuple(" + ", ".join(_short(inner) for inner in space.spaces) + ")"
    return str(space)
