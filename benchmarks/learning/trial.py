"""One trial of the benchmark: one seed of one contestant, trained and judged in a process of its own with one thread.

python -m benchmarks.learning.trial 'CartPole-v1 upright default' 1000     prints the result as a line of JSON
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import os
import platform
import sys

from benchmarks.learning import trainers
from benchmarks.learning.contestants import contestants
from benchmarks.learning.judging import Watch
from benchmarks.speed.machine import describe


def main(title: str, seed: int) -> None:
    """Run the trial and print its result."""
    contestant = next(each for each in contestants() if each.title == title)
    env = contestant.task.env
    watch = Watch(env, contestant.steps)
    trainer = getattr(trainers, contestant.library)
    settings = copy.deepcopy(contestant.settings)  # QR-DQN adds to what it is given
    trainer(env, settings, contestant.steps, seed, watch)
    packages = {
        each: importlib.metadata.version(each)
        for each in ("gymnasium", "jax", "numpy", "sb3-contrib", "sbx-rl", "stable-baselines3", "tianshou", "torch")
        if each.replace("-", "_").removesuffix("_rl") in sys.modules
    }
    result = {
        "contestant": contestant.name,
        "env": env,
        "seed": seed,
        "steps": watch.steps,
        "wall_seconds": round(watch.wall, 2),
        "cpu_seconds": round(watch.cpu, 2),
        "curve": watch.curve,
        "returns": watch.returns,
        "settings": contestant.settings,
        "versions": {"python": platform.python_version(), **packages},
        "machine": describe(),
        "commit": os.environ.get("UPRIGHT_COMMIT", "unknown"),
    }
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("title", help="a row's environment and name, as `benchmark --list` shows them")
    parser.add_argument("seed", type=int)
    main(**vars(parser.parse_args()))
