"""How fast one core is: upright and a peer in turn, medians of alternating rounds, as ratios.

    make bench                          every row but the long ones
    make bench BENCH=--long             those too: about half an hour
    python benchmarks/speed.py [--only TEXT] [--rounds 7] [--seconds 0.5] [--engine torch]

Each side of a row is a process of its own, so that nothing which one imports slows the other. Both are pinned to the
same core with one thread each, and one works only while the other waits. A round is either the same number of steps on
both sides (whole steps, where the work changes with the policy) or as many calls as fill the same time. Where other
programs took time on that core, the last line says so: ratios stand that well enough, times do not.

The rows are below (ROWS), upright's sides in `ours.py`, the peers' in `peers.py`. A run of all of them is written to
`benchmarks/results/`, with the machine and every version.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from machine import describe, one_thread_each, quietest_core

from upright.settings.config import Config, QLearning
from upright.settings.presets import PRESETS

RESULTS = Path(__file__).parent / "results"
NOT_INSTALLED = "not installed: pip install 'upright[bench]'"
PEERS = {"stable_baselines3", "sbx", "tianshou"}  # modules without which a peer is not installed
TITLE = ("upright", "torch", "numpy", "gymnasium", "stable-baselines3", "sbx-rl", "jax", "tianshou")

# Seconds a unit of work, times this, is what a row shows; steps/s is the inverse.
UNITS = {"µs": 1e6, "s": 1.0, "s for 100,000 steps": 1e5}
STEPS = 3_000  # in a round of whole steps on CartPole
PIECE = 20_000  # of LunarLander's 100,000 steps, in a round
QUIET = 0.95  # of its core, which a side has when nothing else runs

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


def _rows() -> list[Row]:
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


class Side:
    """One side of a row, at work in a process of its own.

    reason: why it cannot be measured; empty if it can · remark: what it last said of itself
    computed, passed: seconds in which it had the core, and all of them, so far
    """

    def __init__(self, name: str, arguments: tuple[Any, ...], core: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, arguments, core), daemon=True)
        self._process.start()
        theirs.close()
        self.remark = ""
        self.computed = self.passed = 0.0
        self.reason: str = self._receive()

    def work(self, count: int) -> float:
        """Do so many units of work: the seconds that they took."""
        self._connection.send(count)
        seconds, computed, passed, self.remark = self._receive()
        self.computed, self.passed = self.computed + computed, self.passed + passed
        return float(seconds)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError("broke off; its traceback is above") from None


def _serve(connection: Connection, name: str, arguments: tuple[Any, ...], core: int | None) -> None:
    """Make ready, then work whenever asked: the process of a side."""
    if core is not None:  # before anything is imported that looks how many cores there are
        os.sched_setaffinity(0, {core})
    module, function = name.split(".")
    try:
        work = getattr(importlib.import_module(module), function)(*arguments)
    except Exception as error:
        missing = (getattr(error, "name", None) or "").partition(".")[0]
        connection.send(NOT_INSTALLED if missing in PEERS else f"{error}".splitlines()[0])
        return
    connection.send("")
    while True:
        count = connection.recv()
        started, computed = time.perf_counter(), _computed()
        said = work(count)
        passed, computed = time.perf_counter() - started, _computed() - computed
        seconds, remark = (None, "") if said is None else said
        connection.send((passed if seconds is None else seconds * count, computed, passed, remark))


def _computed() -> float:
    """Seconds that this process and the processes which it waited for have spent computing."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(row: Row, rounds: int, seconds: float) -> dict[str, Any]:
    """Run a row: its sides in turn, round by round."""
    core = quietest_core()
    names = {"upright": row.ours, "peer": row.peer, "peak": "ours.fma_peak" if row.operations else None}
    sides = {
        key: Side(name, () if key == "peak" else row.arguments, core) for key, name in names.items() if name is not None
    }
    try:
        reasons = {key: side.reason for key, side in sides.items() if side.reason}
        working = {key: side for key, side in sides.items() if not side.reason}
        counts = {key: 1 if key == "peak" else row.count or _count(side, seconds) for key, side in working.items()}
        if row.warm_up:
            for key, side in working.items():
                side.work(counts[key])
        samples: dict[str, list[float]] = {key: [] for key in working}
        for _ in range(row.rounds or rounds):
            for key, side in working.items():
                samples[key].append(side.work(counts[key]) / counts[key])
        remark = "".join(side.remark for key, side in working.items() if key == "upright")
    finally:
        for side in sides.values():
            side.close()
    shares = {key: _rounded(side.computed / side.passed) for key, side in working.items() if key != "peak"}
    return {**summary(row, samples, counts, reasons, remark), "share_of_core": shares}


def _count(side: Side, seconds: float) -> int:
    """How many units fill a round; the first is not counted, for what is made ready at first use."""
    side.work(1)
    count = 1
    while (passed := side.work(count)) < seconds / 2:
        count = math.ceil(count * min(10.0, seconds / passed))
    return max(1, round(count * seconds / passed))


def summary(
    row: Row, samples: dict[str, list[float]], counts: dict[str, int], reasons: dict[str, str], remark: str
) -> dict[str, Any]:
    """What a row came to, as it is written: medians, ratios, and what was asked of it."""
    ours, peer, peak = (samples.get(key, []) for key in ("upright", "peer", "peak"))
    ratios = [theirs / mine for mine, theirs in zip(ours, peer, strict=bool(ours and peer))]
    shares = [row.operations * each / mine for mine, each in zip(ours, peak, strict=bool(ours and peak))]
    figure = _figure(row, ours)
    asked: list[tuple[str, bool | None]] = []
    if row.bound is not None:
        rate = row.unit == "steps/s"
        reached = None if figure is None else figure >= row.bound if rate else figure <= row.bound
        asked.append((f"{'≥' if rate else '≤'} {row.bound:,g} {row.unit}", reached))
    if row.ratio is not None:
        asked.append((f"≥ {row.ratio:g}×", statistics.median(ratios) >= row.ratio if ratios else None))
    if row.share is not None:
        asked.append((f"≥ {100 * row.share:g} %", statistics.median(shares) >= row.share if shares else None))
    return {
        "row": row.name,
        "peer": row.against or None,
        "unit": row.unit,
        "upright": figure,
        "theirs": _figure(row, peer),
        "ratio": _spread(ratios),
        "operations": row.operations or None,
        "share_of_fma_peak": _spread(shares),
        "targets": [{"target": target, "reached": reached} for target, reached in asked],
        "remark": remark,
        "not_measured": reasons,
        "units_in_a_round": counts,
        "seconds_a_unit": {key: [_rounded(each) for each in values] for key, values in samples.items()},
    }


def _figure(row: Row, samples: Sequence[float]) -> float | None:
    if not samples:
        return None
    seconds = row.average(samples)
    return _rounded(1.0 / seconds if row.unit == "steps/s" else seconds * UNITS[row.unit])


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "median": _rounded(statistics.median(values)),
        "min": _rounded(min(values)),
        "max": _rounded(max(values)),
    }


def _rounded(value: float) -> float:
    """Four digits: more than any of these figures is good for."""
    return float(f"{value:.4g}")


def cells(result: dict[str, Any]) -> list[str]:
    """A row's cells as text: name, upright, peer, ratio, share of the peak, targets, remark."""
    unit, missing = result["unit"], result["not_measured"]

    def figure(key: str, side: str) -> str:
        if side in missing:
            return str(missing[side])
        value: float | None = result[key]
        return "" if value is None else f"{value:,.{max(0, 3 - len(str(int(value))))}f} {unit}"

    def spread(values: dict[str, float] | None, scale: float, mark: str) -> str:
        if values is None:
            return ""
        middle, least, most = (f"{scale * values[key]:.3g}" for key in ("median", "min", "max"))
        return f"{middle}{mark} ({least} to {most})"

    targets = [
        f"{each['target']}: {'not measured' if each['reached'] is None else 'reached' if each['reached'] else 'missed'}"
        for each in result["targets"]
    ]
    return [
        result["row"],
        figure("upright", "upright"),
        f"{result['peer']}: {figure('theirs', 'peer')}" if result["peer"] else "",
        spread(result["ratio"], 1, "×"),
        missing.get("peak") or spread(result["share_of_fma_peak"], 100, " %"),
        "; ".join(targets),
        result["remark"],
    ]


HEAD = ["workload", "upright", "peer", "ratio (range)", "of the FMA peak", "target", "remark"]
WIDTHS = [40, 28, 38, 24, 20, 0, 0]


def line(texts: Sequence[str]) -> str:
    """A row of the table on the terminal."""
    padded = [f"{text:<{width}}" for text, width in zip(texts, WIDTHS, strict=True)]
    return "  ".join(each for each in padded if each).rstrip()


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    machine, packages = report["machine"], report["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in TITLE if name in packages)
    peak = report["fma_peak_gflops"]
    tables = [HEAD, ["---"] * len(HEAD), *(cells(each) for each in report["rows"])]
    return "\n".join(
        [
            "# Speed",
            "",
            "Written by `make bench` (`benchmarks/speed.py`), with every sample in `speed.json`. One thread each, in "
            "turn on the same core; medians, and ratios of the peer's time to upright's, round by round.",
            "",
            f"- {report['date']}, commit {report['commit']}",
            f"- {machine['cpu']}, {machine['instruction_set']}, {machine['cores']} cores, {machine['system']}",
            f"- Python {report['python']}, {versions}",
            f"- FMA peak of one core: {'not measured' if peak is None else f'{peak:,.1f} GFLOP/s'}",
            "",
            *("| " + " | ".join(row) + " |" for row in tables),
            "",
        ]
    )


def commit() -> str:
    """The commit that was measured, marked if something in it was changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=RESULTS.parent, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> int:
    """Print the table, and write it down if no row was left out by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="also the rows that take minutes")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name or peer has this; writes nothing")
    parser.add_argument("--rounds", type=int, default=7, help="at least 5")
    parser.add_argument("--seconds", type=float, default=0.5, help="that a round of calls takes on each side")
    parser.add_argument("--engine", help="instead of upright's own choice")
    arguments = parser.parse_args()
    if arguments.rounds < 5 and not arguments.only:
        parser.error("a median of fewer than 5 rounds is not worth writing down; give --rounds 5, or --only")

    one_thread_each()
    report: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": describe(),
        "python": platform.python_version(),
        "packages": dict(
            sorted((each.name.lower().replace("_", "-"), each.version) for each in importlib.metadata.distributions())
        ),
        "settings": {"rounds": arguments.rounds, "seconds": arguments.seconds, "engine": arguments.engine},
        "fma_peak_gflops": None,
        "rows": [],
    }
    broken: list[str] = []
    print(line(HEAD), flush=True)
    for row in _rows():
        if (row.long and not arguments.long) or arguments.only.lower() not in f"{row.name} {row.against}".lower():
            continue
        try:
            result = measure(_with_engine(row, arguments.engine), arguments.rounds, arguments.seconds)
        except RuntimeError as error:
            print(f"{row.name}: {error}", flush=True)
            broken.append(row.name)
            continue
        report["rows"].append(result)
        print(line(cells(result)), flush=True)
    peaks = [each for result in report["rows"] for each in result["seconds_a_unit"].get("peak", [])]
    if peaks:
        report["fma_peak_gflops"] = _rounded(1e-9 / statistics.median(peaks))
        print(f"FMA peak of one core: {report['fma_peak_gflops']:,.1f} GFLOP/s")
    # A process that has only begun also waits for its files.
    shares = [each for result in report["rows"] if result["unit"] != "s" for each in result["share_of_core"].values()]
    if shares and (least := min(shares)) < QUIET:
        print(f"Other programs were at work: one of the sides had only {least:.0%} of its core.")
    if not arguments.only:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "speed.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (RESULTS / "speed.md").write_text(markdown(report), encoding="utf-8")
        print(f"Written to {RESULTS}.")
    return 1 if broken else 0


def _with_engine(row: Row, engine: str | None) -> Row:
    """The same row with another engine; what runs the command itself keeps its choice."""
    if engine is None:
        return row
    changed = tuple(each.override(engine=engine) if isinstance(each, Config) else each for each in row.arguments)
    return dataclasses.replace(row, arguments=changed)


if __name__ == "__main__":
    sys.exit(main())
