"""Write the golden files of the schemas that have none yet: python tests/golden/make.py.

What is there is what an earlier version wrote, and stays. A folder is named after its kind and schema:

checkpoint-<n>   a run of the default settings stopped in mid-training; expected.json has what it knew then
resume-<n>       a run with everything that a checkpoint can hold: `stopped`, and `whole`, which was never stopped
experiment-<n>   two finished seeds, by the command in command.json
policies-<n>     policies of each loss; expected.json has observations and their Q-values
study-<n>        a study, by the command in command.json: two finished trials, and one whose process was killed
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
from gymnasium import spaces  # noqa: E402

from configurations import TINY  # noqa: E402
from run_digest import abandon, digests, finish  # noqa: E402
from toy_environments import Masked, Spaces  # noqa: E402
from upright import Categorical, Config, ImplicitQuantile, Munchausen, Prioritised, QLearning, Quantile, Run  # noqa: E402
from upright.agent import POLICY_SCHEMA  # noqa: E402
from upright.cli.main import main  # noqa: E402
from upright.experiments.search_space import space_from_dict  # noqa: E402
from upright.experiments.seeds import Reported, Task  # noqa: E402
from upright.experiments.tune import STUDY_SCHEMA, Study, run_trials  # noqa: E402
from upright.loop import train  # noqa: E402
from upright.runs.checkpoint import CHECKPOINT_SCHEMA  # noqa: E402
from upright.runs.description import RUN_SCHEMA  # noqa: E402

ASKED = [[0.0, 0.0, 0.0, 0.0], [0.5, -1.0, 0.05, 1.0]]

# Small, with a replay memory that is full, evaluations, and a checkpoint in the midst.
SMALL = TINY.override(
    total_timesteps=160,
    checkpoint_every=80,
    keep_checkpoints=1,
    learning_starts=40,
    buffer_size=32,
    net_arch=(4,),
    eval_freq=80,
    log_interval=40,
)
SMALL_WORDS = [
    "--total-timesteps", "160", "--checkpoint-every", "80", "--keep-checkpoints", "1", "--learning-starts", "40",
    "--batch-size", "8", "--buffer-size", "32", "--target-update-interval", "40", "--eval-freq", "80",
    "--n-eval-episodes", "2", "--log-interval", "40", "--max-episode-steps", "100",
]  # fmt: skip

RESUMED = SMALL.override(
    total_timesteps=240,
    max_episode_steps=13,
    exploration_fraction=0.9,
    exploration_final_eps=0.3,
    num_envs=2,
    replay=Prioritised(),
    loss=Categorical(atoms=5, v_min=-20.0, v_max=20.0, double=True),
    dueling=True,
    noisy=True,
)

SPACE = spaces.Dict(
    {
        "place": spaces.Box(-1.0, np.array([0.05, 2.0, np.inf], np.float32), (3,), np.float32),
        "kind": spaces.Discrete(3, start=1),
        "switches": spaces.MultiBinary(4),
        "pair": spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.Box(-5, 5, (2, 2), np.int32)]),
    }
)


def make_spaces() -> Spaces:
    """An environment that only its maker can name, with every kind of space."""
    return Spaces(SPACE, spaces.MultiDiscrete([2, 3]))


POLICIES: dict[str, tuple[Any, Config]] = {
    "default": ("CartPole-v1", SMALL),
    "q_learning": ("CartPole-v1", SMALL.override(loss=QLearning(double=True, error="huber"), layer_norm=True)),
    "categorical": ("CartPole-v1", SMALL.override(loss=Categorical(atoms=11), noisy=True, dueling=True)),
    "quantile": ("CartPole-v1", SMALL.override(loss=Quantile(quantiles=5), dueling=True, activation="silu")),
    "implicit_quantile": (
        "CartPole-v1",
        SMALL.override(loss=ImplicitQuantile(quantiles=4, target_quantiles=4, policy_quantiles=8, cosines=8)),
    ),
    "munchausen": ("CartPole-v1", SMALL.override(munchausen=Munchausen(), activation="tanh", net_arch=(4, 4))),
    "spaces": (make_spaces, SMALL),
}

SEARCHED = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "net_arch": [[4], [4, 4]],
    "train_freq": {"low": 1, "high": 3},
    "n_steps": [1, 3],
    "dueling": [False, True],
    "replay": ["uniform", "prioritised"],
    "loss": ["quantile", "q_learning"],
    "loss.quantiles": [3, 5],
    "max_grad_norm": [None, 10.0],
}


def write_json(path: Path, value: Any) -> None:
    """Write a value where a test reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_checkpoint(folder: Path) -> None:
    """A run stopped at step 200."""
    config = TINY.override(buffer_size=100, total_timesteps=400, checkpoint_every=100, eval_freq=0, keep_checkpoints=1)
    run = Run("CartPole-v1", config, 0, folder / "seed-0")
    for progress in train(run):
        if progress.step == 200:
            break
    expected = {
        "step": run.step,
        "updates": run.updates,
        "episodes": run.episodes.count,
        "observations": digests(run)["column obs"],
        "asked": ASKED,
        "answered": run.agent.q_values(np.array(ASKED, np.float32)).tolist(),
    }
    abandon(run)
    write_json(folder / "expected.json", expected)


def write_resume(folder: Path) -> None:
    """A run killed at step 200, of which the checkpoint of step 160 stays, and the one that was never stopped."""
    finish(Run(Masked, RESUMED, 0, folder / "whole" / "seed-0"))
    run = Run(Masked, RESUMED, 0, folder / "stopped" / "seed-0")
    for progress in train(run):
        if progress.step == 200:
            break
    abandon(run)


def write_experiment(folder: Path) -> None:
    """Two seeds, by the command line."""
    words = ["train", "CartPole-v1", "--seeds", "2", "--net-arch", "4", *SMALL_WORDS, "--out", folder.name]
    assert main([*words, "--quiet"]) == 0
    write_json(folder / "command.json", words)


def write_policies(folder: Path) -> None:
    """Policies, and what they answer."""
    expected = {}
    for name, (source, config) in POLICIES.items():
        run = Run(source, config)
        for _ in train(run):
            pass
        run.close()
        run.agent.save(folder / name)
        space = run.agent.observation_space
        space.seed(0)
        asked = [space.sample() for _ in range(3)]
        answered = [run.agent.q_values(observation).tolist() for observation in asked]
        expected[name] = {"asked": space.to_jsonable(asked), "answered": answered}
    write_json(folder / "expected.json", expected)


def write_study(folder: Path) -> None:
    """Two trials by the command line, and a third as a process leaves it that is killed in mid-training."""
    write_json(folder / "space.json", SEARCHED)
    words = ["tune", "CartPole-v1", "--seeds", "1", *SMALL_WORDS, "--space", f"{folder.name}/space.json"]
    words += ["--out", folder.name]
    assert main([*words, "--trials", "2", "--quiet"]) == 0
    write_json(folder / "command.json", words)
    about = json.loads((folder / "study.json").read_text())
    space = space_from_dict(about["space"], "study.json")
    study = Study(about["env"], Config.from_dict(about["config"]), space, tuple(about["seeds"]), folder)
    with contextlib.closing(run_trials(study, 3, train_in_part)) as events:
        next(event for event in events if isinstance(event, Reported))
        shutil.copytree(folder, "killed")
    shutil.rmtree(folder)
    Path("killed").rename(folder)


def train_in_part(tasks: Sequence[Task]) -> Generator[Reported]:
    """Train a trial's seed as far as a process that is killed."""
    (task,) = tasks
    run = Run(task.env, Config.from_dict(task.config), task.seed, Path(task.folder))
    for progress in train(run):
        if progress.step == 120:
            break
    abandon(run)
    yield Reported(task, run.step, {})


WRITERS = {
    f"checkpoint-{CHECKPOINT_SCHEMA}": write_checkpoint,
    f"resume-{CHECKPOINT_SCHEMA}": write_resume,
    f"experiment-{RUN_SCHEMA}": write_experiment,
    f"policies-{POLICY_SCHEMA}": write_policies,
    f"study-{STUDY_SCHEMA}": write_study,
}


def make(to: Path) -> None:
    """Write what is missing there, from within a temporary folder, so that no file names a place of this machine."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for name, write in WRITERS.items():
            if not (to / name).exists():
                write(Path(name))
                shutil.copytree(name, to / name, ignore=shutil.ignore_patterns("lock", "running.json"))


if __name__ == "__main__":
    make(HERE)
