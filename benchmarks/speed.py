"""How fast one core is: upright and a peer in turn, medians of alternating rounds, as ratios.

    python benchmarks/speed.py [--rounds 7]

Rows: one update at the PyTorch tutorial's size against the tutorial's own code; one batch from a replay memory of
100,000 against a deque and random.sample; one CartPole step with acting, storing and learning.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from upright.config import Prioritised
from upright.learners import Problem, make_learner
from upright.presets import PRESETS
from upright.replay import PrioritisedReplay, ReplayMemory, Transition
from upright.run import Run
from upright.train import train

BATCH = 128


def microseconds(call: Callable[[], object], calls: int) -> float:
    """Mean time of a call over one round."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls * 1e6


def compare(ours: Callable[[], object], theirs: Callable[[], object], calls: int, rounds: int) -> tuple[float, ...]:
    """Medians of both, and of the ratio theirs/ours round by round."""
    for call in (ours, theirs):
        microseconds(call, max(1, calls // 5))
    pairs = [(microseconds(ours, calls), microseconds(theirs, calls)) for _ in range(rounds)]
    ratio = statistics.median(b / a for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio


def plain_update() -> Callable[[], object]:
    """Sampling and updating as the tutorial writes it: tensors in a deque, one network call for each need."""

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))

    online, target = network(), network()
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.AdamW(online.parameters(), lr=1e-4, amsgrad=True)
    memory = deque(
        (torch.randn(1, 4), torch.randint(2, (1, 1)), None if k % 50 == 0 else torch.randn(1, 4), torch.ones(1))
        for k in range(10_000)
    )

    def update() -> None:
        obs, action, next_obs, reward = zip(*random.sample(memory, BATCH), strict=True)
        alive = torch.tensor([each is not None for each in next_obs])
        q = online(torch.cat(obs)).gather(1, torch.cat(action))
        value = torch.zeros(BATCH)
        with torch.no_grad():
            value[alive] = target(torch.cat([each for each in next_obs if each is not None])).max(1).values
        loss = nn.functional.smooth_l1_loss(q, (torch.cat(reward) + 0.99 * value)[:, None])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(online.parameters(), 100)
        optimizer.step()
        parameters = target.state_dict()
        for name, each in online.state_dict().items():
            parameters[name] = 0.005 * each + 0.995 * parameters[name]
        target.load_state_dict(parameters)

    return update


def fill(memory: ReplayMemory, count: int) -> ReplayMemory:
    """A memory of random CartPole-sized transitions, one in fifty of them terminal."""
    draw = np.random.default_rng(0)
    for k in range(count):
        obs, next_obs = draw.random((2, 4), dtype=np.float32)
        memory.push(obs, k % 2, 1.0, 0.0 if k % 50 == 0 else 0.99, next_obs)
    return memory


def our_update(preset: str) -> Callable[[], object]:
    """Sampling, updating and the target update, with the preset's settings at the tutorial's size."""
    config = PRESETS[preset].override(batch_size=BATCH, net_arch=(128, 128), device="cpu")
    learner = make_learner(config, Problem((4,), False, 2), seed=0)
    memory = fill(ReplayMemory(10_000), 10_000)

    def update() -> None:
        learner.update(memory.sample(BATCH), config.learning_rate)
        learner.update_target()

    return update


def learner_update(preset: str) -> Callable[[], object]:
    """The update alone, on one batch."""
    config = PRESETS[preset].override(batch_size=BATCH, net_arch=(128, 128), device="cpu")
    learner = make_learner(config, Problem((4,), False, 2), seed=0)
    batch = fill(ReplayMemory(10_000), 10_000).sample(BATCH)
    return lambda: learner.update(batch, config.learning_rate)


def plain_sample(count: int) -> Callable[[], object]:
    """A batch from a deque of Python objects."""
    transitions = fill(ReplayMemory(count), count).columns
    memory = deque(Transition(*(None if c is None else c[k] for c in transitions)) for k in range(count))

    def sample() -> Transition:
        columns = zip(*random.sample(memory, BATCH), strict=True)
        return Transition(*(None if c[0] is None else np.stack(c) for c in columns))

    return sample


def steps_per_second(preset: str, steps: int) -> float:
    """The whole step: environment, acting, storing, learning."""
    run = Run("CartPole-v1", PRESETS[preset].override(total_timesteps=steps, device="cpu"), seed=0)
    started = time.perf_counter()
    for _ in train(run):
        pass
    run.close()
    return steps / (time.perf_counter() - started)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"{platform.machine()}, Python {platform.python_version()}, PyTorch {torch.__version__}, one thread")
    print(f"{'':58}{'upright':>10}{'peer':>10}{'ratio':>7}")
    plain = plain_update()
    uniform, prioritised = (
        fill(memory, 100_000) for memory in (ReplayMemory(100_000), PrioritisedReplay(100_000, Prioritised()))
    )
    deque_sample = plain_sample(100_000)
    rows = [
        ("sample + update + target, tutorial preset, vs its code", our_update("tutorial"), plain, 200),
        ("update alone, tutorial preset, vs the same", learner_update("tutorial"), plain, 200),
        ("update alone, default preset, vs the same", learner_update("default"), plain, 200),
        (
            "128 of 100,000, uniform, vs deque + random.sample",
            lambda: uniform.sample(BATCH).transition,
            deque_sample,
            200,
        ),
        ("128 of 100,000, prioritised, vs the same", lambda: prioritised.sample(BATCH).transition, deque_sample, 200),
    ]
    for name, ours, theirs, calls in rows:
        mine, other, ratio = compare(ours, theirs, calls, rounds)
        print(f"{name:58}{mine:7.0f} µs{other:7.0f} µs{ratio:6.1f}×")
    for preset in ("default", "tutorial"):
        rate = statistics.median(steps_per_second(preset, 6_000) for _ in range(3))
        print(f"{f'CartPole-v1, whole steps, {preset} preset':58}{rate:7,.0f} steps/s")


if __name__ == "__main__":
    main()
