"""The discounted returns of a run's episodes, and whether a categorical distribution's atoms reach as far."""

from __future__ import annotations

from upright.environments.vectors import Outcome
from upright.messages import logger

LONGEST = 10_000  # steps of an episode that are looked at together


class DiscountedReturns:
    """G_t = r_t + γ G_{t+1} of each step of every episode that ends, compared with the atoms that are to represent it.

    support: the lowest and the highest atom; None for a loss without atoms, of which nothing is compared
    After a truncation, or 10,000 steps of an episode, the rewards so far are taken to come again. The first return
    beyond the atoms is logged, with the range seen in its episode: C51 puts what lies beyond on its last
    atom, so that actions which differ there look alike (Bellemare 2017, eq. 7).
    """

    def __init__(self, support: tuple[float, float] | None, gamma: float, num_envs: int) -> None:
        self._support, self._gamma = support, gamma
        self._rewards: list[list[float]] = [[] for _ in range(num_envs)]

    def add(self, outcome: Outcome) -> None:
        """Take one step of every environment."""
        if self._support is None:
            return
        for i, reward in enumerate(outcome.reward):
            if self._support is not None and outcome.valid[i]:
                self._rewards[i].append(reward)
                terminated = outcome.terminated[i]
                if terminated or outcome.truncated[i] or len(self._rewards[i]) == LONGEST:
                    self._compare(self._rewards[i], self._support, terminated)
                    self._rewards[i] = []

    def _compare(self, rewards: list[float], support: tuple[float, float], terminated: bool) -> None:
        gamma = self._gamma
        following = 0.0
        if not terminated and gamma < 1:  # what is bootstrapped on: as if these rewards came again and again
            following = sum(gamma**k * reward for k, reward in enumerate(rewards)) / (1 - gamma ** len(rewards))
        low, high = min(0.0, following), max(0.0, following)
        for reward in reversed(rewards):
            following = reward + gamma * following
            low, high = min(low, following), max(high, following)
        if low < support[0] or high > support[1]:
            self._support = None
            logger.warning(
                f"Returns from {low:g} to {high:g} were seen, discounted by gamma {gamma:g}, but the loss's "
                f"atoms go from {support[0]:g} to {support[1]:g}: actions whose returns lie beyond look alike; widen "
                "them with v_min and v_max (--loss.v-min, --loss.v-max)."
            )
