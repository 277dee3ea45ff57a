"""The agent in the hand: predict with SB3's signature, evaluate, save and load."""

from __future__ import annotations

import json
import shutil

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.numpy import save
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import upright
from configurations import SHORT
from toy_environments import Image, Masked, Noisy, Scripted, Spaces
from upright import files
from upright.agent import Agent
from upright.errors import Diverged, EnvironmentFault, Misfit, RunError, SettingError, UprightError
from upright.settings.config import Config
from upright.settings.presets import PRESETS

torch.set_num_threads(1)

TINY = {**SHORT, "buffer_size": 300, "net_arch": (16,), "log_interval": 100}


@pytest.fixture(scope="module")
def cartpole() -> upright.DQN:
    return upright.DQN("CartPole-v1", seed=0, **TINY).learn()


def test_predict_answers_one_observation_and_a_batch(cartpole: upright.DQN) -> None:
    observations = np.array([cartpole.agent.observation_space.sample() for _ in range(20)]).clip(-3, 3)
    batch, state = cartpole.predict(observations, state="as it came", episode_start=np.ones(20, bool))
    assert batch.shape == (20,) and state == "as it came"
    singles = [cartpole.predict(observation)[0] for observation in observations]
    assert singles == batch.tolist()
    assert all(cartpole.agent.action_space.contains(action) for action in singles)
    np.testing.assert_array_equal(cartpole.agent.q_values(observations).argmax(axis=1), batch)


def test_predict_explores_when_it_is_not_deterministic() -> None:
    agent = upright.DQN("CartPole-v1", exploration_final_eps=1.0, **TINY).agent
    observation = np.zeros(4, np.float32)
    assert len({int(agent.predict(observation)[0]) for _ in range(30)}) == 1
    assert len({int(agent.predict(observation, deterministic=False)[0]) for _ in range(30)}) == 2


def test_predict_honours_masks() -> None:
    agent = upright.DQN(Masked, **TINY).agent
    observation = np.full(5, 0.5, np.float32)
    for allowed in range(5):
        mask = np.arange(5) == allowed
        assert agent.predict(observation, action_masks=mask)[0] == allowed
        assert agent.predict(observation, action_masks=mask, deterministic=False)[0] == allowed
    for forbidding in (False, True):
        with pytest.raises(ValueError, match="forbids every action"):
            agent.predict(observation, action_masks=np.zeros(5, bool), deterministic=forbidding)
    batch, _ = agent.predict(np.stack([observation] * 5), action_masks=np.eye(5, dtype=bool))
    np.testing.assert_array_equal(batch, np.arange(5))


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (spaces.Discrete(4, start=2), spaces.Discrete(3, start=7)),
        (spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3)), spaces.MultiDiscrete([2, 3], start=[1, 1])),
        (spaces.Tuple([spaces.MultiBinary(2), spaces.Box(0, 1, (1, 2))]), spaces.Discrete(2)),
        (spaces.Box(0, 255, (40, 38, 3), np.uint8), spaces.Discrete(2)),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), spaces.Discrete(2)),
        (spaces.MultiDiscrete([3, 2]), spaces.MultiDiscrete([[2], [2]])),
    ],
)
def test_every_space_trains_predicts_saves_and_loads(observation, action, tmp_path) -> None:
    """The environment itself checks that each action belongs to its space."""
    agent = upright.DQN(lambda: Spaces(observation, action), seed=1, **{**TINY, "total_timesteps": 70}).learn()
    batched = gymnasium.vector.utils.batch_space(observation, 3)
    samples = batched.sample()
    actions, _ = agent.predict(samples)
    assert len(actions) == 3 and all(action.contains(each) for each in actions)
    assert action.contains(agent.predict(observation.sample())[0])
    loaded = upright.load(agent.save(tmp_path))
    assert (loaded.observation_space, loaded.action_space) == (observation, action)
    np.testing.assert_array_equal(loaded.q_values(samples), agent.agent.q_values(samples))


@pytest.mark.parametrize("num_envs", [1, 4])
def test_sb3s_evaluate_policy_runs_on_our_agent_unchanged(cartpole: upright.DQN, num_envs: int) -> None:
    env = make_vec_env("CartPole-v1", num_envs, seed=0)
    rewards, lengths = evaluate_policy(cartpole, env, n_eval_episodes=8, return_episode_rewards=True)
    assert len(rewards) == 8 and rewards == lengths
    mean, _ = evaluate_policy(cartpole.agent, Monitor(gymnasium.make("CartPole-v1")), n_eval_episodes=3)
    assert 8 <= mean <= 500


def test_evaluations_meet_the_same_episodes_every_time(cartpole: upright.DQN) -> None:
    first, again, other = cartpole.evaluate(25), cartpole.evaluate(25), cartpole.evaluate(25, seed=1)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert (first.returns != other.returns).any()
    np.testing.assert_array_equal(first.returns, first.lengths)
    # Fewer episodes are the first of more, whatever slot of the vector they ran in.
    np.testing.assert_allclose(cartpole.evaluate(7).returns, first.returns[:7])
    assert first.threshold == 475 and first.solved == (first.mean >= 475)
    assert first.mean == np.mean(first.returns) and first.std == np.std(first.returns)


def test_an_evaluation_counts_each_episode_once() -> None:
    """Ten environments play the script side by side, each from its first episode on, until 23 episodes are over."""
    script = [([1.0, 2.0], True), ([5.0] * 4, False), ([0.5], True)]
    agent = upright.DQN(lambda: Scripted(script), **TINY).agent
    evaluation = agent.evaluate(23)
    assert evaluation.lengths.tolist() == [2] * 10 + [4] * 10 + [1] * 3
    assert evaluation.returns.tolist() == [3.0] * 10 + [20.0] * 10 + [0.5] * 3
    assert evaluation.solved is None and "no threshold" in str(evaluation)
    with pytest.raises(SettingError, match="episodes is 0, but it has to be a whole number, 1 or more"):
        agent.evaluate(0)
    for seed in (-1, 1.5, None):
        with pytest.raises(SettingError, match="has to be a whole number, 0 or more"):
            agent.evaluate(3, seed=seed)


def test_a_policy_that_never_ends_an_episode_cannot_hang_an_evaluation() -> None:
    agent = upright.DQN("CliffWalking-v1", max_episode_steps=50, **TINY).agent
    assert agent.evaluate(3).lengths.max() <= 50


def test_a_saved_policy_is_the_same_policy(cartpole: upright.DQN, tmp_path) -> None:
    folder = cartpole.save(tmp_path / "policy")
    assert sorted(path.name for path in folder.iterdir()) == ["policy.json", "policy.safetensors"]
    for place in (folder, tmp_path):
        loaded = upright.load(place)
        assert isinstance(loaded, Agent) and loaded.config == cartpole.config
        np.testing.assert_array_equal(loaded.evaluate(10).returns, cartpole.evaluate(10).returns)
    assert upright.load(folder, device="cpu", engine="torch").learner.device == "cpu"


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "dqn"])
def test_every_preset_saves_and_loads(preset: str, tmp_path) -> None:
    agent = upright.DQN("CartPole-v1", preset=preset, **TINY).learn(60)
    observations = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    loaded = upright.load(agent.save(tmp_path))
    np.testing.assert_array_equal(loaded.q_values(observations), agent.agent.q_values(observations))


def test_a_callable_that_no_file_can_name_has_to_be_given_again(tmp_path) -> None:
    saved = upright.DQN(lambda: Noisy(), **TINY).save(tmp_path)
    loaded = upright.load(saved)
    with pytest.raises(EnvironmentFault, match=r"give it again: agent.evaluate\(env=...\)"):
        loaded.evaluate(2)
    assert loaded.evaluate(2, env=Noisy).returns.shape == (2,)


def test_what_a_file_names_is_imported_only_when_the_file_is_trusted(tmp_path) -> None:
    folder = upright.DQN(Noisy, **TINY).save(tmp_path)
    path = folder / "policy.json"
    description = files.read_sealed(path)
    assert description["env"] == "toy_environments:Noisy"
    files.write_sealed(path, {**description, "env": "a_module_that_would_run:Noisy"})
    with pytest.raises(
        EnvironmentFault, match=r"names 'a_module_that_would_run:Noisy', .* if you trust the file, say so"
    ):
        upright.load(folder).evaluate(2)
    assert upright.load(folder).evaluate(2, env=Noisy).returns.shape == (2,)
    files.write_sealed(path, description)
    assert upright.load(folder, trust=True).evaluate(2).returns.shape == (2,)
    wrapped = upright.DQN("CartPole-v1", wrapper=("gymnasium.wrappers:FlattenObservation",), **TINY).save(tmp_path)
    with pytest.raises(EnvironmentFault, match="names 'gymnasium.wrappers:FlattenObservation'"):
        upright.load(wrapped).evaluate(2)


def test_an_environment_that_does_not_fit_the_policy_is_refused(cartpole: upright.DQN) -> None:
    with pytest.raises(EnvironmentFault, match=r"Acrobot-v1 does not fit this policy: it has Box.*Discrete\(3\)"):
        cartpole.agent.evaluate(2, env="Acrobot-v1")


def test_a_network_of_ones_own(tmp_path) -> None:
    def network(problem):
        return torch.nn.Sequential(
            torch.nn.Linear(*problem.observation_shape, 8), torch.nn.Linear(8, problem.num_actions)
        )

    agent = upright.DQN("CartPole-v1", network=network, **TINY).learn()
    assert set(agent.agent.learner.parameters()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    folder = agent.save(tmp_path)
    with pytest.raises(RunError, match=r"has a network of its maker's: give it again, load\(folder, network=...\)"):
        upright.load(folder)
    observation = np.ones(4, np.float32)
    np.testing.assert_array_equal(
        upright.load(folder, network=network).q_values(observation), agent.agent.q_values(observation)
    )


def test_broken_policies_are_refused_in_one_sentence(cartpole: upright.DQN, tmp_path) -> None:
    whole = cartpole.save(tmp_path / "whole")

    def broken(name: str) -> object:
        shutil.rmtree(tmp_path / "broken", ignore_errors=True)
        shutil.copytree(whole, tmp_path / "broken")
        return tmp_path / "broken" / name

    description = files.read_sealed(whole / "policy.json")
    tensors = (whole / "policy.safetensors").read_bytes()

    def sealed(**changes: object) -> bytes:
        files.write_sealed(tmp_path / "sealed.json", {**description, **changes})
        return (tmp_path / "sealed.json").read_bytes()

    def named(parameters: bytes) -> dict[str, object]:
        return {"parameters": {"size": len(parameters), "sha256": files.digest(parameters)}}

    other = save({"other": np.zeros(1)})
    cases = [
        ("policy.json", None, "policy.json is missing; give the folder of a run"),
        ("policy.safetensors", None, "policy.safetensors is missing"),
        ("policy.json", b"", "policy.json is damaged: "),
        ("policy.json", b"[]", "policy.json is damaged: it holds no object"),
        ("policy.json", json.dumps(description).encode(), "policy.json is damaged: its digest does not fit"),
        ("policy.json", sealed(schema=1), "is of schema 1, and upright .* reads schema 2"),
        ("policy.json", sealed(config={"gama": 1}), "There is no setting 'gama'"),
        ("policy.json", sealed(observation_space=None), "does not describe a policy"),
        ("policy.json", sealed(action_space={"type": "Discrete", "n": 3, "start": 0}),
         r"does not fit its policy.json: 'advantage.*' has shape \(2, .*\), and \(3, .*\) is needed"),
        ("policy.safetensors", other, "policy.safetensors is damaged: it is not the file that policy.json names"),
        ("policy.safetensors", tensors[:100], "policy.safetensors is damaged"),
        ("policy.safetensors", b"", "policy.safetensors is damaged"),
    ]  # fmt: skip
    for name, content, says in cases:
        path = broken(name)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RunError, match=says) as refused:
            upright.load(tmp_path / "broken")
        assert "\n" not in str(refused.value)
    for parameters, says in ((other, "does not fit its policy.json: '.*' is missing"), (b"{}", "is damaged: ")):
        broken("policy.json").write_bytes(sealed(**named(parameters)))
        (tmp_path / "broken" / "policy.safetensors").write_bytes(parameters)
        with pytest.raises(RunError, match=rf"policy\.safetensors {says}"):
            upright.load(tmp_path / "broken")
    with pytest.raises(RunError, match="There is no policy in"):
        upright.load(tmp_path / "nowhere")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_learning_goes_on_after_it_was_broken_off(mode: str) -> None:
    """As in a notebook, where Ctrl-C comes in the midst of a step."""
    agent = upright.DQN(Noisy, num_envs=2, vectorization_mode=mode, **TINY)
    act, calls = agent.agent.act, []

    def interrupted(*words):
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return act(*words)

    agent.agent.act = interrupted
    with pytest.raises(KeyboardInterrupt):
        agent.learn(200)
    assert agent.run.interrupted and agent.run.step == 78
    seen = agent.run.episodes.count
    agent.learn(100)
    assert agent.run.step == 178 and not agent.run.interrupted
    assert agent.run.episodes.count > seen
    assert len(agent.run.replay) >= 178 - 2 - 8
    agent.close()


def test_a_run_that_diverges_does_not_replace_the_policy_that_was_kept(tmp_path) -> None:
    agent = upright.DQN("CartPole-v1", folder=tmp_path, **TINY).learn(100)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "seed-0" / "policy").iterdir()}
    agent.agent.learner.load_parameters(
        {name: np.full_like(value, np.nan) for name, value in agent.agent.learner.parameters().items()}
    )
    with pytest.raises(Diverged):
        agent.learn(200)
    assert {path.name: path.read_bytes() for path in (tmp_path / "seed-0" / "policy").iterdir()} == kept


def test_learning_again_continues() -> None:
    agent = upright.DQN("CartPole-v1", **TINY)
    agent.learn(120)
    before = agent.agent.learner.parameters()
    agent.learn(80)
    assert agent.run.step == 200 and agent.config.total_timesteps == TINY["total_timesteps"] == 300
    after = agent.agent.learner.parameters()
    assert any((before[name] != after[name]).any() for name in before)
    assert len(agent.run.replay) >= 195


def test_the_class_explains_itself() -> None:
    for words in (("MlpPolicy",), ("MlpPolicy", "CartPole-v1"), ("CartPole-v1", 1e-3)):
        with pytest.raises(SettingError, match="DQN takes one environment and then settings by name"):
            upright.DQN(*words)
    with pytest.raises(EnvironmentFault, match="is an environment, of which training, evaluation and every worker"):
        upright.DQN(gymnasium.make("CartPole-v1"))
    with pytest.raises(SettingError, match="Did you mean 'double' in 'loss', as in loss=QLearning"):
        upright.DQN("CartPole-v1", double_dqn=True)
    with pytest.raises(SettingError, match="There is no setting 'lr'. Did you mean 'learning_rate'?"):
        upright.DQN("CartPole-v1", lr=1e-3)
    with pytest.raises(AttributeError, match="module 'upright' has no attribute 'PPO'"):
        upright.PPO  # noqa: B018
    assert all(hasattr(upright, name) for name in upright.__all__)
    config = Config(**TINY)
    assert upright.DQN("CartPole-v1", preset=config, gamma=0.9).config == config.override(gamma=0.9)


def test_an_image_environment_learns_with_the_convolutions() -> None:
    agent = upright.DQN(Image, **{**TINY, "total_timesteps": 80}).learn()
    assert agent.agent.observations.is_image
    assert "torso.0.weight" in agent.agent.learner.parameters()
    assert agent.run.updates > 0


@pytest.mark.parametrize("method", ["predict", "q_values"])
def test_what_reset_or_step_returned_is_named(cartpole: upright.DQN, method: str) -> None:
    env = gymnasium.make("CartPole-v1")
    first, ask = env.reset(seed=0), getattr(cartpole.agent, method)
    for given, says in (
        (first, r"it is the tuple that reset\(\) returned, whose first part to give: observation, info = …"),
        (env.step(0), r"the tuple that step\(\) returned, .*: observation, reward, terminated, truncated, info = …"),
        ({"x": first[0]}, r"observations of this policy are of Box\("),
        ([first[0], first[0][:2]], "an array of numbers; observations of this policy are of"),
        (np.zeros((2, 3, 4, 5)), "has shape"),
        ("CartPole-v1", "has dtype|has shape"),
        (np.full(4, np.nan, np.float32), "the observation is nan at entry 0 of 4"),
    ):
        with pytest.raises(Misfit, match=says) as caught:
            ask(given)
        assert isinstance(caught.value, ValueError) and isinstance(caught.value, UprightError)


def test_a_mask_that_does_not_fit_is_named() -> None:
    agent = upright.DQN(Masked, **TINY).agent
    observation = np.full(5, 0.5, np.float32)
    for observations, masks, says in (
        (observation, [1, 0, 1], r"action_masks has 3 entries of type int64, not 5 zeros and ones"),
        (observation, [0, -100, 0, 0, 0], "action_masks has other entries than zeros and ones"),
        (observation, np.zeros(5, bool), "action_masks forbids every action of an observation"),
        (np.stack([observation] * 3), np.ones((2, 5)), "action_masks has 2 rows for 3 observations"),
        (np.stack([observation] * 3), 7, "action_masks"),
    ):
        with pytest.raises(Misfit, match=says):
            agent.predict(observations, action_masks=masks)
