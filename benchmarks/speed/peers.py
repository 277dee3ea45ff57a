"""The peers' sides of the rows in `rows.py`: each set up as its own documentation has it, with the row's settings.

A side is a function of a row's arguments that makes ready and returns its work: work(count) does that many steps, or
updates, or whatever the row counts. The row's settings are an upright `Config`, whose names are SB3's.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from upright import Config

Work = Callable[[int], None]

SHARED_WITH_SB3 = (
    "learning_rate",
    "buffer_size",
    "learning_starts",
    "batch_size",
    "tau",
    "gamma",
    "train_freq",
    "gradient_steps",
    "target_update_interval",
    "exploration_initial_eps",
    "exploration_final_eps",
    "exploration_fraction",
)
FILLED = 100_000  # transitions in the memory that replay rows draw from
ONE_IN = 50  # of the made-up transitions is terminal


def sb3_steps(env: str, config: Config) -> Work:
    """Stable-Baselines3: `DQN.learn`, taken up again where it stopped."""
    model = _sb3(env, config)
    return lambda count: _learn(model, count)


def sb3_updates(env: str, config: Config) -> Work:
    """Stable-Baselines3: `DQN.train`, which draws a batch and updates, as `learn` calls it after each step."""
    model = _sb3(env, config.override(learning_starts=config.buffer_size))
    _learn(model, config.buffer_size)

    def work(count: int) -> None:
        for _ in range(count):
            model.train(gradient_steps=1, batch_size=config.batch_size)

    return work


def sb3_predict(env: str, config: Config) -> Work:
    """Stable-Baselines3: the greedy action for one observation."""
    model = _sb3(env, config)
    observation = model.get_env().reset()[0]

    def work(count: int) -> None:
        for _ in range(count):
            model.predict(observation, deterministic=True)

    return work


def sbx_steps(env: str, config: Config) -> Work:
    """SBX, Stable-Baselines3 in JAX: `DQN.learn`. It clips no gradient, and compiles while warming up."""
    from sbx import DQN

    model = DQN("MlpPolicy", env, policy_kwargs={"net_arch": list(config.net_arch)}, seed=0, **_shared(config))
    return lambda count: _learn(model, count)


def tianshou_steps(env: str, config: Config) -> Work:
    """The two calls that tianshou 2's trainer repeats: collect a step, update once.

    The trainer also looks through all that is stored for NaN after each collection, which takes longer the longer it
    runs; so the calls stand here by themselves, in tianshou's favour.
    """
    import gymnasium
    import torch
    from tianshou.algorithm import DQN
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.utils.net.common import Net
    from tianshou.utils.torch_utils import policy_within_training_step

    torch.set_num_threads(1)
    probe: Any = gymnasium.make(env)
    network = Net(
        state_shape=probe.observation_space.shape, action_shape=probe.action_space.n, hidden_sizes=config.net_arch
    )
    policy = DiscreteQLearningPolicy(
        model=network, action_space=probe.action_space, eps_training=config.exploration_final_eps
    )
    algorithm = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=config.learning_rate),
        gamma=config.gamma,
        target_update_freq=config.target_update_interval,
        is_double=False,
        huber_loss_delta=1.0,
    )
    vector = DummyVectorEnv([lambda: gymnasium.make(env)])
    collector = Collector(algorithm, vector, VectorReplayBuffer(config.buffer_size, 1), exploration_noise=True)
    collector.reset()

    def work(count: int) -> None:
        with policy_within_training_step(policy):
            for _ in range(count):
                collector.collect(n_step=1)
                algorithm.update(buffer=collector.buffer, sample_size=config.batch_size)

    work(config.batch_size)
    return work


def tutorial_steps(env: str, config: Config) -> Work:
    """The PyTorch tutorial's loop, written out in our own words."""
    import gymnasium

    environment, loop = gymnasium.make(env), Tutorial(env, config)
    state = loop.tensor(environment.reset(seed=0)[0])

    def work(count: int) -> None:
        nonlocal state
        for _ in range(count):
            action = loop.act(state)
            obs, reward, terminated, truncated, _ = environment.step(action.item())
            next_state = None if terminated else loop.tensor(obs)
            loop.remember(state, action, next_state, float(reward))
            state = loop.tensor(environment.reset()[0]) if next_state is None or truncated else next_state
            if len(loop.memory) >= config.batch_size:
                loop.update(loop.draw())
                loop.follow()

    return work


def tutorial_updates(env: str, config: Config) -> Work:
    """The tutorial's batch out of its memory, update and target update."""
    loop = Tutorial(env, config)
    loop.fill()

    def work(count: int) -> None:
        for _ in range(count):
            loop.update(loop.draw())
            loop.follow()

    return work


def tutorial_updates_alone(env: str, config: Config) -> Work:
    """The tutorial's update on one batch of tensors."""
    loop = Tutorial(env, config)
    loop.fill()
    batch = loop.draw()

    def work(count: int) -> None:
        for _ in range(count):
            loop.update(batch)

    return work


def deque_samples(batch_size: int) -> Work:
    """A batch out of a deque of Python objects, with `random.sample`."""
    generator = np.random.default_rng(0)
    memory = deque(
        (*generator.random((2, 4), dtype=np.float32), k % 2, 1.0, 0.0 if k % ONE_IN == 0 else 0.99)
        for k in range(FILLED)
    )

    def work(count: int) -> None:
        for _ in range(count):
            [np.stack(column) for column in zip(*random.sample(memory, batch_size), strict=True)]

    return work


class Remembered(NamedTuple):
    """What the tutorial keeps of a step: tensors with a leading axis of one, and None after a terminal step."""

    state: Any
    action: Any
    next_state: Any
    reward: Any


class Tutorial:
    """The parts of the PyTorch tutorial's loop: a deque of tensors, one network call for each need, autograd."""

    def __init__(self, env: str, config: Config) -> None:
        import gymnasium
        import torch
        from torch import nn

        torch.set_num_threads(1)
        self.torch, self.config = torch, config
        environment: Any = gymnasium.make(env)
        self.environment = environment
        self.memory: deque[Remembered] = deque(maxlen=config.buffer_size)
        widths = (environment.observation_space.shape[0], *config.net_arch, environment.action_space.n)

        def network() -> nn.Module:
            layers: list[nn.Module] = []
            for inputs, outputs in pairwise(widths):
                layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            return nn.Sequential(*layers[:-1])

        self.online, self.target = network(), network()
        self.target.load_state_dict(self.online.state_dict())
        self.optimizer = torch.optim.AdamW(self.online.parameters(), lr=config.learning_rate, amsgrad=True)

    def tensor(self, obs: Any) -> Any:
        """An observation as a batch of one."""
        return self.torch.tensor(obs, dtype=self.torch.float32).unsqueeze(0)

    def act(self, state: Any) -> Any:
        """The ε-greedy action as a tensor of one by one."""
        if random.random() < self.config.exploration_final_eps:
            return self.torch.tensor([[self.environment.action_space.sample()]])
        with self.torch.no_grad():
            return self.online(state).max(1).indices.view(1, 1)

    def remember(self, state: Any, action: Any, next_state: Any, reward: float) -> None:
        """Keep a step."""
        self.memory.append(Remembered(state, action, next_state, self.torch.tensor([reward])))

    def fill(self) -> None:
        """Fill the memory with made-up steps."""
        torch, size = self.torch, self.environment.observation_space.shape[0]
        for k in range(self.config.buffer_size):
            next_state = None if k % ONE_IN == 0 else torch.randn(1, size)
            self.remember(torch.randn(1, size), torch.randint(2, (1, 1)), next_state, 1.0)

    def draw(self) -> tuple[Any, ...]:
        """A batch: states, actions, rewards, which have a next state, and those next states."""
        torch = self.torch
        drawn = Remembered(*zip(*random.sample(self.memory, self.config.batch_size), strict=True))
        alive = torch.tensor([each is not None for each in drawn.next_state])
        next_states = torch.cat([each for each in drawn.next_state if each is not None])
        return torch.cat(drawn.state), torch.cat(drawn.action), torch.cat(drawn.reward), alive, next_states

    def update(self, batch: tuple[Any, ...]) -> None:
        """Descend one gradient step."""
        torch = self.torch
        states, actions, rewards, alive, next_states = batch
        q = self.online(states).gather(1, actions)
        value = torch.zeros(len(states))
        with torch.no_grad():
            value[alive] = self.target(next_states).max(1).values
        loss = torch.nn.functional.smooth_l1_loss(q, (rewards + self.config.gamma * value).unsqueeze(1))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(self.online.parameters(), 100)
        self.optimizer.step()

    def follow(self) -> None:
        """Let the target's parameters follow, by their names."""
        online, target = self.online.state_dict(), self.target.state_dict()
        for name in online:
            target[name] = self.config.tau * online[name] + (1 - self.config.tau) * target[name]
        self.target.load_state_dict(target)


def _sb3(env: str, config: Config) -> Any:
    import torch
    from stable_baselines3 import DQN

    torch.set_num_threads(1)
    policy: dict[str, Any] = {"net_arch": list(config.net_arch)}
    if config.optimizer == "adamw":
        policy["optimizer_class"] = torch.optim.AdamW
        policy["optimizer_kwargs"] = {"amsgrad": config.amsgrad, "weight_decay": config.weight_decay}
    model = DQN(
        "MlpPolicy",
        env,
        policy_kwargs=policy,
        # SB3 knows no clipping of each entry.
        max_grad_norm=config.max_grad_norm or config.max_grad_value,
        device="cpu",
        seed=0,
        **_shared(config),
    )
    # SB3's own schedule spans one call of `learn`, and would begin anew with each round.
    first, last = config.exploration_initial_eps, config.exploration_final_eps
    span = config.exploration_fraction * config.total_timesteps
    model.exploration_schedule = lambda _: last + (first - last) * max(0.0, 1.0 - model.num_timesteps / span)
    return model


def _shared(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in SHARED_WITH_SB3}


def _learn(model: Any, count: int) -> None:
    # Its log would go nowhere, but would still be put together every few episodes.
    model.learn(count, log_interval=1_000_000, reset_num_timesteps=False)
