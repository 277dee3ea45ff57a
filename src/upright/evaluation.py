"""Greedy episodes on environments of their own, with seeds of their own."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces

from upright.environments.environment import EVALUATION_INDEX, Environment, make_environment
from upright.environments.sources import EnvironmentSource
from upright.errors import EnvironmentFault, SettingError, wrong
from upright.settings.config import Config

MOST_EPISODES = 1_000_000

# Encoded observations [E, *shape] and masks [E, A] or None, to action numbers [E].
Policy = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
# An environment's observation space and action space.
Spaces = tuple[spaces.Space[Any], spaces.Space[Any]]


class GreedyEpisode(NamedTuple):
    """A greedy episode that ended: its number, undiscounted return and length in steps.

    success: whether it succeeded, by its last info['is_success']; None where that was not there
    """

    number: int
    reward: float
    length: int
    success: bool | None


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths `[episodes]` of greedy episodes, in the order of their seeds.

    threshold: the environment's own `reward_threshold`, or None
    success_rate: the share that succeeded of the episodes whose last info had 'is_success', or None if none had
    """

    returns: np.ndarray
    lengths: np.ndarray
    threshold: float | None
    success_rate: float | None = None

    @classmethod
    def of(cls, episodes: Iterable[GreedyEpisode], threshold: float | None) -> Evaluation:
        """The evaluation that consists of these episodes, at least one."""
        ordered = sorted(episodes)
        successes = [episode.success for episode in ordered if episode.success is not None]
        return cls(
            np.array([episode.reward for episode in ordered], np.float64),
            np.array([episode.length for episode in ordered], np.int64),
            threshold,
            float(np.mean(successes)) if successes else None,
        )

    @property
    def mean(self) -> float:
        """The mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """The population standard deviation of the returns, as SB3 reports it."""
        return float(self.returns.std())

    @property
    def solved(self) -> bool | None:
        """True if the mean reaches the threshold; None without one."""
        return None if self.threshold is None else self.mean >= self.threshold

    def __str__(self) -> str:
        text = f"{self.mean:.2f} ± {self.std:.2f} over {len(self.returns)} greedy episodes"
        if self.success_rate is not None:
            text += f", success rate {self.success_rate:.0%}"
        if self.threshold is None:
            return f"{text} (the environment names no threshold)"
        return f"{text}, {'solved' if self.solved else 'not solved'} (threshold {self.threshold:g})"


class EvaluationProgress(NamedTuple):
    """How far an evaluation is: the episodes that have ended, of how many, and their mean return or None."""

    ended: int
    total: int
    mean: float | None


class EvaluationSink(Protocol):
    """Takes how far an evaluation is, at its beginning and whenever an episode has ended."""

    def write(self, progress: EvaluationProgress) -> None:
        """Take how far it is."""

    def close(self) -> None:
        """End with the evaluation."""


def evaluate(
    policy: Policy,
    source: EnvironmentSource,
    config: Config,
    episodes: int = 100,
    seed: int = 0,
    expected: Spaces | None = None,
) -> Evaluation:
    """Run the policy for that many episodes, in `n_eval_envs` environments of their own, side by side.

    Episode k has a seed that depends on (seed, k) alone: two policies with the same evaluation seed meet the same
    episodes. Time limits hold as in training, so no policy can hang it. Raises EnvironmentFault where the environment
    has not the expected spaces.
    """
    with fresh_environments(source, config, episodes, seed, expected) as environments:
        return Evaluation.of(greedy_episodes(policy, environments, episodes), environments[0].threshold)


@contextlib.contextmanager
def fresh_environments(
    source: EnvironmentSource, config: Config, episodes: int, seed: int, expected: Spaces | None = None
) -> Iterator[list[Environment]]:
    """Make the environments for that many evaluation episodes, at least one, and close them at the end of the block."""
    check_request(episodes, seed)
    with contextlib.ExitStack() as stack:
        environments = [
            stack.enter_context(contextlib.closing(make_environment(source, config, seed, EVALUATION_INDEX)))
            for _ in range(min(episodes, max(1, config.n_eval_envs)))
        ]
        check_spaces(environments[0], expected)
        yield environments


def greedy_episodes(policy: Policy, environments: Sequence[Environment], episodes: int) -> Iterator[GreedyEpisode]:
    """Play that many evaluation episodes in these environments, side by side, and yield each as it ends."""
    waiting = iter(range(episodes))
    running = [_Running(environment, k) for environment, k in zip(environments, waiting, strict=False)]
    while running:
        masks = [playing.mask for playing in running]
        actions = policy(np.stack([playing.obs for playing in running]), None if masks[0] is None else np.stack(masks))
        still = []
        for playing, action in zip(running, actions, strict=True):
            ended = playing.step(action)
            if ended is None:
                still.append(playing)
                continue
            yield ended
            if (following := next(waiting, None)) is not None:
                still.append(_Running(playing.environment, following))
        running = still


class _Running:
    """An evaluation episode that is being played."""

    def __init__(self, environment: Environment, number: int) -> None:
        self.environment, self.number = environment, number
        self.reward, self.length = 0.0, 0
        self.obs, self.mask = begin(environment, number)

    def step(self, action: int) -> GreedyEpisode | None:
        """Take the action with this number; the episode if it ends."""
        self.obs, reward, terminated, truncated, info = self.environment.step(action)
        self.reward, self.length = self.reward + reward, self.length + 1
        if terminated or truncated:
            return GreedyEpisode(self.number, self.reward, self.length, info.get("is_success"))
        self.mask = info.get("action_mask")
        return None


def begin(environment: Environment, episode: int) -> tuple[np.ndarray, Any]:
    """Start the evaluation episode of that number: its first observation and mask."""
    environment.episode = episode - 1
    obs, info = environment.reset()
    return obs, info.get("action_mask")


def check_spaces(environment: Environment, expected: Spaces | None) -> None:
    """Refuse an environment whose observation or action space is not the policy's."""
    found = (environment.observations.space, environment.actions.space)
    if expected is not None and found != expected:
        raise EnvironmentFault(
            f"{environment.name} does not fit this policy: it has {found[0]} and {found[1]}, the policy "
            f"{expected[0]} and {expected[1]}; give the environment that it was trained on."
        )


def check_request(episodes: Any, seed: Any) -> None:
    """Refuse a number of episodes below 1 or beyond all use, or what is no seed."""
    if isinstance(episodes, bool) or not isinstance(episodes, (int, np.integer)) or episodes < 1:
        raise wrong("episodes", episodes, "a whole number, 1 or more")
    if episodes > MOST_EPISODES:
        raise SettingError(f"episodes is {episodes}, but it has to be {MOST_EPISODES} or fewer.")
    check_seed(seed)


def check_seed(seed: Any) -> int:
    """Return a seed; refuse one that is not a whole number from 0 on."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise wrong("seed", seed, "a whole number, 0 or more")
    return int(seed)
