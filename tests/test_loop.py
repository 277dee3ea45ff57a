"""The loop: exactly tabular Q-learning when the network is a table, the same bits for the same seed, honest counts."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from configurations import SHORT
from toy_environments import Image, Masked, Noisy, Scripted
from upright.errors import Diverged, EnvironmentFault, RunError, SettingError
from upright.learners import make_learner
from upright.learners.problem import Problem
from upright.loop import exploration_rate, learning_rate, train
from upright.replay import Batch, Columns
from upright.runs.folders import new_folder, seed_folder
from upright.runs.metrics import JsonLines, Progress
from upright.runs.run import Run
from upright.settings.config import Config
from upright.settings.kinds import Categorical, ImplicitQuantile, Prioritised, QLearning, Quantile
from upright.settings.presets import PRESETS

torch.set_num_threads(1)

SMALL = PRESETS["double"].override(
    **{**SHORT, "total_timesteps": 400, "learning_starts": 40, "net_arch": (16,)}, buffer_size=500, log_interval=100
)
# A network that is a table, and a step of SGD on ½δ² that is a step of Q-learning: Q(s, a) += α δ.
TABULAR = Config(
    loss=QLearning(error="squared"),
    munchausen=None,
    n_steps=1,
    batch_size=1,
    buffer_size=1,
    learning_starts=0,
    train_freq=1,
    optimizer="sgd",
    learning_rate_schedule="constant",
    max_grad_norm=None,
    target_update_interval=1,
    log_interval=1,
    device="cpu",
)


def table(problem: Problem) -> torch.nn.Module:
    linear = torch.nn.Linear(problem.observation_shape[0], problem.num_actions, bias=False, dtype=torch.float64)
    torch.nn.init.zeros_(linear.weight)
    return linear


def q_table(learner) -> np.ndarray:
    return learner.parameters()["weight"].T


@pytest.mark.parametrize(
    ("env", "gamma"),
    [("FrozenLake-v1", 0.99), ("CliffWalking-v1", 0.9)],
)
def test_a_table_learns_as_tabular_q_learning_does(env: str, gamma: float) -> None:
    alpha = 0.3
    config = TABULAR.override(
        total_timesteps=10_000, learning_rate=alpha, gamma=gamma, exploration_final_eps=0.3, exploration_fraction=0.5
    )
    run = Run(env, config, seed=4, network=table)
    tabular = np.zeros_like(q_table(run.agent.learner))
    for _ in train(run):
        t = Batch(run.replay.ring.columns, np.array([0]), None).transition
        s, a, s_next = t.obs[0].argmax(), t.action[0], t.next_obs[0].argmax()
        tabular[s, a] += alpha * (t.reward[0] + t.discount[0] * tabular[s_next].max() - tabular[s, a])
    run.close()
    assert run.step == run.updates == 10_000
    assert np.abs(tabular).max() > 0.01
    np.testing.assert_allclose(q_table(run.agent.learner), tabular, rtol=0, atol=1e-12)


def test_the_loop_reaches_the_optimal_values_of_a_frozen_lake() -> None:
    """Random actions and replay through the whole loop, on ice that does not slip, until Q* is exact."""
    gamma = 0.9
    config = TABULAR.override(
        env_kwargs={"is_slippery": False},
        total_timesteps=12_000,
        buffer_size=12_000,
        batch_size=32,
        learning_rate=32 * 0.1,
        gamma=gamma,
        exploration_final_eps=1.0,
        exploration_repeat=None,
        log_interval=12_000,
    )
    run = Run("FrozenLake-v1", config, seed=0, network=table)
    list(train(run))
    run.close()
    model = gymnasium.make("FrozenLake-v1", is_slippery=False).unwrapped.P
    q = np.zeros((16, 4))
    for _ in range(200):
        for s in range(16):
            for a in range(4):
                ((_, following, reward, done),) = model[s][a]
                q[s, a] = reward + gamma * (not done) * q[following].max()
    ends = [5, 7, 11, 12, 15]  # holes and goal: no action is ever taken there
    q[ends] = 0.0
    assert q.max() == 1.0 and 0 < q[0].max() < 0.6
    np.testing.assert_allclose(q_table(run.agent.learner), q, rtol=0, atol=1e-6)


@pytest.mark.parametrize("env", ["FrozenLake-v1", "CliffWalking-v1"])
def test_sweeps_over_an_environment_are_value_iteration_and_reach_its_q(env: str) -> None:
    """With every outcome in the batch as often as it is likely, one update with α = 1 is one sweep."""
    gamma = 0.95
    unwrapped = gymnasium.make(env).unwrapped
    states, actions = unwrapped.observation_space.n, unwrapped.action_space.n
    rows = []
    for s in range(states):
        for a in range(actions):
            outcomes = unwrapped.P[s][a]
            repeats = 1 if len(outcomes) == 3 else 3
            assert all(p == pytest.approx(repeats / 3 if repeats == 1 else 1.0) for p, *_ in outcomes)
            rows += [(s, a, r, gamma * (not done), s2) for _, s2, r, done in outcomes] * repeats
    s, a, r, discount, s2 = (np.array(column) for column in zip(*rows, strict=True))
    one_hot = np.eye(states, dtype=np.uint8)
    batch = Batch(Columns(one_hot[s], a, r.astype(float), discount, one_hot[s2]), np.arange(len(s)), None)
    learner = make_learner(TABULAR, Problem((states,), False, actions), 0, table)
    q = np.zeros((states, actions))
    for sweep in range(600):
        target = r + discount * q[s2].max(axis=1)
        q = np.bincount(s * actions + a, target / 3, states * actions).reshape(states, actions)
        learner.update(batch, learning_rate=len(s) / 3)
        learner.update_target()
        if sweep % 100 == 0:
            np.testing.assert_allclose(q_table(learner), q, rtol=0, atol=1e-11)
    bellman = np.bincount(s * actions + a, (r + discount * q[s2].max(axis=1)) / 3).reshape(states, actions)
    assert np.abs(bellman - q).max() < 1e-10, "value iteration itself has to have converged"
    np.testing.assert_allclose(q_table(learner), q, rtol=0, atol=1e-10)


def digest(run: Run) -> str:
    """Of every observation, action, reward and discount that was stored, every parameter and every metric."""
    sha = hashlib.sha256()
    for progress in train(run):
        metrics = {tag: value for tag, value in progress.metrics.items() if not tag.startswith("time/")}
        sha.update(json.dumps([progress.step, [e.reward for e in progress.episodes], metrics]).encode())
    run.close()
    for column in Batch(run.replay.ring.columns, np.arange(len(run.replay)), None).transition:
        if column is not None:
            sha.update(column.tobytes())
    for name, value in sorted(run.agent.learner.parameters().items()):
        sha.update(name.encode() + value.tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CartPole-v1", {}),
        (Noisy, {"num_envs": 3, "n_steps": 3}),
        (Masked, {"num_envs": 2, "replay": Prioritised(), "loss": Categorical()}),
        (Noisy, {"num_envs": 2, "noisy": True, "loss": "implicit_quantile", "dueling": True}),
        (Image, {"total_timesteps": 80}),
    ],
)
def test_one_seed_gives_the_same_bits_in_process_and_in_workers_and_another_does_not(env, settings) -> None:
    config = SMALL.override(**settings)
    first = digest(Run(env, config, seed=1))
    assert digest(Run(env, config, seed=1)) == first
    assert digest(Run(env, config.override(vectorization_mode="async"), seed=1)) == first
    assert digest(Run(env, config, seed=2)) != first


def test_training_is_the_same_whoever_draws_from_the_global_generators_meanwhile() -> None:
    first = digest(Run(Noisy, SMALL, seed=1))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    run = Run(Noisy, SMALL, seed=1)
    torch.rand(5)
    assert digest(run) == first


def test_no_mask_is_violated_in_a_hundred_thousand_steps() -> None:
    """The environment itself raises at the first forbidden action."""
    config = SMALL.override(
        total_timesteps=100_000, num_envs=8, train_freq=64, buffer_size=100_000, exploration_final_eps=0.3, n_steps=2
    )
    run = Run(Masked, config, seed=0)
    for _ in train(run):
        pass
    assert run.step == 100_000
    stored = Batch(run.replay.ring.columns, np.arange(len(run.replay)), None).transition
    assert stored.mask[np.arange(len(stored.action)), stored.action].all()
    counts = np.bincount(stored.action, minlength=5)
    assert (counts > 5_000).all()
    evaluation = run.agent.evaluate(5)
    assert (evaluation.lengths == 20).all()
    run.close()


def test_a_forbidden_random_action_is_replaced_by_allowed_ones_alike() -> None:
    run = Run(Masked, SMALL, seed=0)
    mask = np.tile([True, False, True, True, False], (30_000, 1))
    obs = np.zeros((30_000, 5), np.float32)
    actions, explored = run.agent.act(obs, mask, 1.0, np.random.default_rng(0))
    assert all(explored)
    counts = np.bincount(actions, minlength=5)
    assert counts[1] == counts[4] == 0
    assert np.abs(counts[[0, 2, 3]] - 10_000).max() < 4 * math.sqrt(30_000 * 2 / 9)
    run.close()


def test_updates_and_target_updates_fall_due_step_by_step() -> None:
    """The same number of updates for any number of environments, in the same order with the target's."""
    for num_envs in (1, 4, 5):
        config = SMALL.override(
            num_envs=num_envs, total_timesteps=100, learning_starts=20, train_freq=3, gradient_steps=2,
            target_update_interval=10, batch_size=2,
        )  # fmt: skip
        run = Run(Noisy, config, seed=0)
        calls: list[str] = []
        learner = run.agent.learner
        update, update_target = learner.update, learner.update_target
        learner.update = lambda *given, original=update, calls=calls: (calls.append("u"), original(*given))[1]
        learner.update_target = lambda original=update_target, calls=calls: (calls.append("t"), original())[1]
        list(train(run))
        run.close()
        expected = [
            call
            for step in range(1, 101)
            for call in ["u"] * (2 * (step > 20 and step % 3 == 0)) + ["t"] * (step % 10 == 0)
        ]
        assert calls == expected
        assert run.updates == calls.count("u")


def test_what_is_yielded_adds_up(caplog) -> None:
    episodes = [([1.0] * 3, True), ([2.0] * 5, False)]
    config = SMALL.override(total_timesteps=50, log_interval=20, learning_starts=1_000)
    run = Run(lambda: Scripted(episodes), config, seed=0)
    reports: list[Progress] = list(train(run))
    run.close()
    assert [report.step for report in reports] == [20, 40, 50]
    ended = [episode for report in reports for episode in report.episodes]
    assert [(e.step, e.reward, e.length) for e in ended[:4]] == [(3, 3, 3), (8, 10, 5), (11, 3, 3), (16, 10, 5)]
    assert reports[0].metrics["rollout/ep_rew_mean"] == (3 + 10 + 3 + 10 + 3) / 5
    assert reports[-1].metrics["time/episodes"] == len(ended)
    assert "train/loss" not in reports[-1].metrics
    assert "Nothing will be learned: learning_starts (1,000) is not below total_timesteps (50)." in caplog.text


def test_a_fault_loses_no_episode(tmp_path) -> None:
    class Unplugged(Noisy):
        def step(self, action):
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps > 90:
                raise OSError("unplugged")
            return super().step(action)

    folder = seed_folder(tmp_path, 0)
    run = Run(Unplugged, SMALL.override(log_interval=40), 0, folder)
    reports = []
    with pytest.raises(EnvironmentFault, match="unplugged"):
        reports.extend(train(run))
    run.close()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    episodes = [line for line in lines if "rollout/ep_rew" in line]
    assert len(episodes) == run.episodes.count > 8
    assert [line["step"] for line in lines if "time/fps" in line] == [40, 80]
    assert 80 < episodes[-1]["step"] <= 90


@pytest.mark.parametrize("munchausen", [False, True])
@pytest.mark.parametrize("replay", ["uniform", "prioritised"])
@pytest.mark.parametrize("loss", [QLearning(), Categorical(), Quantile(quantiles=5), ImplicitQuantile(8, 8, 8)])
@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_loss_that_is_no_longer_a_number_ends_the_run(engine, loss, replay, munchausen) -> None:
    config = SMALL.override(
        learning_rate=1e30,
        max_grad_norm=None,
        optimizer="sgd",
        engine=engine,
        loss=loss,
        replay=replay,
        munchausen=munchausen,
    )
    run = Run("CartPole-v1", config, seed=0)
    says = r"^(The loss|The gradient's norm) is (nan|inf), so nothing more can be learned: lower learning_rate, "
    with pytest.raises(Diverged, match=says):
        list(train(run))
    # What was learned before the update that failed is still a number.
    assert all(np.isfinite(value).all() for value in run.agent.learner.parameters().values())
    run.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_in_one_sentence_and_lines_wait_for_room(tmp_path, caplog) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    room = sink._file
    with open("/dev/full", "r+b", buffering=0) as full:
        sink._file = full
        for step in (1, 2):
            sink.write(Progress(step, 3, (), {"time/fps": 1.0}))
        assert [record.getMessage() for record in caplog.records] == [
            f"{path} cannot be written: No space left on device; training continues, and its lines wait in memory until "
            "there is room."
        ]
        with pytest.raises(
            RunError, match="metrics.jsonl cannot be written: No space left on device; make room for it"
        ):
            sink.sync()
    assert path.read_bytes() == b""
    sink._file = room
    sink.write(Progress(3, 3, (), {"time/fps": 1.0}))
    sink.sync()
    sink.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    assert (sink.size, sink.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


def test_an_autoreset_step_counts_for_nothing() -> None:
    """Through workers as in process: as many steps, episodes and transitions."""
    for mode in ("sync", "async"):
        run = Run(Noisy, SMALL.override(num_envs=2, vectorization_mode=mode, learning_starts=10_000), seed=0)
        ended = sum(len(report.episodes) for report in train(run))
        run.close()
        assert run.step == 400 and ended > 40
        assert len(run.replay) == 400


def test_schedules() -> None:
    config = Config(total_timesteps=1_000, exploration_fraction=0.2, exploration_final_eps=0.1, learning_starts=300)
    assert [exploration_rate(config, step) for step in (0, 300, 400, 500, 900)] == pytest.approx([1, 1, 0.55, 0.1, 0.1])
    config = config.override(exploration_after_learning_starts=False)
    assert [exploration_rate(config, step) for step in (0, 100, 200, 900)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert exploration_rate(config.override(exploration_fraction=0.0), 0) == 0.1
    tutorial = PRESETS["tutorial"]
    for step in (0, 1, 500, 20_000):
        assert exploration_rate(tutorial, step) == pytest.approx(0.05 + 0.85 * math.exp(-step / 1000), rel=1e-12)
    assert [learning_rate(config, step) for step in (0, 500, 1_000)] == pytest.approx([2e-3, 1e-3, 0.0])
    assert learning_rate(tutorial, 49_999) == 1e-4


def test_evaluation_while_training_changes_nothing_that_is_learned() -> None:
    plain, evaluated = (
        Run("CartPole-v1", SMALL.override(eval_freq=freq, n_eval_episodes=3), seed=0) for freq in (0, 100)
    )
    list(train(plain))
    reports = list(train(evaluated))
    assert [report.step for report in reports if "eval/mean_reward" in report.metrics] == [100, 200, 300, 400]
    for run in (plain, evaluated):
        run.close()
    left, right = (run.agent.learner.parameters() for run in (plain, evaluated))
    assert all((left[name] == right[name]).all() for name in left)


def test_training_may_be_left_and_taken_up_again() -> None:
    whole = Run(Noisy, SMALL, seed=0)
    list(train(whole))
    parts = Run(Noisy, SMALL, seed=0)
    next(train(parts))
    list(train(parts))
    left, right = (run.agent.learner.parameters() for run in (whole, parts))
    assert all((left[name] == right[name]).all() for name in left)
    whole.close()
    parts.close()


# --- the run's folder


def test_a_run_keeps_its_settings_metrics_and_policy(tmp_path) -> None:
    folder = seed_folder(tmp_path / "experiment", 3)
    run = Run("CartPole-v1", SMALL, 3, folder)
    reports = list(train(run))
    run.save()
    run.close()
    description = json.loads((tmp_path / "experiment" / "config.json").read_text())
    assert Config.from_dict(description["config"]) == SMALL
    assert description["env"] == "CartPole-v1"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in lines if "rollout/ep_rew_mean" in line] == [
        {"step": report.step, **report.metrics} for report in reports if "rollout/ep_rew_mean" in report.metrics
    ]
    ended = [(e.step, e.reward) for report in reports for e in report.episodes]
    assert [(line["step"], line["rollout/ep_rew"]) for line in lines if "rollout/ep_rew" in line] == ended
    assert sorted(path.name for path in (folder / "policy").iterdir()) == ["policy.json", "policy.safetensors"]


def test_a_folder_that_holds_another_run_is_refused_and_left_alone(tmp_path) -> None:
    run = Run("CartPole-v1", SMALL, 0, seed_folder(tmp_path, 0))
    run.close()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        RunError,
        match=r"already holds a run: resume it \(upright resume, or upright.Run.open in Python\), or choose another seed",
    ):
        Run("CartPole-v1", SMALL, 0, seed_folder(tmp_path, 0))
    with pytest.raises(RunError, match="holds an experiment with another environment or other settings"):
        Run("CartPole-v1", SMALL.override(gamma=0.5), 1, seed_folder(tmp_path, 1))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    Run("CartPole-v1", SMALL, 1, seed_folder(tmp_path, 1)).close()


def test_new_folders_gather_seeds_by_their_settings(tmp_path) -> None:
    folder = new_folder(tmp_path, "CartPole-v1", SMALL, "default", 0)
    assert folder == tmp_path / "CartPole-v1" / "default" / "seed-0"
    Run("CartPole-v1", SMALL, 0, folder).close()
    assert new_folder(tmp_path, "CartPole-v1", SMALL, "default", 1).parent.name == "default"
    assert new_folder(tmp_path, "CartPole-v1", SMALL, "default", 0).parent.name == "default-2"
    assert new_folder(tmp_path, "CartPole-v1", SMALL.override(gamma=0.5), "default", 0).parent.name == "default-2"
    assert new_folder(tmp_path, "pkg:ALE/Pong-v5", SMALL, "dqn", 0).parts[-3:] == ("pkg_ALE_Pong-v5", "dqn", "seed-0")


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="cannot be made: Not a directory"):
        Run("CartPole-v1", SMALL, 0, tmp_path / "file" / "experiment" / "seed-0")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_that_fails_before_its_first_step_leaves_nothing(tmp_path) -> None:
    class Broken(Noisy):
        def step(self, action):
            raise OSError("unplugged")

    run = Run(Broken, SMALL, 0, seed_folder(tmp_path / "experiment", 0))
    with pytest.raises(EnvironmentFault, match="unplugged"):
        list(train(run))
    run.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_seed_is_not_negative_and_settings_have_to_be_json(tmp_path) -> None:
    with pytest.raises(SettingError, match="seed is -1, but it has to be a whole number"):
        Run("CartPole-v1", SMALL, -1)
    with pytest.raises(SettingError, match=r"env_kwargs\['length'\] is a numpy.ndarray, which config.json and a saved"):
        SMALL.override(env_kwargs={"length": np.zeros(3)})
    run = Run(Noisy, SMALL.override(env_kwargs={"length": np.int64(3)}), 0, seed_folder(tmp_path, 0))
    run.close()
