"""upright's sides of the rows in `rows.py`; see `peers.py` for what a side is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.speed.peers import FILLED, ONE_IN
from upright import Config, Prioritised, ReplayMemory, Run
from upright.loop import learn, train

COMMAND = str(Path(sys.executable).with_name("upright"))
OBSERVATION = 4  # entries in CartPole's


class Measured(NamedTuple):
    """What work may say of itself: its seconds a unit, if not all that passed counts, and a remark for the row."""

    seconds: float | None = None
    remark: str = ""


Work = Callable[[int], Measured | None]


class Unavailable(Exception):
    """A side cannot be measured on this machine or with this build."""


def steps(env: str, config: Config) -> Work:
    """Whole steps: environment, acting, storing, learning; rounds of log_interval steps."""
    run = _run(env, config)
    reports = train(run)

    def work(count: int) -> Measured:
        for _ in range(count // config.log_interval):
            next(reports)
        return _engine(run)

    return work


def updates(env: str, config: Config) -> Work:
    """A batch out of the memory, the update, and the target update when it is due."""
    run = _run(env, config)
    _fill(run.replay, config.buffer_size)
    step = config.learning_starts

    def work(count: int) -> Measured:
        nonlocal step
        for _ in range(count):
            step += 1
            learn(run, range(step, step + 1))
        return _engine(run)

    return work


def updates_alone(env: str, config: Config) -> Work:
    """The update on one batch."""
    run = _run(env, config)
    _fill(run.replay, config.buffer_size)
    batch = run.replay.sample(config.batch_size)
    learner = run.agent.learner

    def work(count: int) -> Measured:
        for _ in range(count):
            learner.update(batch, config.learning_rate)
        return _engine(run)

    return work


def predict(env: str, config: Config) -> Work:
    """The greedy action for one observation."""
    run = _run(env, config)
    observation = run.obs[0]

    def work(count: int) -> Measured:
        for _ in range(count):
            run.agent.predict(observation)
        return _engine(run)

    return work


def uniform_samples(batch_size: int) -> Work:
    """A batch out of a full replay memory."""
    return _samples(ReplayMemory(FILLED), batch_size)


def prioritised_samples(batch_size: int) -> Work:
    """A batch out of a full prioritised replay memory."""
    return _samples(ReplayMemory(FILLED, replay=Prioritised()), batch_size)


def fma_peak() -> Work:
    """The machine: seconds a floating-point operation, when one core does nothing but fused multiply-adds."""
    try:
        from upright._native import fma_peak as peak
    except ImportError as error:
        raise Unavailable("no upright._native.fma_peak") from error
    return lambda _: Measured(1e-9 / peak())


def show_help() -> Work:
    """`upright --help`, the whole process."""

    def work(count: int) -> None:
        for _ in range(count):
            subprocess.run([COMMAND, "--help"], check=True, stdout=subprocess.DEVNULL)

    return work


def first_step() -> Work:
    """`upright train CartPole-v1`, until its first step is in metrics.jsonl."""

    def work(count: int) -> Measured:
        return Measured(sum(_seconds_to_first_step() for _ in range(count)) / count)

    return work


def train_command() -> Work:
    """`upright train CartPole-v1`, until it has printed the evaluation; each time the next seed."""
    seed = solved = 0

    def work(count: int) -> Measured:
        nonlocal seed, solved
        seconds = 0.0
        for _ in range(count):
            started = time.perf_counter()
            with _training(seed) as process:
                assert process.stdout is not None
                result = json.loads(process.stdout.readline())
                seconds += time.perf_counter() - started
            seed, solved = seed + 1, solved + bool(result["solved"])
        return Measured(seconds / count, f"{solved} of {seed} solved, engine {result['engine']}")

    return work


def two_seeds_in_turn() -> Work:
    """Two seeds, one after the other, on one core."""

    def work(count: int) -> None:
        for _ in range(count):
            for seed in (0, 1):
                with _training(seed) as process:
                    process.wait()

    return work


def two_seeds_at_once() -> Work:
    """The same two seeds as two processes at the same time, on whatever cores there are."""
    if not hasattr(os, "sched_setaffinity"):
        raise Unavailable("this system cannot pin a process to a core")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    if len(os.sched_getaffinity(0)) < 2:
        raise Unavailable("this machine has one core")

    def work(count: int) -> None:
        for _ in range(count):
            with _training(0) as one, _training(1) as other:
                one.wait()
                other.wait()

    return work


@contextmanager
def _training(seed: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    with tempfile.TemporaryDirectory() as folder:
        words = [COMMAND, "train", "CartPole-v1", "--seed", str(seed), "--out", folder, "--quiet", "--json", *options]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            yield process
            if process.wait() != 0:
                raise RuntimeError(f"upright train ended with status {process.returncode}")


def _seconds_to_first_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder, "seed-0", "metrics.jsonl")
        started = time.perf_counter()
        words = [COMMAND, "train", "CartPole-v1", "--out", folder, "--log-interval", "1", "--quiet"]
        with subprocess.Popen(words) as process:
            try:
                while not (metrics.exists() and metrics.stat().st_size):
                    if process.poll() is not None:
                        raise RuntimeError(f"upright train ended with status {process.returncode}")
                    time.sleep(0.001)
                return time.perf_counter() - started
            finally:
                process.kill()


def _run(env: str, config: Config) -> Run:
    import torch

    torch.set_num_threads(1)
    return Run(env, config, seed=0)


def _engine(run: Run) -> Measured:
    return Measured(remark=f"engine {run.agent.learner.engine}")


def _samples(memory: ReplayMemory, batch_size: int) -> Work:
    _fill(memory, FILLED)

    def work(count: int) -> None:
        for _ in range(count):
            memory.sample(batch_size)

    return work


def _fill(memory: ReplayMemory, count: int) -> None:
    """Fill a memory with made-up transitions of CartPole's size."""
    generator = np.random.default_rng(0)
    for k in range(count):
        obs, next_obs = generator.random((2, OBSERVATION), dtype=np.float32)
        memory.push(obs, k % 2, 1.0, 0.0 if k % ONE_IN == 0 else 0.99, next_obs)
