"""Each member of the family learns a small problem to its optimum, from several seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import upright
from engines import ENGINES, needs_native
from environments_to_learn import Corridor, Memory
from upright.settings.config import Config
from upright.settings.kinds import Categorical, ImplicitQuantile, Munchausen, Prioritised, QLearning, Quantile

torch.set_num_threads(1)

PLAIN = Config(
    total_timesteps=2_500,
    net_arch=(32, 32),
    loss=QLearning(),
    munchausen=None,
    n_steps=1,
    buffer_size=2_500,
    learning_starts=200,
    batch_size=32,
    train_freq=2,
    learning_rate=2e-3,
    target_update_interval=50,
    exploration_final_eps=0.1,
    exploration_fraction=0.6,
    gamma=0.95,
)
ATOMS = Categorical(v_min=-3.0, v_max=3.0)
GREEDY = {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}
FAMILY = {
    "dqn": PLAIN,
    "squared": PLAIN.override(loss=QLearning(error="squared")),
    "double": PLAIN.override(loss=QLearning(double=True)),
    "dueling": PLAIN.override(dueling=True),
    "n-step": PLAIN.override(n_steps=3),
    "prioritised": PLAIN.override(replay=Prioritised()),
    "noisy": PLAIN.override(noisy=True, **GREEDY),
    "munchausen": PLAIN.override(munchausen=Munchausen()),
    "c51": PLAIN.override(loss=ATOMS),
    "qr-dqn": PLAIN.override(loss=Quantile(quantiles=20)),
    "iqn": PLAIN.override(loss=ImplicitQuantile(quantiles=8, target_quantiles=8, policy_quantiles=8, cosines=16)),
    "munchausen c51": PLAIN.override(loss=ATOMS, munchausen=Munchausen()),
    "munchausen qr-dqn": PLAIN.override(loss=Quantile(quantiles=20), munchausen=Munchausen()),
    "munchausen iqn": PLAIN.override(
        loss=ImplicitQuantile(quantiles=8, target_quantiles=8, policy_quantiles=8, cosines=16), munchausen=Munchausen()
    ),
    "rainbow": PLAIN.override(
        loss=Categorical(v_min=-3.0, v_max=3.0, double=True),
        dueling=True,
        noisy=True,
        n_steps=3,
        replay=Prioritised(),
        **GREEDY,
    ),
    "layer norm, soft target": PLAIN.override(layer_norm=True, tau=0.02, target_update_interval=1, activation="silu"),
    "rmsprop, orthogonal": PLAIN.override(optimizer="rmsprop", initialisation="orthogonal", activation="tanh"),
}


def members() -> Iterator[Any]:
    for member in FAMILY:
        yield pytest.param(member, "torch", id=f"{member}-torch")
        if "iqn" not in member:
            yield pytest.param(member, "native", marks=needs_native, id=f"{member}-native")


@pytest.mark.parametrize(("member", "engine"), members())
def test_each_member_walks_the_corridor_the_shortest_way(member: str, engine: str) -> None:
    for seed in range(2):
        agent = upright.DQN(Corridor, preset=FAMILY[member], seed=seed, engine=engine).learn()
        assert agent.agent.learner.engine == engine
        evaluation = agent.evaluate(20)
        assert evaluation.mean == pytest.approx(Corridor.best_mean(20), abs=1e-9), (member, seed)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_values_are_those_of_the_optimal_policy(engine: str) -> None:
    """Q*(s, a) of the corridor, by hand: −0.1 a step, 1 at the end, discounted by 0.95."""
    agent = upright.DQN(
        Corridor, preset=PLAIN.override(total_timesteps=6_000, exploration_final_eps=0.5, engine=engine), seed=0
    ).learn()
    for place in range(Corridor.LENGTH):
        left = Corridor.LENGTH - 1 - place
        value = sum(-0.1 * 0.95**k for k in range(left)) + 0.95**left * 0.9
        q = agent.agent.q_values(np.array(place))
        assert q[1] == pytest.approx(value, abs=0.03)
        assert q[1] > q[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_masked_actions_are_left_out_of_what_is_learned(engine: str) -> None:
    """The forbidden action would be worth 10, is never taken, and must not be bootstrapped on."""
    agent = upright.DQN(Memory, preset=PLAIN.override(gamma=0.5, engine=engine), seed=0).learn()
    assert agent.evaluate(10).mean == 3.0
    q = agent.agent.q_values(np.array(0))
    assert q[0] == pytest.approx(1 + 0.5 + 0.25, abs=0.05)
