"""Evaluations: where their episodes are played, that training is the same with and without them, and success."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from rich.console import Console

import upright
from configurations import TINY
from faulty_environments import Repeating, Unrepeatable
from run_digest import digests, lines
from toy_environments import Masked, Scripted
from upright.environments.sources import EnvironmentSource
from upright.errors import EnvironmentFault, SettingError
from upright.evaluation import Evaluation, EvaluationProgress, GreedyEpisode
from upright.loop import train
from upright.result import train_to_result
from upright.runs.run import Run
from upright.settings.config import Config
from upright.views.terminal import EvaluationTerminal

# Evaluations fall into the middle of episodes, and there are several.
CONFIG = TINY.override(total_timesteps=400, eval_freq=70, n_eval_episodes=3, max_episode_steps=40)


class Alone(CartPoleEnv):
    """A simulator of which only one may exist, and which cannot be used once it is closed."""

    open = 0

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False
        Alone.open += 1
        if Alone.open > 1:
            raise RuntimeError("the simulator's port is taken")

    def reset(self, **options: Any) -> Any:
        if self.is_closed:
            raise RuntimeError("the simulator is closed")
        return super().reset(**options)

    def close(self) -> None:
        self.is_closed = True
        Alone.open -= 1
        super().close()


@pytest.fixture(autouse=True)
def none_is_open() -> None:
    Alone.open = 0


def test_an_evaluation_is_what_its_episodes_were_in_whatever_order_they_ended() -> None:
    episodes = [
        GreedyEpisode(2, 6.0, 3, None),
        GreedyEpisode(0, 1.0, 2, True),
        GreedyEpisode(3, 1.0, 4, True),
        GreedyEpisode(1, 4.0, 9, False),
    ]
    evaluation = Evaluation.of(iter(episodes), 3.0)
    assert evaluation.returns.tolist() == [1.0, 4.0, 6.0, 1.0] and evaluation.lengths.tolist() == [2, 9, 3, 4]
    assert (evaluation.mean, evaluation.std) == (3.0, pytest.approx(4.5**0.5))
    assert evaluation.success_rate == pytest.approx(2 / 3)
    assert str(evaluation) == "3.00 ± 2.12 over 4 greedy episodes, success rate 67%, solved (threshold 3)"
    unnamed = Evaluation.of(episodes[:1], None)
    assert unnamed.success_rate is None and "success" not in str(unnamed)


@pytest.mark.parametrize(("envs", "made"), [(0, 1), (1, 1), (4, 4), (10, 7)])
def test_as_many_environments_are_made_as_the_setting_says(envs: int, made: int) -> None:
    count = 0

    def make() -> Repeating:
        nonlocal count
        count += 1
        return Repeating()

    agent = upright.DQN(make, preset=CONFIG, n_eval_envs=envs)
    agent.close()
    count = 0
    evaluation = agent.agent.evaluate(7)
    assert count == made
    alone = upright.DQN(Repeating, preset=CONFIG).agent.evaluate(7)
    np.testing.assert_allclose(evaluation.returns, alone.returns)
    np.testing.assert_array_equal(evaluation.lengths, alone.lengths)


# --- in training's own environment


def trained(source: EnvironmentSource, config: Config, folder: Path) -> tuple[dict[str, str], list[dict[str, object]]]:
    run = Run(source, config, 0, folder)
    list(train(run))
    run.close()
    return digests(run), lines(folder)


@pytest.mark.parametrize("source", ["CartPole-v1", Masked])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_training_is_the_same_whether_evaluations_use_its_own_environment_or_another(
    source: EnvironmentSource, num_envs: int, tmp_path
) -> None:
    config = CONFIG.override(num_envs=num_envs, noisy=True)
    own = trained(source, config.override(n_eval_envs=0), tmp_path / "own" / "seed-0")
    assert own == trained(source, config.override(n_eval_envs=1), tmp_path / "another" / "seed-0")
    assert sum("eval/mean_reward" in line for line in own[1]) >= 5


def test_a_simulator_of_which_only_one_may_exist_trains_and_is_evaluated(tmp_path) -> None:
    config = CONFIG.override(n_eval_envs=0, n_final_episodes=5)
    run = Run(Alone, config, 0, tmp_path / "mine" / "seed-0")
    ended = train_to_result(run, time.perf_counter())
    assert (ended.result["steps"], ended.result["episodes"]) == (400, 5)
    assert Alone.open == 0
    loaded = upright.load(tmp_path / "mine" / "seed-0", trust=True)
    assert ended.evaluation is not None
    assert loaded.evaluate(5).returns.tolist() == ended.evaluation.returns.tolist() == run.evaluate(5).returns.tolist()
    with pytest.raises(EnvironmentFault, match="the simulator's port is taken"):
        list(train(Run(Alone, config.override(n_eval_envs=1))))


def test_an_evaluation_between_two_steps_leaves_the_run_where_it_was() -> None:
    run, other = (Run(Repeating, CONFIG.override(n_eval_envs=0, eval_freq=0, log_interval=37), 0) for _ in range(2))
    for _ in train(run):
        run.evaluate(2, seed=run.step)
        run.evaluate(1)
    list(train(other))
    assert digests(run) == digests(other)


def test_training_goes_on_with_new_episodes_after_an_evaluation_that_failed() -> None:
    class Fails(Repeating):
        broken = False

        def step(self, action: int):
            if Fails.broken:
                raise OSError("no connection")
            return super().step(action)

    run = Run(Fails, CONFIG.override(n_eval_envs=0), 0)
    reports = train(run)
    next(reports)
    Fails.broken = True
    with pytest.raises(EnvironmentFault, match=r"Fails \(evaluation\), episode 0, step 1: step\(\) raised OSError"):
        run.evaluate(2)
    Fails.broken = False
    list(reports)
    list(train(run))
    assert run.step == 400


def test_an_environment_that_does_not_repeat_itself_loses_its_episode_and_says_so(caplog) -> None:
    run = Run(Unrepeatable, CONFIG.override(n_eval_envs=0), 0)
    assert [report.step for report in train(run) if "eval/mean_reward" in report.metrics] == [70, 140, 210, 280, 350]
    assert run.step == 400
    assert "Unrepeatable does not repeat itself: the running episodes of environments 0 begin again" in caplog.text


def test_an_environment_in_a_worker_cannot_be_lent() -> None:
    with pytest.raises(SettingError, match="n_eval_envs=0 evaluates in training's own environment, which vectoriz"):
        CONFIG.override(n_eval_envs=0, vectorization_mode="async")
    assert CONFIG.override(n_eval_envs=0, num_envs=2).n_eval_envs == 0


# --- success


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_success_is_counted_in_training_and_in_evaluations(mode: str, tmp_path) -> None:
    """Episodes of 2, 3 and 1 steps: the first succeeds, the second does not, the third does not say."""
    script, successes = [([0.0] * 2, True), ([0.0] * 3, False), ([0.0], True)], [np.array([1.0]), 0, None]
    config = TINY.override(
        total_timesteps=36, log_interval=6, eval_freq=18, n_eval_episodes=4, n_eval_envs=1, n_final_episodes=6,
        num_envs=2, vectorization_mode=mode, cut_n_steps=False,
    )  # fmt: skip
    run = Run(lambda: Scripted(script, masks=True, successes=successes), config, 0, tmp_path / "mine" / "seed-0")
    ended = train_to_result(run, time.perf_counter())
    records = {line["step"]: line for line in lines(tmp_path / "mine" / "seed-0") if "time/episodes" in line}
    # Each environment ends an episode with its steps 2, 5, 6, 8, 11, 12, …: after 3 steps one has, after 6 three.
    assert [records[step]["rollout/success_rate"] for step in (6, 12, 18, 24)] == [1.0, 0.5, 2 / 3, 0.5]
    assert [records[step]["eval/success_rate"] for step in (18, 36)] == [2 / 3] * 2
    assert ended.result["success_rate"] == 0.5


def test_where_no_episode_says_whether_it_succeeded_there_is_no_success_rate(tmp_path) -> None:
    run = Run(Repeating, CONFIG.override(n_final_episodes=1), 0, tmp_path / "mine" / "seed-0")
    ended = train_to_result(run, time.perf_counter())
    assert ended.result["success_rate"] is None
    assert not any("success" in tag for line in lines(tmp_path / "mine" / "seed-0") for tag in line)


# --- what is seen of it


def test_the_evaluation_is_one_line_in_a_terminal_and_goes_when_it_ends() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    shown = EvaluationTerminal(console)
    shown.close()
    assert console.file.getvalue() == "", "nothing was evaluated"
    shown.write(EvaluationProgress(0, 1_000, None))
    shown.close()
    text = console.file.getvalue()
    assert "evaluating the final policy: 0 of 1,000 episodes" in text
    assert text.endswith("\x1b[2K"), "the line is erased"
