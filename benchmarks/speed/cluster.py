"""What Ray costs: the same seeds on the process pool and on a Ray cluster of this machine, in turn.

    python -m benchmarks.speed.cluster [--pairs 5] [--seeds 8] [--steps 30000]

Each pair trains the same seeds once on each side, on as many cores; which side begins changes from pair to pair. The
cluster is started before the clock, which then counts until the last result is there. A line a pair, then the median of
the ratios: the pool's seconds through the cluster's, so that 1.1 is a cluster that is a tenth faster.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from upright import Config, Finished
from upright.experiments.cluster import connected, train_on_cluster
from upright.experiments.pool import train_in_processes
from upright.experiments.seeds import Event
from upright.experiments.training import plan
from upright.machine import cores


def seconds(events: Iterable[Event], count: int) -> float:
    """How long it takes until all seeds are finished."""
    began = time.perf_counter()
    assert sum(isinstance(event, Finished) for event in events) == count
    return time.perf_counter() - began


def main() -> None:
    """Measure, and print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--pairs", type=int, default=5)
    words.add_argument("--seeds", type=int, default=8)
    words.add_argument("--steps", type=int, default=30_000)
    given = words.parse_args()
    config, ratios = Config(total_timesteps=given.steps), []
    with connected("local"), tempfile.TemporaryDirectory() as folder:
        for pair in range(-1, given.pairs):  # the first warms up: Ray's workers start when they are first needed
            taken = {}
            for side in ("pool", "cluster") if pair % 2 else ("cluster", "pool"):
                tasks = plan("CartPole-v1", config, range(given.seeds), Path(folder) / f"{side}{pair}")
                events = train_in_processes(tasks, cores()) if side == "pool" else train_on_cluster(tasks, "auto")
                taken[side] = seconds(events, given.seeds)
            if pair >= 0:
                ratios.append(taken["pool"] / taken["cluster"])
                shown = ", ".join(f"{side} {taken[side]:.2f} s" for side in ("pool", "cluster"))
                print(f"{given.seeds} seeds of {given.steps:,} steps on {cores()} cores: {shown}", flush=True)
    print(f"pool / cluster: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
