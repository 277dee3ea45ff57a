"""The episodes that a vector of environments is playing: enough to take them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from upright.state import check_counts


@dataclass
class Playing:
    """The running episode of one environment: its number, and the actions taken since its beginning."""

    episode: int
    actions: list[int] = field(default_factory=list)


class RunningEpisodes:
    """The running episodes of E environments with `num_actions` actions."""

    def __init__(self, episodes: Iterable[Playing], num_actions: int) -> None:
        self.num_actions = num_actions
        self.replace(episodes)

    def __iter__(self) -> Iterator[Playing]:
        return iter(self._episodes)

    def replace(self, episodes: Iterable[Playing]) -> None:
        """Take copies of these episodes, one for each environment, in place of those before."""
        self._episodes = [Playing(playing.episode, list(playing.actions)) for playing in episodes]

    def add(self, actions: Iterable[int], terminated: list[bool], truncated: list[bool]) -> None:
        """Record one step of every environment; where an episode ended, its next one begins."""
        for env, action in enumerate(actions):
            if terminated[env] or truncated[env]:
                self.forget(env)
            else:
                self._episodes[env].actions.append(action)

    def forget(self, env: int) -> None:
        """Begin the next episode of one environment."""
        self._episodes[env] = Playing(self._episodes[env].episode + 1)

    def state(self) -> dict[str, np.ndarray]:
        """The numbers `[E]` and lengths `[E]` of the episodes, and their actions one after the other."""
        return {
            "episode": np.array([playing.episode for playing in self._episodes], np.int64),
            "length": np.array([len(playing.actions) for playing in self._episodes], np.int64),
            "actions": np.array([action for playing in self._episodes for action in playing.actions], np.int64),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from what `state` returned. Raises ValueError for what it cannot have returned."""
        episode, length, actions = (state[name] for name in ("episode", "length", "actions"))
        for name in ("episode", "length"):
            check_counts(name, state[name], (len(self._episodes),))
        check_counts("actions", actions, (sum(length.tolist()),), below=self.num_actions)
        parts = np.split(actions, np.cumsum(length)[:-1])
        self._episodes = [
            Playing(number, taken.tolist()) for number, taken in zip(episode.tolist(), parts, strict=True)
        ]
