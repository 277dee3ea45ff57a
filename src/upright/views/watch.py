"""Greedy episodes to be seen: step by step, and in a window."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from upright.agent import Agent
from upright.environments.environment import EVALUATION_INDEX, Environment, make_environment
from upright.environments.sources import EnvironmentSource, describe
from upright.errors import EnvironmentFault
from upright.evaluation import begin, check_request, check_spaces


@dataclass(frozen=True)
class Moment:
    """A state of an episode, and what the policy makes of it.

    q: Q(s, ·) `[A]` · mask: the allowed actions `[A]`, or None · action: the number of the one that follows; None at
    the end · step, reward: the steps and the return so far
    """

    q: np.ndarray
    mask: np.ndarray | None
    action: int | None
    step: int
    reward: float


def play(agent: Agent, environment: Environment, episode: int) -> Iterator[Moment]:
    """The greedy evaluation episode of that number: a moment before each step, to be rendered then, and the end."""
    obs, mask = begin(environment, episode)
    reward, step, ended = 0.0, 0, False
    while True:
        q = agent.learner.q_values(obs[None])[0]
        action = None if ended else int(agent.greedy(obs[None], None if mask is None else mask[None])[0])
        yield Moment(q, mask, action, step, reward)
        if action is None:
            return
        obs, step_reward, terminated, truncated, info = environment.step(action)
        mask = info.get("action_mask")
        reward, step, ended = reward + step_reward, step + 1, terminated or truncated


def make_rendered(agent: Agent, source: EnvironmentSource, seed: int, mode: str, mend: str) -> Environment:
    """The environment of evaluations with that render_mode. Raises EnvironmentFault, with the mend, if it has none."""
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
            f"and {has}; {mend}."
        )
    return make_environment(source, agent.config, seed, EVALUATION_INDEX, render_mode=mode)


def has_display() -> bool:
    """Whether there is anything that a window could open on, as far as one can tell without trying."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def watch(
    agent: Agent, episodes: int, seed: int = 0, env: EnvironmentSource | None = None
) -> Iterator[tuple[float, int]]:
    """Render greedy episodes with render_mode="human"; yield each one's return and length.

    The episodes are the first of `evaluate` with the same seed. Raises EnvironmentFault, before anything opens,
    where there is no window to be had.
    """
    source = agent.where_to_act(env)
    check_request(episodes, seed)
    if not has_display():
        raise EnvironmentFault(
            f"There is no display to watch {describe(source)} on: neither DISPLAY nor WAYLAND_DISPLAY is set; "
            "run it in a desktop session, or make a video of it: upright record RUN -o episode.mp4."
        )
    environment = make_rendered(agent, source, seed, "human", "try a video: upright record RUN -o episode.mp4")
    try:
        for episode in range(episodes):
            for moment in play(agent, environment, episode):
                last = moment
            yield last.reward, last.step
    finally:
        environment.close()
