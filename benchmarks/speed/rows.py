"""The workloads that are measured: what both sides do, with which settings, and what is asked of upright."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from upright import PRESETS, Config, QLearning

STEPS = 3_000  # in a round of whole steps on CartPole
PIECE = 20_000  # of LunarLander's 100,000 steps, in a round

# What SB3 does unless told otherwise, with a batch of 64 and one update a step. ε stands where it ends, so that every
# step asks the network.
PLAIN = Config(
    total_timesteps=1_000_000_000,
    net_arch=(64, 64),
    loss=QLearning(error="huber"),
    munchausen=None,
    n_steps=1,
    buffer_size=50_000,
    learning_starts=100,
    batch_size=64,
    train_freq=1,
    learning_rate=1e-4,
    learning_rate_schedule="constant",
    target_update_interval=10_000,
    exploration_initial_eps=0.05,
    exploration_final_eps=0.05,
    exploration_repeat=None,
    max_grad_norm=10.0,
    log_interval=STEPS,
    device="cpu",
)
TUTORIAL = PRESETS["tutorial"].override(
    total_timesteps=1_000_000_000,
    exploration_initial_eps=0.05,
    exploration_time_constant=None,
    log_interval=STEPS,
    device="cpu",
)
# RL Baselines3 Zoo, hyperparams/dqn.yml, LunarLander. Its gradient_steps of -1 is as many as there were steps: 4.
LUNAR = PLAIN.override(
    total_timesteps=100_000,
    net_arch=(256, 256),
    learning_rate=6.3e-4,
    batch_size=128,
    buffer_size=50_000,
    learning_starts=0,
    gamma=0.99,
    target_update_interval=250,
    train_freq=4,
    gradient_steps=4,
    exploration_initial_eps=1.0,
    exploration_fraction=0.12,
    exploration_final_eps=0.1,
    log_interval=PIECE,
)


@dataclass(frozen=True)
class Row:
    """A workload, and what is asked of it.

    ours, peer: the sides, as module.function; peer is None where upright stands by itself
    bound: what upright's figure, in the row's unit, has to reach · ratio: how many times the peer's speed
    share: of the FMA peak, for an update of so many operations · count: units in a round, 0 for as many as fill it
    rounds: 0 for as many as were asked for · average: of upright's and the peer's samples
    """

    name: str
    ours: str
    peer: str | None = None
    against: str = ""
    arguments: tuple[Any, ...] = ()
    unit: str = "µs"
    bound: float | None = None
    ratio: float | None = None
    share: float | None = None
    operations: int = 0
    count: int = 0
    rounds: int = 0
    warm_up: bool = True
    average: Callable[[Sequence[float]], float] = statistics.median
    long: bool = False


def operations(config: Config, observation: int = 4, actions: int = 2) -> int:
    """Floating-point operations of an update's matrix products, a multiplication and an addition counting as two.

    A layer from i to o costs 2·B·i·o forward, the same again for the gradient of its weights, and the same for the
    gradient of its input, which the first layer does not need. The online network goes forward and back; the target
    network goes forward over the next states, and with Munchausen over the states too; with double the online network
    also goes forward over the next states. Biases, activations, the loss, clipping, the optimiser and the target
    update are not counted: what they take is time in which the multipliers rest.
    """
    widths = (observation, *config.net_arch, actions)
    layers = [2 * config.batch_size * inputs * outputs for inputs, outputs in pairwise(widths)]
    forward = 2 + (config.munchausen is not None) + config.loss.double
    return forward * sum(layers) + sum(layers) + sum(layers[1:])


def rows() -> list[Row]:
    """Every workload, in the order of the table."""
    cartpole = "CartPole-v1"

    def whole(name: str, config: Config, peer: str, against: str, ratio: float | None, bound: float | None) -> Row:
        sides = ("ours.steps", f"peers.{peer}")
        return Row(name, *sides, against, (cartpole, config), "steps/s", bound, ratio, count=STEPS)

    def alone(width: int, batch_size: int) -> Row:
        config = PLAIN.override(net_arch=(width, width), batch_size=batch_size)
        return Row(
            f"update alone, {width}×{width}, batch {batch_size}",
            "ours.updates_alone",
            arguments=(cartpole, config),
            bound=250.0 if (width, batch_size) == (256, 64) else None,
            share=0.6,
            operations=operations(config),
        )

    zoo = PLAIN.override(net_arch=(256, 256))
    small, large = "whole step, 64×64, batch 64", "whole step, tutorial's 128×128, batch 128"
    return [
        whole(small, PLAIN, "sb3_steps", "SB3", 20.0, 22_000.0),
        whole(small, PLAIN, "sbx_steps", "SBX", 30.0, 22_000.0),
        whole(small, PLAIN, "tianshou_steps", "tianshou", None, 22_000.0),
        whole(large, TUTORIAL, "sb3_steps", "SB3", 8.0, None),
        whole(large, TUTORIAL, "tutorial_steps", "tutorial's loop", None, None),
        Row(
            "batch, update and target, tutorial's",
            "ours.updates",
            "peers.tutorial_updates",
            "tutorial's loop",
            (cartpole, TUTORIAL),
            operations=operations(TUTORIAL),
        ),
        Row(
            "update alone, tutorial's",
            "ours.updates_alone",
            "peers.tutorial_updates_alone",
            "tutorial's loop",
            (cartpole, TUTORIAL),
            bound=140.0,
            operations=operations(TUTORIAL),
        ),
        Row(
            "batch and update, 256×256, batch 64",
            "ours.updates",
            "peers.sb3_updates",
            "SB3's train()",
            (cartpole, zoo),
            operations=operations(zoo),
        ),
        *(alone(width, batch_size) for width in (64, 128, 256, 512) for batch_size in (64, 128)),
        Row("predict, one observation", "ours.predict", "peers.sb3_predict", "SB3", (cartpole, PLAIN), bound=5.0),
        Row("128 of 100,000, uniform", "ours.uniform_samples", "peers.deque_samples", "deque", (128,)),
        Row("128 of 100,000, prioritised", "ours.prioritised_samples", "peers.deque_samples", "deque", (128,)),
        Row("upright --help", "ours.show_help", unit="s", bound=0.3),
        Row("process start to first step", "ours.first_step", unit="s", bound=0.8, count=1),
        Row(
            "upright train CartPole-v1, 20 seeds",
            "ours.train_command",
            unit="s",
            bound=4.0,
            count=1,
            rounds=20,
            warm_up=False,
            long=True,
        ),
        Row(
            "two seeds on two cores",
            "ours.two_seeds_at_once",
            "ours.two_seeds_in_turn",
            "one core",
            unit="s",
            ratio=1.9,
            count=1,
            rounds=5,
            warm_up=False,
            long=True,
        ),
        # Five rounds are the five pieces of one run, so their mean is the run's.
        Row(
            "LunarLander-v3, Zoo's settings",
            "ours.steps",
            "peers.sb3_steps",
            "SB3",
            ("LunarLander-v3", LUNAR),
            "s for 100,000 steps",
            bound=60.0,
            count=PIECE,
            rounds=LUNAR.total_timesteps // PIECE,
            warm_up=False,
            average=statistics.fmean,
            long=True,
        ),
    ]
