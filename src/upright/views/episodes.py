"""Greedy episodes to be shown: step by step, in an environment that can be rendered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np

from upright.agent import Agent, greedy_actions
from upright.environments.environment import EVALUATION_INDEX, Environment, make_environment
from upright.environments.sources import EnvironmentSource, describe
from upright.errors import EnvironmentFault
from upright.evaluation import begin, check_spaces


@dataclass(frozen=True)
class Moment:
    """A state of an episode, and what the policy makes of it.

    q: Q(s, ·) `[A]` · mask: the allowed actions `[A]`, or None · action: the number of the one that follows; None at
    the end · step: the steps so far · total: the return so far · reward: of the last step; 0 at the beginning
    obs: encoded, `[*shape]` · ended: how, at the end
    """

    q: np.ndarray
    mask: np.ndarray | None
    action: int | None
    step: int
    total: float
    reward: float
    obs: np.ndarray
    ended: Literal["terminated", "truncated"] | None


def play(agent: Agent, environment: Environment, episode: int) -> Iterator[Moment]:
    """Play the greedy evaluation episode of that number: yield each state, to be rendered, before its step."""
    obs, mask = begin(environment, episode)
    ended: Literal["terminated", "truncated"] | None = None
    step, total, reward = 0, 0.0, 0.0
    while True:
        q = agent.learner.q_values(obs[None])[0]
        action = None if ended else int(greedy_actions(q[None], None if mask is None else mask[None])[0])
        yield Moment(q, mask, action, step, total, reward, obs, ended)
        if action is None:
            return
        obs, reward, terminated, truncated, info = environment.step(action)
        mask = info.get("action_mask")
        step, total = step + 1, total + reward
        ended = "terminated" if terminated else "truncated" if truncated else None


def make_rendered(agent: Agent, source: EnvironmentSource, seed: int, mode: str, fix: str) -> Environment:
    """Make the environment of evaluations with that render_mode. Raises EnvironmentFault if it does not have it.

    fix: the end of that message
    """
    environment = make_environment(source, agent.config, seed, EVALUATION_INDEX)
    try:
        check_spaces(environment, agent.spaces)
        modes = environment.metadata.get("render_modes") or []
    finally:
        environment.close()
    if mode not in modes:
        has = f"it has {', '.join(map(repr, modes))}" if modes else "it has none"
        raise EnvironmentFault(
            f"{describe(source)} cannot be rendered so: that takes {mode!r} among the render_modes of its metadata, "
            f"and {has}; {fix}."
        )
    return make_environment(source, agent.config, seed, EVALUATION_INDEX, render_mode=mode)


def is_picture(frame: Any) -> TypeGuard[np.ndarray]:
    """Return True for bytes of height × width × 3, as an environment with render_mode="rgb_array" has to render."""
    return isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
