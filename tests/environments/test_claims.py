"""One environment, or simulator, serves one place at a time."""

from __future__ import annotations

import gc
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import upright
from configurations import SHORT
from toy_environments import Noisy
from upright.environments.environment import make_environment
from upright.errors import EnvironmentFault, SettingError
from upright.settings.config import Config


class Counter:
    """A simulator with a state of its own."""

    def __init__(self) -> None:
        self.time = 0

    def reset(self) -> None:
        self.time = 0


class Five(gymnasium.Env):
    """Five steps of reward 1, counted by a simulator that may be shared."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, simulator: Any = None) -> None:
        self.simulator = Counter() if simulator is None else simulator

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.simulator.time = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.simulator.time += 1
        return np.zeros(3, np.float32), 1.0, self.simulator.time >= 5, False, {}


class Around(gymnasium.Env):
    """An environment that holds another without being a wrapper."""

    def __init__(self, inner: gymnasium.Env[Any, Any]) -> None:
        self.inner, self.observation_space, self.action_space = inner, inner.observation_space, inner.action_space
        self.reset, self.step = inner.reset, inner.step


ONE, SIMULATOR = Five(), Counter()


class Holds(Five):
    """Has its simulator in a list or dict."""

    def __init__(self, tools: Any) -> None:
        self.tools = tools
        self.simulator = _Proxy(next(iter(tools.values())) if isinstance(tools, dict) else tools[0])


class _Proxy:
    """Leads to a simulator without being one."""

    def __init__(self, simulator: Any) -> None:
        self.__dict__["inner"] = [simulator]

    @property
    def time(self) -> int:
        return int(self.inner[0].time)

    @time.setter
    def time(self, value: int) -> None:
        self.inner[0].time = value


class OfClass(Five):
    SIMULATOR = SIMULATOR

    def __init__(self) -> None:
        self.simulator = _Proxy(self.SIMULATOR)


class Counts(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Counts its steps with the shared simulator."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.counter = SIMULATOR


class Functional:
    """What steps without a state of its own may be shared."""

    def step(self, state: int) -> int:
        return state + 1


FUNCTIONAL = Functional()


def test_what_has_no_state_may_be_shared() -> None:
    class Pure(Five):
        def __init__(self) -> None:
            super().__init__()
            self.rules = FUNCTIONAL

    agent = upright.DQN(Pure, num_envs=2, **SHORT).learn(60)
    assert (agent.evaluate(3).returns == 5).all()
    agent.close()


SHARED = {
    "object": (lambda: ONE, "the same environment"),
    "wrapped": (lambda: gymnasium.wrappers.TimeLimit(ONE, 50), "the same environment"),
    "held": (lambda: Around(ONE), "the same Five"),
    "simulator": (lambda: Five(SIMULATOR), "the same Counter"),
    "in a dict": (lambda: Holds({"simulator": SIMULATOR}), "the same Counter"),
    "in a list": (lambda: Holds([SIMULATOR]), "the same Counter"),
    "of the class": (lambda: OfClass(), "the same Counter"),
    "in a wrapper": (lambda: Counts(Five()), "the same Counter"),
}


@pytest.mark.parametrize("kind", SHARED)
def test_what_is_shared_is_refused_where_two_places_would_use_it(kind: str) -> None:
    source, what = SHARED[kind]
    with pytest.raises(EnvironmentFault, match=f"uses {what} at several places at once"):
        upright.DQN(source, num_envs=2, **SHORT)
    agent = upright.DQN(source, **SHORT).learn(100)
    with pytest.raises(EnvironmentFault, match=f"uses {what} .* make a new one each time"):
        agent.evaluate(10)
    assert agent.run.step == 100
    agent.close()
    assert (agent.evaluate(1).returns == 5).all(), "what is closed is free"


def test_what_was_forgotten_without_being_closed_is_free() -> None:
    environment = make_environment(lambda: ONE, Config(), 0, 0)
    with pytest.raises(EnvironmentFault):
        make_environment(lambda: ONE, Config(), 0, 0)
    del environment
    gc.collect()
    make_environment(lambda: ONE, Config(), 0, 0).close()


def test_each_worker_has_its_own_copy() -> None:
    agent = upright.DQN(lambda: ONE, num_envs=2, vectorization_mode="async", **SHORT).learn(100)
    agent.close()
    assert {episode.length for episode in agent.run.episodes._recent} == {5}


def test_arguments_are_copied_for_each_environment() -> None:
    """An environment that changes its arguments does not change another's."""

    class Takes(Noisy):
        def __init__(self, order: list[int]) -> None:
            super().__init__()
            self.first = order.pop()

    arguments = {"order": [1, 2, 3]}
    config = Config(env_kwargs=arguments)
    made = [make_environment(Takes, config, 0, index) for index in range(3)]
    assert [environment.unwrapped.first for environment in made] == [3, 3, 3]
    assert config.env_kwargs == arguments == {"order": [1, 2, 3]}
    with pytest.raises(SettingError, match=r"env_kwargs\['simulator'\] is a .*Counter, .* lambda: MyEnv"):
        upright.DQN(Five, env_kwargs={"simulator": SIMULATOR})


class Samples(Noisy):
    """Draws from its own spaces, which all of its kind share."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(4, start=5)

    def __init__(self) -> None:
        self.length = 7

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        _, _, ended, cut, info = super().step(action)
        return self.observation_space.sample(), float(self.action_space.sample()), ended, cut, info


def test_an_environment_that_samples_from_its_spaces_repeats_itself() -> None:
    def played(interrupted: bool) -> list[bytes]:
        environment = make_environment(Samples, Config(), 3, 0)
        other = make_environment(Samples, Config(), 4, 1)
        seen = []
        for _ in range(3):
            seen.append(environment.reset()[0].tobytes())
            if interrupted:
                other.reset()
            for _ in range(5):
                observation, reward, *_ = environment.step(0)
                seen.append(observation.tobytes() + np.float64(reward).tobytes())
                if interrupted:
                    other.step(0)
        return seen

    once = played(False)
    assert once == played(False) == played(True)
    assert len(set(once)) == len(once), "and every episode draws others"


def test_two_runs_with_one_seed_are_alike_where_the_environment_samples_from_its_spaces() -> None:
    states = [upright.DQN(Samples, seed=1, **SHORT).learn(200).run.state() for _ in range(2)]
    assert all((states[0][name] == states[1][name]).all() for name in states[0] if name.startswith("learner/online"))


def test_a_close_that_fails_is_logged_and_loses_nothing(caplog) -> None:
    class Gone(Five):
        def close(self) -> None:
            raise RuntimeError("the simulator is gone")

    agent = upright.DQN(Gone, **SHORT).learn(100)
    assert (agent.evaluate(2).returns == 5).all()
    agent.close()
    assert "Gone: close() raised RuntimeError: the simulator is gone" in caplog.text


def test_a_simulator_that_cannot_be_made_twice_names_the_setting() -> None:
    class Single(Five):
        alive = 0

        def __init__(self) -> None:
            super().__init__()
            if Single.alive:
                raise RuntimeError("Cannot create multiple emulator instances")
            Single.alive += 1

        def close(self) -> None:
            Single.alive -= 1

    agent = upright.DQN(Single, **SHORT).learn(60)
    with pytest.raises(EnvironmentFault, match=r"multiple emulator instances. If only one may exist .* n_eval_envs=0"):
        agent.evaluate(2)
    agent.close()
    with pytest.raises(EnvironmentFault, match=r"n_eval_envs=0"):
        upright.DQN(Single, num_envs=2, **SHORT)
    single = upright.DQN(Single, n_eval_envs=0, eval_freq=30, n_eval_episodes=2, **SHORT).learn(60)
    assert (single.evaluate(3).returns == 5).all()
    single.close()


def test_a_first_environment_that_cannot_be_made_has_no_such_hint() -> None:
    def broken() -> gymnasium.Env[Any, Any]:
        raise RuntimeError("no licence")

    with pytest.raises(EnvironmentFault, match="no licence$"):
        upright.DQN(broken)


def test_a_refusal_leaves_what_is_in_use_open() -> None:
    class Closes(Five):
        closed = 0

        def close(self) -> None:
            Closes.closed += 1

    one = Closes()
    agent = upright.DQN(lambda: one, **SHORT).learn(60)
    with pytest.raises(EnvironmentFault, match="uses the same environment"):
        agent.evaluate(2)
    assert Closes.closed == 0 and agent.learn(60).run.step == 120
    agent.close()
    assert Closes.closed == 1
