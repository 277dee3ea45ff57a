"""Returns that lie beyond the atoms of a categorical distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import upright
from configurations import SHORT
from toy_environments import Scripted
from upright.environments.vectors import Outcome
from upright.runs.returns import DiscountedReturns


def outcome(
    rewards: list[float], ended: list[bool], truncated: bool = False, valid: list[bool] | None = None
) -> Outcome:
    flags: list[bool] = [False] * len(rewards)
    obs = np.zeros((len(rewards), 1), np.float32)
    ends = (flags, ended) if truncated else (ended, flags)
    valid = valid or [True] * len(rewards)
    return Outcome(obs, rewards, *ends, None, obs, None, valid, [None] * len(rewards))


def play(returns: DiscountedReturns, rewards: list[float], **how: Any) -> None:
    for place, reward in enumerate(rewards):
        returns.add(outcome([reward], [place == len(rewards) - 1], **how))


@pytest.mark.parametrize(
    ("rewards", "terminated", "truncated"),
    [
        # By hand, γ = 1/2: 8 + 4 + 2 = 14. Where the episode is cut off, the same again and again: 14 / (1 − 1/8) = 16.
        ([8.0, 8.0, 8.0], "from 0 to 14", "from 0 to 16"),
        ([0.0, 0.0, -12.0], "from -12 to 0", "from -13.7143 to 0"),  # −3 / (7/8) = −24/7, and −12 − 12/7 = −96/7
        ([1.0, -24.0, 30.0], "from -9 to 30", "from -10 to 28"),  # −3.5 / (7/8) = −4: 30 − 2, −24 + 14, 1 − 5
    ],
)
@pytest.mark.parametrize("is_truncated", [False, True])
def test_the_range_is_that_of_every_steps_discounted_return(
    rewards, terminated, truncated, is_truncated, caplog
) -> None:
    returns = DiscountedReturns((-10.0, 10.0), 0.5, 1)
    play(returns, [5.0, 5.0, 0.0], truncated=is_truncated)
    assert not caplog.messages
    play(returns, rewards, truncated=is_truncated)
    (message,) = caplog.messages
    assert f"Returns {truncated if is_truncated else terminated} were seen" in message
    assert "go from -10 to 10" in message and "--loss.v-max" in message
    play(returns, [1000.0], truncated=is_truncated)
    assert len(caplog.messages) == 1, "once"


def test_an_episode_without_end_is_looked_at_on_its_way(caplog) -> None:
    returns = DiscountedReturns((-10.0, 10.0), 0.99, 1)
    for _ in range(10_000):
        assert not caplog.messages
        returns.add(outcome([1.0], [False]))
    assert "Returns from 0 to 100 were seen" in caplog.text


def test_episodes_are_told_apart_and_resets_are_no_steps(caplog) -> None:
    returns = DiscountedReturns((-10.0, 10.0), 1.0, 2)
    for _ in range(20):
        returns.add(outcome([4.0, 4.0], [True, False]))
        returns.add(outcome([4.0, 4.0], [True, True]))
        returns.add(outcome([99.0, 0.0], [False, True], valid=[False, True]))
    assert not caplog.messages


@pytest.mark.parametrize("loss", ["categorical", "q_learning", "quantile"])
def test_a_run_warns_of_atoms_alone(loss: str, caplog) -> None:
    upright.DQN(lambda: Scripted([([30.0], True)]), loss=loss, **SHORT).learn(60).close()
    assert ("v_max" in caplog.text) == (loss == "categorical")
