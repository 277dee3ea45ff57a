"""Greedy episodes in a window."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from upright.agent import Agent
from upright.envs import EVALUATION_INDEX, make_environment
from upright.errors import EnvironmentFault
from upright.evaluate import begin, check_request, check_spaces
from upright.sources import EnvironmentSource, describe


def watch(
    agent: Agent, episodes: int, seed: int = 0, env: EnvironmentSource | None = None
) -> Iterator[tuple[float, int]]:
    """Render greedy episodes with render_mode="human"; yield each one's return and length.

    The episodes are the first of `evaluate` with the same seed. Raises EnvironmentFault, before anything opens,
    where there is no window to be had.
    """
    source = agent.where_to_act(env)
    check_request(episodes, seed)
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise EnvironmentFault(
            f"There is no display to watch {describe(source)} on: neither DISPLAY nor WAYLAND_DISPLAY is set; "
            "run it in a desktop session, or see the figures with `upright evaluate`."
        )
    environment = make_environment(source, agent.config, seed, EVALUATION_INDEX, render_mode="human")
    try:
        check_spaces(environment, agent.spaces)
        for episode in range(episodes):
            obs, mask = begin(environment, episode)
            reward, length, ended = 0.0, 0, False
            while not ended:
                action = agent.greedy(obs[None], None if mask is None else mask[None])
                obs, step_reward, terminated, truncated, info = environment.step(action[0])
                mask = info.get("action_mask")
                reward, length, ended = reward + step_reward, length + 1, terminated or truncated
            yield reward, length
    finally:
        environment.close()
