"""Greedy episodes in a window."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from upright.agent import Agent
from upright.environments.sources import EnvironmentSource, describe
from upright.errors import EnvironmentFault
from upright.evaluation import check_request
from upright.views.episodes import make_rendered, play


def show(
    agent: Agent, episodes: int, seed: int = 0, env: EnvironmentSource | None = None
) -> Iterator[tuple[float, int]]:
    """Render greedy episodes with render_mode="human"; yield the return and the length of each.

    The episodes are the first of `evaluate` with the same seed. Raises EnvironmentFault, before anything opens, where
    no window can be opened.
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
            yield last.total, last.step
    finally:
        environment.close()


def has_display() -> bool:
    """Return True if there may be something to open a window on, as far as one can tell without trying."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
