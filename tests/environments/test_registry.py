"""Every id of the tutorial's registry list has a true verdict: what trains does train, what is gone names its heir."""

from __future__ import annotations

import re

import gymnasium
import pytest
import torch
from gymnasium import spaces

from toy_environments import Spaces
from upright.environments.registry import Entry, inspect, registered
from upright.loop import train
from upright.runs.run import Run
from upright.settings.config import Config

torch.set_num_threads(1)

# The registry as the tutorial prints it, of gym 0.26.
TUTORIAL = [
    'CartPole-v0', 'CartPole-v1', 'MountainCar-v0', 'MountainCarContinuous-v0', 'Pendulum-v1', 'Acrobot-v1',
    'LunarLander-v2', 'LunarLanderContinuous-v2', 'BipedalWalker-v3', 'BipedalWalkerHardcore-v3', 'CarRacing-v2',
    'Blackjack-v1', 'FrozenLake-v1', 'FrozenLake8x8-v1', 'CliffWalking-v0', 'Taxi-v3', 'Reacher-v2', 'Reacher-v4',
    'Pusher-v2', 'Pusher-v4', 'InvertedPendulum-v2', 'InvertedPendulum-v4', 'InvertedDoublePendulum-v2',
    'InvertedDoublePendulum-v4', 'HalfCheetah-v2', 'HalfCheetah-v3', 'HalfCheetah-v4', 'Hopper-v2', 'Hopper-v3',
    'Hopper-v4', 'Swimmer-v2', 'Swimmer-v3', 'Swimmer-v4', 'Walker2d-v2', 'Walker2d-v3', 'Walker2d-v4', 'Ant-v2',
    'Ant-v3', 'Ant-v4', 'Humanoid-v2', 'Humanoid-v3', 'Humanoid-v4', 'HumanoidStandup-v2', 'HumanoidStandup-v4',
]  # fmt: skip

# Who succeeds the ids that are gone; all of MuJoCo's are succeeded by their version 5.
SUCCESSORS = {
    "LunarLander-v2": "LunarLander-v3",
    "LunarLanderContinuous-v2": "LunarLanderContinuous-v3",
    "CarRacing-v2": "CarRacing-v3",
    "CliffWalking-v0": "CliffWalking-v1",
    "Taxi-v3": "Taxi-v4",
}


def can_be_made(name: str) -> bool:
    try:
        gymnasium.make(name).close()
    except (gymnasium.error.Error, ImportError):
        return False
    return True


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TUTORIAL)
def test_every_id_of_the_tutorial_has_a_true_verdict(name: str) -> None:
    entry = inspect(name)
    assert "\n" not in entry.verdict
    if not can_be_made(name):
        heir = SUCCESSORS.get(name, name.rpartition("-")[0] + "-v5")
        assert not entry.trains
        assert f"{heir} succeeds it" in entry.verdict
        assert can_be_made(heir)
        return
    assert name not in SUCCESSORS
    if not entry.trains:
        space = gymnasium.make(name).action_space
        assert isinstance(space, spaces.Box) and 2 ** space.shape[0] > 4096
        assert f"even 2 bins in each of its {space.shape[0]} dimensions" in entry.verdict
        return
    bins = int(re.search(r"discretize (\d+)", entry.verdict)[1]) if "--discretize" in entry.verdict else None
    image = "uint8" in entry.observation
    config = Config(
        total_timesteps=30 if image else 60, learning_starts=20, batch_size=8, train_freq=8, net_arch=(8,), discretize=bins
    )  # fmt: skip
    run = Run(name, config)
    list(train(run))
    run.close()
    assert run.updates > 0


def test_what_cannot_be_made_for_a_missing_package_says_how_to_get_it() -> None:
    verdict = inspect("GymV21Environment-v0").verdict
    assert "pip install" in verdict


def test_the_registry_lists_every_id_in_order_and_filters() -> None:
    assert registered() == sorted(gymnasium.registry)
    assert registered("frozen") == ["FrozenLake-v1", "FrozenLake8x8-v1"]
    assert registered("no such thing") == []


def test_entries_tell_spaces_threshold_and_verdict() -> None:
    assert inspect("CartPole-v1") == Entry("CartPole-v1", "Box[4] float32", "Discrete(2)", 475.0, "trains")
    assert inspect("CartPole-v0").verdict == "trains (CartPole-v1 succeeds it)"
    assert inspect("Pendulum-v1").verdict == "trains with --discretize 11"
    assert inspect("Blackjack-v1").observation == "Tuple(Discrete(32), Discrete(11), Discrete(2))"


def test_spaces_that_do_not_fit_say_why() -> None:
    gymnasium.register("UprightTestText-v0", lambda: Spaces(spaces.Text(3), spaces.Discrete(2)))
    gymnasium.register("UprightTestActions-v0", lambda: Spaces(spaces.Discrete(2), spaces.Sequence(spaces.Discrete(2))))
    try:
        assert "no fixed size to flatten to" in inspect("UprightTestText-v0").verdict
        assert "needs numbered actions" in inspect("UprightTestActions-v0").verdict
    finally:
        del gymnasium.registry["UprightTestText-v0"], gymnasium.registry["UprightTestActions-v0"]
