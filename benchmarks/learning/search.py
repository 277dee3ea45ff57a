"""The search for the default configuration: settings tried on some seeds, and what their final policies reach.

    python -m benchmarks.learning.search MountainCar-v0 --seeds 16 exploration_final_eps=0.02 exploration_repeat=null
    python -m benchmarks.learning.search --ablation --seeds 20   the default without each ingredient, or with one more
    python -m benchmarks.learning.search --table [TEXT]          what is there, or the lines that hold the text

A setting is name=JSON, over the present default. Trials run side by side, one on each core; each is a line of
`results/search.jsonl`, below one with the default of its time, and one that is there is not run again. The seeds begin
at 1,000; `benchmark.py` judges the default on others.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.learning.contestants import OUR_FIRST_SEED, TASKS
from benchmarks.speed.machine import one_thread_each
from upright import PRESETS, Config
from upright.comparison.statistics import wilson_interval
from upright.settings.config import FINAL_EPISODES

RECORD = Path(__file__).parents[1] / "results" / "search.jsonl"
FIRST_SEED = 1_000

CLASSIC = ("CartPole-v1", "MountainCar-v0")

# What the default is without each of its ingredients, or with one that it has not, and where it is to show.
ABLATIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "default": ({}, (*CLASSIC, "CliffWalking-v1", "LunarLander-v3")),
    "ε-greedy with single actions": ({"exploration_repeat": None}, CLASSIC),
    "n steps past random actions": ({"cut_n_steps": False}, (*CLASSIC, "CliffWalking-v1")),
    "observations as they come": ({"stretch_observations": False}, ("MountainCar-v0",)),
    "final ε of 0.05": ({"exploration_final_eps": 0.05}, CLASSIC),
    "memory of 10,000": ({"buffer_size": 10_000}, CLASSIC),
    "memory of 100,000": ({"buffer_size": 100_000}, ("LunarLander-v3",)),
    "gradient clipped to a norm of 10": ({"max_grad_norm": 10.0}, CLASSIC),
    "Huber's error": ({"loss": {"kind": "q_learning", "error": "huber"}}, CLASSIC),
    "one step": ({"n_steps": 1}, CLASSIC),
    "constant learning rate": ({"learning_rate_schedule": "constant"}, CLASSIC),
    "Munchausen": ({"munchausen": {"alpha": 0.5}}, CLASSIC),
    "double": ({"loss": {"kind": "q_learning", "error": "squared", "double": True}}, CLASSIC),
    "dueling": ({"dueling": True}, CLASSIC),
    "layer norm": ({"layer_norm": True}, CLASSIC),
}

NOT_LEARNED_BY = {"total_timesteps", "log_interval"}


class Trial(NamedTuple):
    """One seed of some settings over the default, by their names."""

    env: str
    settings: dict[str, Any]
    seed: int

    @property
    def config(self) -> Config:
        """The default with them."""
        steps = TASKS[self.env].steps
        values = {**PRESETS["default"].to_dict(), "total_timesteps": steps, "log_interval": steps, **self.settings}
        return Config.from_dict(values)


def run(trial: Trial) -> dict[str, Any]:
    """Train and judge it: a line of the record."""
    from upright import Run, train

    logging.getLogger("upright").setLevel(logging.ERROR)
    began = time.process_time()
    run = Run(trial.env, trial.config, trial.seed)
    for _ in train(run):
        pass
    evaluation = run.agent.evaluate(FINAL_EPISODES)
    run.close()
    return {
        **trial._asdict(),
        "mean": round(evaluation.mean, 3),
        "seconds": round(time.process_time() - began, 1),
    }


def record() -> Iterator[dict[str, Any]]:
    """The trials so far, each with the `default` that its settings were put over."""
    default: dict[str, Any] = {}
    for line in RECORD.read_text().splitlines() if RECORD.exists() else ():
        read = json.loads(line)
        if "default" in read:
            default = read["default"]
        else:
            yield {**read, "default": default}


def search(trials: list[Trial], processes: int) -> None:
    """Run the trials that the record does not hold, and add them to it as they end."""
    one_thread_each()
    default = PRESETS["default"].to_dict()
    there = [(each["env"], each["settings"], each["seed"]) for each in record() if each["default"] == default]
    todo = [trial for trial in trials if tuple(trial) not in there]
    with multiprocessing.get_context("spawn").Pool(processes) as pool, open(RECORD, "a") as file:
        if todo:
            file.write(json.dumps({"default": default}, ensure_ascii=False) + "\n")
        for line in pool.imap_unordered(run, todo):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()


def table(text: str = "") -> None:
    """Print what each settings reached, those that were solved most often first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in record():
        groups.setdefault((each["env"], _said(each)), []).append(each)
    rows = []
    for (env, settings), lines in groups.items():
        means = [each["mean"] for each in lines]
        solved = sum(mean >= TASKS[env].threshold for mean in means)
        low, high = wilson_interval(solved, len(means))
        rows.append(
            f"{env:<16}{solved:>4} of {len(means):<4} ({low:4.0%} to {high:4.0%})  worst {min(means):>8.2f}  "
            f"mean {sum(means) / len(means):>8.2f}  {settings}"
        )
    print("\n".join(sorted(row for row in rows if text in row)))


def _said(line: dict[str, Any]) -> str:
    """The settings in which a trial differs from what the default is now."""
    now = PRESETS["default"].to_dict()
    then = {**line["default"], **line["settings"]}
    differing = {name: value for name, value in then.items() if name not in now or now[name] != value}
    words = [
        f"{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in sorted(differing.items())
        if name not in NOT_LEARNED_BY
    ]
    return " ".join(words) or "the default"


def main() -> None:
    """Search or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", nargs="?", choices=list(TASKS))
    parser.add_argument("settings", nargs="*", metavar="NAME=JSON")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--table", nargs="?", const="", metavar="TEXT")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_intermixed_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    if seeds.stop > OUR_FIRST_SEED:
        parser.error(f"the seeds from {OUR_FIRST_SEED} on are for benchmark.py")
    if arguments.ablation:
        pairs = [(env, settings) for settings, envs in ABLATIONS.values() for env in envs]
        search([Trial(env, settings, seed) for env, settings in pairs for seed in seeds], arguments.processes)
    elif arguments.env:
        settings = {name: json.loads(value) for name, _, value in (each.partition("=") for each in arguments.settings)}
        known = {field.name for field in dataclasses.fields(Config)}
        if unknown := settings.keys() - known:
            parser.error(f"there is no setting {', '.join(sorted(unknown))}")
        search([Trial(arguments.env, settings, seed) for seed in seeds], arguments.processes)
    elif arguments.table is None:
        parser.error("name an environment, --ablation or --table")
    table(arguments.table or arguments.env or "")


if __name__ == "__main__":
    main()
