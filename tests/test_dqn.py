"""The class for a notebook: training in pieces, copies, beginning with a policy, one folder for several seeds."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import re
import subprocess
import sys
import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import upright
from configurations import SHORT
from engines import ENGINES
from run_digest import TESTS
from toy_environments import Masked, Noisy, Scripted
from upright.errors import EnvironmentFault, RunError, SettingError
from upright.loop import learning_rate
from upright.settings.config import Config

SMALL: dict[str, Any] = {name: value for name, value in SHORT.items() if name != "total_timesteps"}
OBSERVATION = np.array([0.1, 0.2, 0.3, 0.4], np.float32)


def bits(run: upright.Run) -> dict[str, bytes]:
    """Everything that a run resumes from, with the replay memory's rows."""
    ring = run.replay.ring
    rows = ring.rows(ring.pushed - len(ring), ring.pushed)
    return {name: array.tobytes() for name, array in {**run.state(), **rows}.items()}


# --- pieces


def test_pieces_of_a_given_total_are_one_training() -> None:
    whole = upright.DQN("CartPole-v1", total_timesteps=400, log_interval=50, **SMALL).learn()
    pieces = upright.DQN("CartPole-v1", total_timesteps=400, log_interval=50, **SMALL)
    for taken in (100, 200, 300, 400):
        pieces.learn(100)
        assert pieces.run.step == taken and pieces.config.total_timesteps == 400
        expected = 2e-3 * (1 - taken / 400)
        assert learning_rate(pieces.config, taken) == pytest.approx(expected)
    assert bits(whole.run) == bits(pieces.run)


def test_learn_without_a_number_takes_the_given_total_each_time(caplog) -> None:
    agent = upright.DQN("CartPole-v1", total_timesteps=200, **SMALL)
    for calls in (1, 2, 3, 4):
        assert agent.learn().run.step == 200 * calls
    assert agent.config.total_timesteps == 800
    (message,) = [text for text in caplog.messages if text.startswith("learn()")]
    assert message.startswith("learn() goes beyond total_timesteps, so the schedules"), "once"


def test_without_a_total_each_call_stretches_the_schedules_and_says_so_once(caplog) -> None:
    agent = upright.DQN("CartPole-v1", **SMALL)
    for taken in (100, 200, 300):
        agent.learn(100)
        assert agent.run.step == agent.config.total_timesteps == taken
    (message,) = [text for text in caplog.messages if "learn() is called again" in text]
    assert "DQN(…, total_timesteps=…)" in message


def test_pieces_add_up_where_environments_pass_their_ends() -> None:
    """Three environments step together, so each piece of 40 ends up to two steps late, and the next begins no later."""
    settings = {**SMALL, "num_envs": 3, "total_timesteps": 120, "log_interval": 30}
    whole = upright.DQN("CartPole-v1", **settings).learn()
    pieces = upright.DQN("CartPole-v1", **settings)
    assert [pieces.learn(40).run.step for _ in range(3)] == [42, 81, 120]
    assert pieces.config.total_timesteps == 120 and bits(pieces.run) == bits(whole.run)
    assert upright.DQN("CartPole-v1", **settings).learn(2).learn(1).run.step == 3


def test_a_closed_agent_learns_no_more(tmp_path) -> None:
    for settings in ({}, {"folder": tmp_path}, {"vectorization_mode": "async"}):
        agent = upright.DQN("CartPole-v1", total_timesteps=100, **settings, **SMALL).learn(60)
        agent.close()
        with pytest.raises(RunError, match="The run is closed: open it again with upright.Run.open"):
            agent.learn(40)


def test_a_piece_after_a_stop_continues() -> None:
    agent = upright.DQN("CartPole-v1", total_timesteps=300, **SMALL).learn(100)
    agent.run.stop()
    assert agent.learn(100).run.step == 200


def test_a_config_with_a_total_of_its_own_gives_it() -> None:
    agent = upright.DQN("CartPole-v1", preset=Config(total_timesteps=400, **SMALL)).learn(100)
    assert (agent.run.step, agent.config.total_timesteps) == (100, 400)
    assert upright.DQN("CartPole-v1", preset=Config(**SMALL)).learn(100).config.total_timesteps == 100


def test_a_piece_ends_with_a_report_and_a_checkpoint(tmp_path) -> None:
    agent = upright.DQN("CartPole-v1", total_timesteps=400, folder=tmp_path, **SMALL).learn(130)
    assert agent.run.checkpointed == 130
    agent.close()
    run = upright.Run.open(tmp_path / "seed-0")
    assert (run.step, run.config.total_timesteps) == (130, 400)
    assert [progress.step for progress in upright.train(run, steps=70)] == [200]
    run.close()


@pytest.mark.parametrize("steps", [0, -1, 1.5, float("inf"), float("nan"), "100", True, None, [100]])
def test_a_number_of_steps_is_whole_and_positive(steps: Any) -> None:
    agent = upright.DQN("CartPole-v1", total_timesteps=300, **SMALL)
    if steps is not None:
        with pytest.raises(SettingError, match="The number of steps is .*, but it has to be a whole number, 1 or more"):
            agent.learn(steps)
    assert agent.learn(1e2).run.step == 100


def test_a_run_is_not_cut_short_by_a_smaller_total(tmp_path) -> None:
    agent = upright.DQN("CartPole-v1", total_timesteps=300, folder=tmp_path, **SMALL).learn()
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(SettingError, match="total_timesteps is 200, but the run has taken 300 steps already"):
        agent.run.extend(200)
    agent.close()
    with pytest.raises(SettingError, match="total_timesteps is 200, but the run has taken 300 steps already"):
        upright.Run.open(tmp_path / "seed-0", 200)
    command = [sys.executable, "-m", "upright", "resume", str(tmp_path / "seed-0"), "--total-timesteps", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (tmp_path / "config.json").read_bytes() == before
    upright.Run.open(tmp_path / "seed-0", 300).close()


# --- what is said of settings that leave little to learn


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 700, "total_timesteps": 600}, "Nothing will be learned: .* first update would come at step 700"),
        ({"train_freq": 1_000, "total_timesteps": 600}, "Nothing will be learned: .* at step 1,000, after"),
        ({"learning_starts": 600, "total_timesteps": 600}, r"learning_starts \(600\) is not below total_timesteps"),
        ({"learning_starts": 200, "total_timesteps": 600}, "exploration falls from step 200 to 320 only"),
        (
            {"learning_starts": 200, "total_timesteps": 600, "exploration_after_learning_starts": False},
            "exploration has fallen by step 120, before the first update",
        ),
        ({"batch_size": 299, "total_timesteps": 300}, "Nothing was learned in 300 steps"),
        ({"learning_starts": 50, "total_timesteps": 600}, None),
    ],
)  # fmt: skip
def test_settings_that_leave_nothing_to_learn_are_named(settings: dict[str, Any], says: str | None, caplog) -> None:
    source = lambda: Scripted([([1.0] * 400, True)])  # one episode, so that n-step transitions wait
    agent = upright.DQN(source, **{**SMALL, "train_freq": 1, "learning_starts": 10, **settings}).learn()
    texts = [text for text in caplog.messages if "learn" in text and "time limit" not in text]
    assert len(texts) == (says is not None), texts
    if says is not None:
        assert re.search(says, texts[0])
        assert ("Nothing" in says) <= (agent.run.updates == 0)


# --- copies


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize(
    ("source", "settings"), [("CartPole-v1", {"noisy": True}), (Masked, {"replay": "prioritised"})]
)
def test_a_copy_trains_on_as_the_original_would(engine: str, how: str, source: Any, settings: Any) -> None:
    agent = upright.DQN(source, total_timesteps=400, num_envs=2, engine=engine, **settings, **SMALL).learn(200)
    twin = copy.deepcopy(agent) if how == "deepcopy" else pickle.loads(pickle.dumps(agent))
    assert twin.agent is twin.run.agent and twin.run is not agent.run
    assert bits(twin.run) == bits(agent.run)
    before = bits(agent.run)
    twin.learn(200)
    assert bits(agent.run) == before, "the original is left alone"
    agent.learn(200)
    assert bits(twin.run) == bits(agent.run)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_policy_is_copied(engine: str, how: str, tmp_path) -> None:
    agent = upright.DQN("CartPole-v1", engine=engine, **SHORT).learn(150)
    agent.save(tmp_path)
    for policy in (upright.load(tmp_path, engine=engine), agent.agent):
        twin = copy.deepcopy(policy) if how == "deepcopy" else pickle.loads(pickle.dumps(policy))
        np.testing.assert_array_equal(twin.q_values(OBSERVATION), policy.q_values(OBSERVATION))
        assert twin.source == policy.source and twin.config == policy.config
        assert [twin.predict(OBSERVATION, deterministic=False)[0] for _ in range(20)] == [
            policy.predict(OBSERVATION, deterministic=False)[0] for _ in range(20)
        ]
        np.testing.assert_array_equal(twin.evaluate(2).returns, policy.evaluate(2).returns)


def test_a_policy_on_a_lambda_is_copied_with_it_and_pickled_without() -> None:
    agent = upright.DQN(lambda: Noisy(), network=nn.Linear(3, 4), **SHORT).learn(100).agent
    observation = np.ones(3, np.float32)
    twin = copy.deepcopy(agent)
    assert twin.source is agent.source
    twin.evaluate(1)
    sent = pickle.loads(pickle.dumps(agent))
    for other in (twin, sent):
        np.testing.assert_array_equal(other.q_values(observation), agent.q_values(observation))
    with pytest.raises(EnvironmentFault, match="give it again"):
        sent.evaluate(1)
    sent.evaluate(1, env=Noisy)


def ask(policy: upright.Agent) -> list[float]:
    return policy.q_values(OBSERVATION).tolist()


def test_a_policy_acts_in_another_process() -> None:
    policy = upright.DQN("CartPole-v1", **SHORT).agent
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(ask, (policy,)) == ask(policy)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "settings", [{}, {"noisy": True, "exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}]
)
def test_a_policy_answers_another_thread_while_it_learns(engine: str, settings: dict[str, Any]) -> None:
    def trained(asked: bool) -> dict[str, bytes]:
        agent = upright.DQN("CartPole-v1", total_timesteps=600, engine=engine, **settings, **SMALL)
        ended, faults, answers = threading.Event(), [], 0

        def keep_asking() -> None:
            nonlocal answers
            try:
                while not ended.is_set() or not answers:
                    assert np.isfinite(agent.q_values(np.stack([OBSERVATION] * 50))).all()
                    agent.predict(OBSERVATION)
                    answers += 1
            except BaseException as error:
                faults.append(error)

        thread = threading.Thread(target=keep_asking)
        if asked:
            thread.start()
        try:
            agent.learn()
        finally:
            ended.set()
            if asked:
                thread.join()
        assert not faults and (answers > 0) == asked
        return bits(agent.run)

    assert trained(True) == trained(False), "to be asked changes nothing of what is learned"


# --- beginning with a policy


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_begins_with_a_policys_parameters(engine: str, tmp_path) -> None:
    first = upright.DQN("CartPole-v1", folder=tmp_path / "first", engine=engine, **SHORT).learn(150)
    first.close()
    expected = first.agent.learner.parameters()
    for place in (
        tmp_path / "first" / "seed-0",
        tmp_path / "first" / "seed-0" / "policy",
        first.save(tmp_path / "kept"),
    ):
        agent = upright.DQN("CartPole-v1", start_from=place, seed=7, engine=engine, **SHORT)
        state = agent.agent.learner.state()
        for name, value in expected.items():
            np.testing.assert_array_equal(state[f"online/{name}"], value)
            np.testing.assert_array_equal(state[f"target/{name}"], value)
            np.testing.assert_array_equal(state[f"optimizer/exp_avg/{name}"], 0)
        assert agent.config.start_from == str(place)


def test_a_run_that_began_with_a_policy_resumes_without_it(tmp_path) -> None:
    upright.DQN("CartPole-v1", **SHORT).save(tmp_path / "kept")
    settings = {"total_timesteps": 300, "start_from": tmp_path / "kept", **SMALL}
    whole = upright.DQN("CartPole-v1", **settings).learn()
    agent = upright.DQN("CartPole-v1", folder=tmp_path / "run", **settings).learn(120)
    agent.close()
    (tmp_path / "kept" / "policy.json").unlink()
    run = upright.Run.open(tmp_path / "run" / "seed-0")
    list(upright.train(run))
    assert bits(run) == bits(whole.run)
    run.close()


def test_a_policy_that_does_not_fit_is_refused(tmp_path) -> None:
    upright.DQN("CartPole-v1", **{**SHORT, "net_arch": (16,)}).save(tmp_path / "kept")
    with pytest.raises(SettingError, match=r"start_from names the policy in .*kept, which does not fit here: .*shape"):
        upright.DQN("CartPole-v1", start_from=tmp_path / "kept", **SHORT)
    upright.DQN("CartPole-v1", loss=upright.Categorical(), **SHORT).save(tmp_path / "atoms")
    upright.DQN("CartPole-v1", **SHORT).save(tmp_path / "plain")
    for kept, settings, why in (
        ("plain", {"activation": "tanh"}, "its activation is relu, and here it is tanh"),
        ("atoms", {"loss": upright.Categorical(v_max=20)}, r"its loss is Categorical\("),
    ):
        with pytest.raises(SettingError, match=f"does not fit here: {why}"):
            upright.DQN("CartPole-v1", start_from=tmp_path / kept, **settings, **SHORT)
    upright.DQN("CartPole-v1", start_from=tmp_path / "plain", loss=upright.QLearning(double=True), **SHORT).close()
    upright.DQN("MountainCar-v0", **SHORT).save(tmp_path / "car")
    with pytest.raises(SettingError, match="does not fit here: it scales observations otherwise"):
        upright.DQN("MountainCar-v0", start_from=tmp_path / "car", stretch_observations=False, **SHORT)
    with pytest.raises(RunError, match="There is no policy in"):
        upright.DQN("CartPole-v1", start_from=tmp_path, **SHORT)
    with pytest.raises(SettingError, match="start_from is 3, but it has to be a path"):
        upright.DQN("CartPole-v1", start_from=3, **SHORT)


def test_the_command_line_begins_with_a_policy(tmp_path) -> None:
    policy = upright.DQN("CartPole-v1", **SHORT)
    policy.save(tmp_path / "kept")
    words = ["--start-from", str(tmp_path / "kept"), "--total-timesteps", "40", "--learning-starts", "40"]
    command = [
        sys.executable,
        "-m",
        "upright",
        "train",
        "CartPole-v1",
        "--net-arch",
        "8",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run([*command, *words, "--quiet"], capture_output=True, text=True, timeout=120, cwd=TESTS)
    assert done.returncode == 0, done.stderr
    kept = upright.load(tmp_path / "run" / "seed-0")
    np.testing.assert_array_equal(kept.q_values(OBSERVATION), policy.q_values(OBSERVATION))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["start_from"] == str(tmp_path / "kept")


# --- folders


def test_seeds_in_a_loop_share_a_folder(tmp_path) -> None:
    for seed in range(3):
        agent = upright.DQN("CartPole-v1", seed=seed, folder=tmp_path, **SMALL)
        agent.learn(120)
        agent.close()
    assert json.loads((tmp_path / "config.json").read_text())["config"]["total_timesteps"] == 120
    with pytest.raises(RunError, match="holds an experiment with another environment or other settings"):
        upright.DQN("CartPole-v1", seed=3, folder=tmp_path, gamma=0.5, **SMALL)
    with pytest.raises(RunError, match="holds an experiment with another environment or other settings"):
        upright.DQN("CartPole-v1", seed=3, folder=tmp_path, total_timesteps=150, **SMALL)
    with pytest.raises(
        RunError, match=r"already holds a run: resume it \(upright resume, or upright.Run.open in Python"
    ):
        upright.DQN("CartPole-v1", seed=2, folder=tmp_path, **SMALL)


# --- a network for the parts of an observation


class Seen(gymnasium.Env):
    observation_space = spaces.Dict(
        image=spaces.Box(0, 255, (6, 5, 3), np.uint8),
        inner=spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)]),
    )
    action_space = spaces.Discrete(2)

    def look(self) -> dict[str, Any]:
        image = np.arange(90, dtype=np.uint8).reshape(6, 5, 3)
        return {"image": image, "inner": (1, np.array([0.5, -0.5], np.float32))}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.look(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.look(), 1.0, True, False, {}


class Reads(nn.Module):
    """A network for Seen that keeps the last parts it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)
        self.given: Any = None

    def forward(self, observation: Any) -> torch.Tensor:
        one_hot, vector = observation["inner"]
        self.given = observation
        return self.layer(torch.cat([one_hot, vector], dim=1)) + observation["image"].mean(dim=(1, 2, 3))[:, None]


@pytest.mark.parametrize("munchausen", [False, True])
def test_an_own_network_is_given_the_parts_of_an_observation(munchausen: bool) -> None:
    agent = upright.DQN(Seen, network=Reads(), munchausen=munchausen, **SHORT).learn(150)
    q = agent.q_values(Seen().look())
    given = agent.agent.learner.online.given
    assert given["image"].shape == (1, 6, 5, 3) and [part.shape for part in given["inner"]] == [(1, 3), (1, 2)]
    torch.testing.assert_close(given["image"][0].numpy(), (np.arange(90) / 255).reshape(6, 5, 3).astype(np.float32))
    assert given["inner"][0].tolist() == [[0, 1, 0]] and given["inner"][1].tolist() == [[0.5, -0.5]]
    weight, bias = (agent.agent.learner.parameters()[f"layer.{name}"] for name in ("weight", "bias"))
    expected = weight @ [0, 1, 0, 0.5, -0.5] + bias + (np.arange(90) / 255).mean()
    np.testing.assert_allclose(q, expected, rtol=1e-4)


def test_an_own_network_may_take_the_vector() -> None:
    agent = upright.DQN(Seen, network=nn.Sequential(nn.Flatten(), nn.Linear(95, 2)), **SHORT).learn(100)
    assert agent.q_values(Seen().look()).shape == (2,)


class Mine(nn.Module):
    def __init__(self, size: int = 3, *, answer: Any = None) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(size, 4), answer

    def forward(self, observation: Any) -> Any:
        return self.layer(observation) if self.answer is None else self.answer


class NeedsMore(nn.Module):
    def __init__(self, first: int, second: int) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (NeedsMore, r"raised TypeError: give a module, network=NeedsMore\(…\), or take the Problem"),
        ("MlpPolicy", "network is 'MlpPolicy', but it has to be a torch.nn.Module"),
        (3, "network is 3"),
        (lambda problem: None, "network gave a NoneType, not a torch.nn.Module"),
        (lambda: nn.Linear(3, 4), "network, called with the Problem, raised TypeError"),
        (Mine(5), r"network cannot take observations of shape \(2, 3\)"),
        (Mine(answer="text"), "network returns a str"),
        (nn.Identity(), "network has no parameters to train"),
    ],
)
def test_a_network_that_is_none_is_refused_in_a_sentence(network: Any, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        upright.DQN(Noisy, network=network, **SHORT)


def test_dqn_has_what_agent_has() -> None:
    agent = upright.DQN("CartPole-v1", **SHORT)
    np.testing.assert_array_equal(agent.q_values(OBSERVATION), agent.agent.q_values(OBSERVATION))
    one, other = agent.evaluate(episodes=2, seed=1, env="CartPole-v1"), agent.agent.evaluate(2, 1)
    np.testing.assert_array_equal(one.returns, other.returns)


def test_the_environment_may_be_given_by_name() -> None:
    assert upright.DQN(env="CartPole-v1", **SHORT).run.name == "CartPole-v1"
    for words, names in (
        (("MlpPolicy", "CartPole-v1"), {}),
        (("MlpPolicy",), {"env": "CartPole-v1"}),
        (("CartPole-v1",), {"env": "CartPole-v1"}),
    ):
        with pytest.raises(SettingError, match="takes one environment and then settings by name"):
            upright.DQN(*words, **names)
    with pytest.raises(SettingError, match="DQN needs an environment"):
        upright.DQN()


def test_former_scripts_find_the_loop() -> None:
    code = (
        "from upright.train import exploration_rate, learning_rate, train; import upright, upright.train; "
        "from upright import loop; assert train is upright.train is loop.train is upright.loop.train"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
