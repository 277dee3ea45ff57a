"""Environments of the package gym train through shimmy, with NumPy 1 and 2, whichever interface gym had in their time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from interpreters import ROOT, Interpreter, install

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler"),
]

# Each source is played twice, three episodes each; printed are whether both were the same, and what was seen.
PLAYING = """
import json
import gym
import old_environments
from old_environments import *
from upright.environments.environment import make_environment
from upright.errors import UprightError
from upright.settings.config import Config

def play(source):
    notices, seen, lengths = [], [], []
    environment = make_environment(source, Config(), 0, 0, notify=notices.append)
    for _ in range(3):
        observation, info = environment.reset()
        seen.append(observation.tobytes())
        ended = False
        while not ended:
            action = int(info["action_mask"].argmax()) if "action_mask" in info else 0
            observation, reward, terminated, truncated, info = environment.step(action)
            seen.append((observation.tobytes(), reward))
            ended = terminated or truncated
        lengths.append(environment.episode_step)
    environment.close()
    limited = not any("names no time limit" in notice for notice in notices)
    return seen, {"lengths": lengths, "limited": limited, "terminated": terminated, "masks": "action_mask" in info}

played = {}
for text in TEXTS:
    source = text if ":" in text and "lambda" not in text or text.endswith("-v0") else eval(text)
    try:
        (first, told), (second, _) = play(source), play(source)
        played[text] = {"same": first == second, **told}
    except UprightError as error:
        played[text] = str(error)
print(json.dumps(played))
"""

TRAINING = """
import json
import gym
import upright

said = {}
for name in sorted(gym.envs.registry):
    bins = {"discretize": 3} if name in ("Pendulum-v1", "MountainCarContinuous-v0") else {}
    try:
        agent = upright.DQN(f"gym:{name}", total_timesteps=60, learning_starts=20, net_arch=(8,), batch_size=8, **bins)
        agent.learn()
        said[name] = agent.evaluate(episodes=1).threshold
    except upright.UprightError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module", params=["1.26.4", "2"], ids=lambda version: f"NumPy {version}")
def interpreter(request, wheel, tmp_path_factory) -> Interpreter:
    """An environment with gym, shimmy and this NumPy, of which 2 is that of constraints.txt."""
    folder = tmp_path_factory.mktemp("gym")
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    if request.param != "2":
        lines = [line for line in lines if not line.startswith("numpy==")] + [f"numpy=={request.param}"]
    (folder / "constraints.txt").write_text("\n".join(lines))
    return install(folder / "venv", f"{wheel}[gym]", "gym==0.26.2", PIP_CONSTRAINT=str(folder / "constraints.txt"))


def output(interpreter: Interpreter, script: str, folder: Path) -> dict:
    done = interpreter.run("-W", "ignore", "-c", script, folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def has_numpy_2(interpreter: Interpreter, folder: Path) -> bool:
    return output(interpreter, "import numpy; print(numpy.__version__[0])", folder) == 2


def test_every_interface_plays_and_repeats_itself(interpreter, tmp_path) -> None:
    unlimited = {"same": True, "lengths": [5, 5, 5], "limited": False, "terminated": True, "masks": False}
    truncated = {**unlimited, "terminated": False}
    expected = {
        "Oldest": unlimited, "Generated": unlimited, "Middle": unlimited, "FiveValues": truncated,
        "Newest": {**truncated, "masks": True}, "Mixed": unlimited, "Bare": unlimited,
        "lambda: Oldest(7)": unlimited,
        "old_environments:Oldest": unlimited,
        "old_environments:Oldest-v0": {**truncated, "lengths": [3] * 3, "limited": True},
        "gym:Oldest-v0": {**truncated, "lengths": [3] * 3, "limited": True},
        "gym:Newest-v0": {**truncated, "lengths": [3] * 3, "limited": True, "masks": True},
        "OldInNew-v0": {**truncated, "lengths": [4] * 3, "limited": True},
        "lambda: gym.make('Newest-v0')": {**truncated, "lengths": [3] * 3, "limited": True, "masks": True},
        "lambda: gym.make('Oldest-v0', apply_api_compatibility=True)": {**truncated, "lengths": [3] * 3, "limited": True},
    }  # fmt: skip
    assert output(interpreter, f"TEXTS = {list(expected)}\n{PLAYING}", tmp_path) == expected


def test_what_cannot_be_converted_is_refused_in_a_sentence(interpreter, tmp_path) -> None:
    texts = ["NewSpaces", "Spaceless", "Strange", "Oldest()", "gym:Cartpole-v1", "gym.spaces.Discrete(2)", "Oldest-v0"]
    said = output(interpreter, f"TEXTS = {texts}\n{PLAYING}", tmp_path)
    assert "which shimmy cannot convert" in said["NewSpaces"] and "import gymnasium as gym" in said["NewSpaces"]
    assert said["Spaceless"] == "Spaceless has no observation_space: set it in the constructor to a space."
    assert said["Strange"].startswith("Strange has (0, 1) as its action_space: set it in the constructor")
    assert said["Oldest()"].startswith("Oldest is an environment, of which training, evaluation and every worker")
    assert "Did you mean 'CartPole-v1'" in said["gym:Cartpole-v1"]
    assert "not an environment: give an id" in said["gym.spaces.Discrete(2)"]
    assert said["Oldest-v0"].endswith("but the old package gym has it: gym:Oldest-v0.")


def test_it_renders_in_the_way_of_either_interface(interpreter, tmp_path) -> None:
    script = (
        "import json, old_environments, upright\n"
        "shapes = {}\n"
        "for source in (old_environments.Oldest, old_environments.Newest, 'gym:Newest-v0'):\n"
        "    env = upright.make(source, render_mode='rgb_array')\n"
        "    env.reset(seed=0)\n"
        "    assert env.metadata['render_modes'] == ['rgb_array']\n"
        "    shapes[str(source)] = env.render().shape\n"
        "print(json.dumps(shapes))"
    )
    assert list(output(interpreter, script, tmp_path).values()) == [[4, 5, 3]] * 3


def test_every_id_of_its_registry_trains_or_says_what_it_lacks(interpreter, tmp_path) -> None:
    said = output(interpreter, TRAINING, tmp_path)
    assert len(said) == 44
    trained = {name for name, answer in said.items() if not isinstance(answer, str)}
    expected = {
        "CartPole-v0", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "FrozenLake-v1",
        "FrozenLake8x8-v1", "CliffWalking-v0", "Taxi-v3",
    }  # fmt: skip
    if not has_numpy_2(interpreter, tmp_path):
        expected.add("Acrobot-v1")
    assert expected <= trained
    assert (said["CartPole-v1"], said["MountainCar-v0"]) == (475, -110)
    for name, sentence in said.items():
        if name not in trained:
            # Their packages are not installed, or they ask for what NumPy 2 lacks, or the observation is True.
            assert any(reason in sentence for reason in ("not installed", "mujoco", "np.float_", "is True")), sentence


def test_the_command_line_and_workers_take_it(interpreter, tmp_path) -> None:
    quick = ["--total-timesteps", "300", "--learning-starts", "50", "--net-arch", "8"]
    for source in ("gym:CartPole-v1", "old_environments:Oldest"):
        workers = ["--num-envs", "2", "--vectorization-mode", "async", "--out", "run"]
        done = interpreter.upright("train", source, *quick, *workers, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        done = interpreter.upright("evaluate", "run/seed-0", "--episodes", "2", "--trust", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(tmp_path / "run")
