"""Who takes part in the benchmark, in which environment, with which settings, for how many steps and seeds.

A peer plays with what its own authors publish for that environment, number of steps included, and has no row where they
publish nothing. The RL Baselines3 Zoo's files were read at the commits below. LunarLander-v2, there and in tianshou's
example, stands for v3, which resets the wind, clears the world between episodes, and declares wider observations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upright import PRESETS

RESULTS = Path(__file__).parents[1] / "results" / "benchmark"

# Seeds of training. The search for upright's default (search.py) used none from 6,000 on.
OUR_FIRST_SEED, PEER_FIRST_SEED = 6_000, 1_000
PEER_SEEDS, OUR_SEEDS = 10, 20
CARTPOLE_SEEDS = 100  # of upright's default, which is to hold on each

# upright's presets that take part, and where: what `presets.py` made them for. A new preset joins them once its seeds
# have been trained.
ENROLLED = ("tutorial", "double", "dueling", "per", "noisy", "c51", "qrdqn", "iqn", "munchausen", "rainbow")
CLASSIC_CONTROL = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")

ZOO_DQN = "RL Baselines3 Zoo, hyperparams/dqn.yml at commit ce95481b041fe5314c1b2f1a53940d169b9253fc"
ZOO_QRDQN = "RL Baselines3 Zoo, hyperparams/qrdqn.yml at commit 04640c91c7590311fa4a0b4fb1bd80b931608e78"


@dataclass(frozen=True)
class Task:
    """An environment, the mean return from which it counts as solved, and the steps that upright has.

    threshold: Gymnasium's own `reward_threshold`, except CliffWalking's, which has none: −13 is its shortest path
    best: what the best policy comes to in the final episodes, where that is known and lies below the threshold
    """

    env: str
    threshold: float
    steps: int
    best: float | None = None


@dataclass(frozen=True)
class Contestant:
    """A row of the benchmark: an agent on a task.

    library: the function of `trainers.py` · settings: what is handed to it · source: who published them
    """

    name: str
    task: Task
    library: str
    settings: dict[str, Any]
    steps: int
    seeds: range
    source: str

    @property
    def title(self) -> str:
        """What `--only` looks through."""
        return f"{self.task.env} {self.name}"

    @property
    def path(self) -> Path:
        """Where its results are, one line a seed."""
        return RESULTS / self.task.env / f"{self.name.lower().replace(' ', '-')}.jsonl"


TASKS = {
    task.env: task
    for task in (
        Task("CartPole-v1", 475, 40_000),
        Task("Acrobot-v1", -100, 60_000),
        Task("MountainCar-v0", -110, 120_000),
        Task("LunarLander-v3", 200, 200_000),
        Task("FrozenLake-v1", 0.70, 50_000),
        Task("CliffWalking-v1", -13, 50_000),
        Task("Taxi-v4", 8, 200_000, best=7.59),
    )
}

_WIDE = {"net_arch": [256, 256]}

# Names are stable-baselines3's. What a file leaves out has the library's own default.
_ZOO_CARTPOLE = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "policy_kwargs": _WIDE,
}
_ZOO_MOUNTAINCAR = {
    "learning_rate": 4e-3,
    "batch_size": 128,
    "buffer_size": 10_000,
    "learning_starts": 1_000,
    "gamma": 0.98,
    "target_update_interval": 600,
    "train_freq": 16,
    "gradient_steps": 8,
    "exploration_fraction": 0.2,
    "exploration_final_eps": 0.07,
    "policy_kwargs": _WIDE,
}
_ZOO_ACROBOT = {
    "learning_rate": 6.3e-4,
    "batch_size": 128,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "gamma": 0.99,
    "target_update_interval": 250,
    "train_freq": 4,
    "gradient_steps": -1,  # as many as there were steps
    "exploration_fraction": 0.12,
    "exploration_final_eps": 0.1,
    "policy_kwargs": _WIDE,
}
ZOO: dict[str, tuple[int, dict[str, Any]]] = {
    "CartPole-v1": (50_000, _ZOO_CARTPOLE),
    "Acrobot-v1": (100_000, _ZOO_ACROBOT),
    "MountainCar-v0": (120_000, _ZOO_MOUNTAINCAR),
    "LunarLander-v3": (100_000, _ZOO_ACROBOT),  # the file has the same numbers for both
}
ZOO_QUANTILES: dict[str, tuple[int, dict[str, Any]]] = {
    "CartPole-v1": (50_000, {**_ZOO_CARTPOLE, "policy_kwargs": {**_WIDE, "n_quantiles": 10}}),
    "Acrobot-v1": (100_000, {**_ZOO_ACROBOT, "policy_kwargs": {**_WIDE, "n_quantiles": 25}}),
    "MountainCar-v0": (120_000, {**_ZOO_MOUNTAINCAR, "policy_kwargs": {**_WIDE, "n_quantiles": 25}}),
    "LunarLander-v3": (
        100_000,
        {
            "learning_rate": "lin_1.5e-3",  # the Zoo's word for falling linearly to 0
            "batch_size": 128,
            "buffer_size": 100_000,
            "learning_starts": 10_000,
            "gamma": 0.995,
            "target_update_interval": 1,
            "train_freq": 256,
            "gradient_steps": -1,
            "exploration_fraction": 0.24,
            "exploration_final_eps": 0.18,
            "policy_kwargs": {**_WIDE, "n_quantiles": 170},
        },
    ),
}

# ε is a list of (step, ε), straight lines between, or {first, decay, least} for first·decay^step. Before the first
# epoch come `prefill` steps, which explore with `eps_inference` and do not count among the steps here.
TIANSHOU: dict[str, tuple[int, dict[str, Any], str]] = {
    "CartPole-v1": (
        100_000,
        {
            "learning_rate": 1e-3,
            "gamma": 0.9,
            "n_steps": 3,
            "target_update_freq": 320,
            "buffer_size": 20_000,
            "batch_size": 64,
            "epoch_num_steps": 10_000,
            "collection_step": 10,
            "gradient_steps_per_sample": 0.1,
            "environments": 10,
            "hidden_sizes": [128, 128, 128],
            "dueling": None,
            "epsilon": [[0, 0.1]],
            "eps_inference": 0.05,
            "prefill": 0,
        },
        "tianshou 2.0.1, README.md, quick start",
    ),
    "Acrobot-v1": (
        1_000_000,
        {
            "learning_rate": 1e-3,
            "gamma": 0.95,
            "n_steps": 3,
            "target_update_freq": 320,
            "buffer_size": 20_000,
            "batch_size": 64,
            "epoch_num_steps": 100_000,
            "collection_step": 100,
            "gradient_steps_per_sample": 0.01,
            "environments": 10,
            "hidden_sizes": [128],
            "dueling": [128, 128],
            "epsilon": [[100_000, 0.5], [500_000, 0.25]],
            "eps_inference": 0.05,
            "prefill": 640,
        },
        "tianshou 2, examples/box2d/acrobot_dualdqn.py",
    ),
    "LunarLander-v3": (
        800_000,
        {
            "learning_rate": 0.013,
            "gamma": 0.99,
            "n_steps": 4,
            "target_update_freq": 500,
            "buffer_size": 100_000,
            "batch_size": 128,
            "epoch_num_steps": 80_000,
            "collection_step": 16,
            "gradient_steps_per_sample": 0.0625,
            "environments": 16,
            "hidden_sizes": [128, 128],
            "dueling": [128, 128],
            "epsilon": {"first": 0.73, "decay": 1 - 5e-6, "least": 0.01},
            "eps_inference": 0.01,
            "prefill": 2_048,
        },
        "tianshou, examples/box2d/lunarlander_dqn.py at commit f3e61ae9fef6582e520906e10a69a692de68f28b",
    ),
}


def _upright(name: str, task: Task, count: int) -> Contestant:
    config = PRESETS[name].override(total_timesteps=task.steps)
    seeds = range(OUR_FIRST_SEED, OUR_FIRST_SEED + count)
    return Contestant(f"upright {name}", task, "upright", config.to_dict(), task.steps, seeds, "upright")


def contestants() -> list[Contestant]:
    """Every row, task by task, in the order of the tables."""
    rows: list[Contestant] = []
    peer_seeds = range(PEER_FIRST_SEED, PEER_FIRST_SEED + PEER_SEEDS)
    for env, task in TASKS.items():
        rows.append(_upright("default", task, CARTPOLE_SEEDS if env == "CartPole-v1" else OUR_SEEDS))
        zoo = [
            ("stable-baselines3 DQN", "sb3_dqn", ZOO, ZOO_DQN),
            ("sbx DQN", "sbx_dqn", ZOO, ZOO_DQN),
            ("sb3-contrib QR-DQN", "sb3_qrdqn", ZOO_QUANTILES, ZOO_QRDQN),
        ]
        for name, library, settings, source in zoo:
            if env in settings:
                steps, values = settings[env]
                rows.append(Contestant(name, task, library, values, steps, peer_seeds, source))
        if env in TIANSHOU:
            steps, values, source = TIANSHOU[env]
            rows.append(Contestant("tianshou DQN", task, "tianshou_dqn", values, steps, peer_seeds, source))
        if env in CLASSIC_CONTROL:
            rows += [_upright(name, task, OUR_SEEDS) for name in ENROLLED]
    return rows
