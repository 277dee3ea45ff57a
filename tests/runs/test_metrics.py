"""What a run counts of its episodes, and that it resumes from it."""

from __future__ import annotations

import numpy as np
import pytest

from upright.environments.vectors import Outcome
from upright.runs.metrics import EpisodeStatistics


def outcome(*success: bool | None) -> Outcome:
    """A step with which an episode ends in every environment, with the reward 1."""
    count, obs = len(success), np.zeros((len(success), 1), np.float32)
    return Outcome(obs, [1.0] * count, [True] * count, [False] * count, None, obs, None, [True] * count, list(success))


def test_the_success_rate_is_that_of_the_last_hundred_episodes_that_name_it() -> None:
    episodes = EpisodeStatistics(2)
    episodes.add(2, outcome(None, None))
    assert set(episodes.means()) == {"rollout/ep_rew_mean", "rollout/ep_len_mean"}
    episodes.add(4, outcome(True, None))
    episodes.add(6, outcome(False, False))
    assert episodes.means()["rollout/success_rate"] == pytest.approx(1 / 3)
    for step in range(8, 208, 2):
        episodes.add(step, outcome(None, None))
    assert episodes.means()["rollout/success_rate"] == pytest.approx(1 / 3)
    for step in range(208, 306, 2):
        episodes.add(step, outcome(True, True))
    assert episodes.means()["rollout/success_rate"] == 0.98  # of 100: two failures and 98 successes


def test_the_success_rate_resumes_and_older_checkpoints_have_none() -> None:
    episodes, other = EpisodeStatistics(1), EpisodeStatistics(1)
    for success in (True, None, False, True):
        episodes.add(1, outcome(success))
    state = episodes.state()
    other.add(1, outcome(False))
    other.load_state(state)
    assert other.means() == episodes.means() and other.means()["rollout/success_rate"] == pytest.approx(2 / 3)
    other.load_state({name: array for name, array in state.items() if name != "successes"})
    assert "rollout/success_rate" not in other.means()
    for damaged in (np.ones(3), np.ones((1, 3), np.bool_)):
        with pytest.raises(ValueError, match="its successes are"):
            other.load_state({**state, "successes": damaged})
