"""How each library trains, as its own documentation has it.

A trainer is a function of the environment's id, the settings, the number of steps and the seed, and of a `Watch`, which
it starts when all is imported, calls with the steps so far and the greedy policy as often as it can, and finishes with
the final one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.learning.judging import Watch


def upright(env: str, settings: dict[str, Any], steps: int, seed: int, watch: Watch) -> None:
    """Iterate upright's loop."""
    from upright import Config, Run, train

    watch.start()
    run = Run(env, Config.from_dict(settings), seed=seed)

    def policy(observations: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        return np.asarray(run.agent.predict(observations, action_masks=masks)[0])

    for progress in train(run):
        watch(progress.step, policy)
    watch.finish(run.step, policy)


def sb3_dqn(env: str, settings: dict[str, Any], steps: int, seed: int, watch: Watch) -> None:
    """stable-baselines3's DQN."""
    from stable_baselines3 import DQN

    _learn(DQN, env, {**settings, "device": "cpu"}, steps, seed, watch)


def sb3_qrdqn(env: str, settings: dict[str, Any], steps: int, seed: int, watch: Watch) -> None:
    """sb3-contrib's QR-DQN."""
    from sb3_contrib import QRDQN

    _learn(QRDQN, env, {**settings, "device": "cpu"}, steps, seed, watch)


def sbx_dqn(env: str, settings: dict[str, Any], steps: int, seed: int, watch: Watch) -> None:
    """SBX's DQN: stable-baselines3 in JAX. It clips no gradient."""
    from sbx import DQN

    _learn(DQN, env, settings, steps, seed, watch)


def _learn(algorithm: Any, env: str, settings: dict[str, Any], steps: int, seed: int, watch: Watch) -> None:
    """One call of `learn`, over which the schedules span, with a callback that watches each step."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(1)
    watch.start()
    model = algorithm("MlpPolicy", env, seed=seed, **{**settings, "learning_rate": _rate(settings["learning_rate"])})

    def policy(observations: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        return np.asarray(model.predict(observations, deterministic=True)[0])

    class Watching(BaseCallback):  # type: ignore[misc]
        def _on_step(self) -> bool:
            watch(self.num_timesteps, policy)
            return True

    # It learns in whole rounds of train_freq steps, and so for a few steps more than it was asked to.
    model.learn(steps, callback=Watching())
    watch.finish(model.num_timesteps, policy)


def _rate(value: float | str) -> Any:
    """The Zoo's learning rate: a number, or "lin_" and the number from which it falls linearly to 0."""
    if isinstance(value, float):
        return value
    first = float(value.removeprefix("lin_"))
    return lambda remaining: remaining * first


def tianshou_dqn(env: str, settings: dict[str, Any], steps: int, seed: int, watch: Watch) -> None:
    """The DQN of tianshou 2 with its own trainer, without the tests and the early end that its examples have."""
    import gymnasium
    import torch
    from tianshou.algorithm import DQN
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Batch, Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OffPolicyTrainerParams
    from tianshou.utils.net.common import Net

    torch.set_num_threads(1)
    watch.start()
    np.random.seed(seed)  # noqa: NPY002 - tianshou draws its batches and its exploration from it
    torch.manual_seed(seed)
    count = settings["environments"]
    vector = DummyVectorEnv([lambda: gymnasium.make(env) for _ in range(count)])
    vector.seed(seed)
    probe: Any = gymnasium.make(env)
    dueling = settings["dueling"]
    network = Net(
        state_shape=probe.observation_space.shape,
        action_shape=probe.action_space.n,
        hidden_sizes=settings["hidden_sizes"],
        dueling_param=None if dueling is None else ({"hidden_sizes": dueling}, {"hidden_sizes": dueling}),
    )
    greedy = DiscreteQLearningPolicy(
        model=network, action_space=probe.action_space, eps_inference=settings["eps_inference"]
    )
    algorithm = DQN(
        policy=greedy,
        optim=AdamOptimizerFactory(lr=settings["learning_rate"]),
        gamma=settings["gamma"],
        n_step_return_horizon=settings["n_steps"],
        target_update_freq=settings["target_update_freq"],
    )
    buffer = VectorReplayBuffer(settings["buffer_size"], count)
    collector = Collector(algorithm, vector, buffer, exploration_noise=True)
    collector.reset()
    prefill = settings["prefill"]
    if prefill:
        collector.collect(n_step=prefill)

    def policy(observations: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(greedy(Batch(obs=observations, info=[None] * len(observations))).act)

    def before_each(_: int, step: int) -> None:
        greedy.set_eps_training(_epsilon(settings["epsilon"], step))
        watch(prefill + step, policy)

    algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            max_epochs=-(-steps // settings["epoch_num_steps"]),
            epoch_num_steps=settings["epoch_num_steps"],
            collection_step_num_env_steps=settings["collection_step"],
            batch_size=settings["batch_size"],
            update_step_num_gradient_steps_per_sample=settings["gradient_steps_per_sample"],
            training_fn=before_each,
            verbose=False,
            show_progress=False,
        )
    )
    watch.finish(prefill + steps, policy)


def _epsilon(schedule: Any, step: int) -> float:
    """ε of tianshou's examples at a step: see `contestants.TIANSHOU`."""
    if isinstance(schedule, dict):
        return float(max(schedule["first"] * schedule["decay"] ** step, schedule["least"]))
    places, values = zip(*schedule, strict=True)
    return float(np.interp(step, places, values))
