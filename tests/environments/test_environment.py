"""Environments: made by name or callable, seeded by episode, checked at every step, the same in every vector."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import toy_environments
from toy_environments import Faulty, Masked, Noisy, Scripted, Spaces
from upright.environments.actions import Actions
from upright.environments.environment import Environment, episode_seed, make_environment
from upright.environments.sources import make, portable_name
from upright.environments.vectors import InProcess, Vectorised, Workers, make_vector
from upright.errors import EnvironmentFault, SettingError, UprightError
from upright.settings.config import Config


def roll(vector: InProcess | Vectorised, steps: int) -> dict[int, list[tuple]]:
    """What each environment went through, autoreset steps left out."""
    random = np.random.default_rng(0)
    histories: dict[int, list[tuple]] = {i: [] for i in range(vector.num_envs)}
    # One stream of actions for each environment, of which an autoreset step takes none.
    plans = [random.integers(vector.actions.n, size=steps + 1) for _ in range(vector.num_envs)]
    obs, _ = vector.reset()
    while min(len(history) for history in histories.values()) < steps:
        actions = np.array([plan[min(len(histories[i]), steps)] for i, plan in enumerate(plans)])
        outcome = vector.step(actions)
        for i in np.flatnonzero(outcome.valid).tolist():
            histories[i].append(
                (
                    obs[i].tobytes(),
                    int(actions[i]),
                    float(outcome.reward[i]),
                    bool(outcome.terminated[i]),
                    bool(outcome.truncated[i]),
                    outcome.next_obs[i].tobytes(),
                )
            )
        obs = outcome.obs
    vector.close()
    return {i: history[:steps] for i, history in histories.items()}


def thunks(count: int) -> list[functools.partial[Environment]]:
    config = Config(max_episode_steps=8)
    return [functools.partial(make_environment, Noisy, config, 3, index) for index in range(count)]


def test_every_vector_and_autoreset_mode_goes_through_the_same_transitions() -> None:
    reference = roll(InProcess([thunk() for thunk in thunks(3)]), 60)
    ends = [(terminated, truncated) for history in reference.values() for *_, terminated, truncated, _ in history]
    assert (True, False) in ends and (False, True) in ends
    probe = thunks(1)[0]()
    for cls, mode in itertools.product((SyncVectorEnv, AsyncVectorEnv), AutoresetMode):
        vector = Vectorised(cls(thunks(3), autoreset_mode=mode), probe.observations, probe.actions)
        assert roll(vector, 60) == reference, (cls.__name__, mode)


def test_make_vector_is_the_same_in_process_and_in_workers() -> None:
    rolls = []
    for mode in ("sync", "async"):
        vector = make_vector(Masked, Config(num_envs=2, vectorization_mode=mode, max_episode_steps=11), 5)
        assert isinstance(vector, InProcess if mode == "sync" else Workers)
        obs, mask = vector.reset()
        seen = [obs, mask]
        for _ in range(40):
            outcome = vector.step(mask.argmax(axis=1))
            seen += [value for value in outcome if value is not None]
            mask = outcome.mask
        vector.close()
        rolls.append(seen)
    for left, right in zip(*rolls, strict=True):
        np.testing.assert_array_equal(left, right)


def test_each_episode_has_a_seed_of_its_own() -> None:
    seeds = [episode_seed(run, index, episode) for run in range(5) for index in range(5) for episode in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert episode_seed(1, 2, 3) == episode_seed(1, 2, 3)
    for cls, mode in [(None, None), *itertools.product([SyncVectorEnv], AutoresetMode)]:
        scripts = [Scripted([([1.0, 2.0], True)]) for _ in range(2)]
        inner = [Environment(script, "Scripted", 9, index) for index, script in enumerate(scripts)]
        if cls is None:
            vector = InProcess(inner)
        else:
            sync = cls([lambda e=each: e for each in inner], autoreset_mode=mode)
            vector = Vectorised(sync, inner[0].observations, inner[0].actions)
        roll(vector, 10)
        for index, script in enumerate(scripts):
            assert script.seeds == [episode_seed(9, index, episode) for episode in range(len(script.seeds))]
            assert len(script.seeds) >= 5


def test_spaces_whose_method_for_seeding_is_overwritten_are_seeded() -> None:
    class Overwriting(Spaces):
        def reset(self, *, seed=None, options=None):
            self.observation_space.seed = self.action_space.seed = seed
            self.time = 0
            return self.observation_space.sample(), {}

    source = lambda: Overwriting(spaces.Box(0, 1, (3,)), spaces.Discrete(2))
    firsts = []
    for _ in range(2):
        environment = make_environment(source, Config(max_episode_steps=9), 0, 0)
        firsts.append([environment.reset()[0].tolist() for _ in range(3)])
    assert firsts[0] == firsts[1] and firsts[0][0] != firsts[0][1]


def test_truncation_is_not_termination_and_the_last_observation_is_kept() -> None:
    environment = Environment(Scripted([([1.0, 2.0], False), ([3.0], True)]), "Scripted", 0, 0)
    vector = InProcess([environment])
    vector.reset()
    outcomes = [vector.step(np.array([0])) for _ in range(3)]
    assert [(bool(o.terminated[0]), bool(o.truncated[0])) for o in outcomes] == [(0, 0), (0, 1), (1, 0)]
    np.testing.assert_array_equal([o.next_obs[0] for o in outcomes], [[0, 1], [0, 2], [1, 1]])
    np.testing.assert_array_equal([o.obs[0] for o in outcomes], [[0, 1], [1, 0], [2, 0]])


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("raises", "step 3: step() raised ZeroDivisionError: division by zero"),
        ("nan", "step 3: the observation is nan at entry 2 of 4"),
        ("infinite", "step 3: the observation is inf at entry 1 of 4"),
        ("shape", "step 3: the observation has shape (5,), not (4,)"),
        ("dtype", "step 3: the observation has dtype <U1, not float32"),
        ("reward none", "step 3: the reward is None, not a number"),
        ("reward nan", "step 3: the reward is nan"),
        ("flag", "step 3: terminated is 'yes', not True or False"),
        ("info none", "step 3: info is None, not a dict"),
        ("reset info none", "step 0: info is None, not a dict"),
        ("four values", "step 3: step() returned 4 values, not (observation, reward, terminated, truncated, info)"),
        ("none", "step 3: step() returned a NoneType, not (observation, reward, terminated, truncated, info)"),
        ("reset", "step 0: reset() raised KeyError: 'position'"),
    ],
)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_fault_is_named_where_it_happens(fault: str, says: str, mode: str) -> None:
    config = Config(env_kwargs={"fault": fault}, num_envs=2, vectorization_mode=mode)
    with pytest.raises(EnvironmentFault) as caught, contextlib.closing(make_vector(Faulty, config, 0)) as vector:
        vector.reset()
        for _ in range(5):
            vector.step(np.zeros(2, int))
    # Both workers fail at the same step, and either may be heard first.
    index = "0" if mode == "sync" else "[01]"
    where = rf"Faulty \(environment {index}\), episode 0, {re.escape(says)}; fix the environment\."
    assert re.search(where, str(caught.value))


def test_an_environment_without_wrappers_around_it_is_checked_the_same() -> None:
    environment = Environment(Faulty("four values"), "Faulty", 0, 0)
    environment.reset()
    with pytest.raises(EnvironmentFault, match="returned 4 values, not"):
        [environment.step(0) for _ in range(5)]
    environment = Environment(Faulty("none"), "Faulty", 0, 0)
    environment.reset()
    with pytest.raises(EnvironmentFault, match="returned a NoneType, not"):
        [environment.step(0) for _ in range(5)]


def test_a_constructor_that_raises_is_named() -> None:
    with pytest.raises(EnvironmentFault, match="Faulty raised RuntimeError when it was made .*: no such device"):
        make(Faulty, Config(env_kwargs={"fault": "constructor"}))


def test_masks_that_come_late_or_forbid_all_are_faults() -> None:
    class Forbids(Masked):
        def step(self, action):
            obs, reward, terminated, truncated, _ = super().step(action)
            return obs, reward, terminated, truncated, {"action_mask": np.zeros(5, np.int8)}

    class Forgets(Masked):
        def step(self, action):
            return *super().step(action)[:4], {}

    for cls, says in ((Forbids, "forbids every action"), (Forgets, "has no 'action_mask', though it had one")):
        environment = make_environment(cls, Config(), 0, 0)
        _, info = environment.reset()
        with pytest.raises(EnvironmentFault, match=says):
            environment.step(info["action_mask"].argmax())


def test_a_last_mask_of_zeros_is_no_fault() -> None:
    class Ends(Masked):
        def step(self, action):
            obs, reward, *_ = super().step(action)
            return obs, reward, True, False, {"action_mask": np.zeros(5, np.int8)}

    environment = make_environment(Ends, Config(), 0, 0)
    _, info = environment.reset()
    assert environment.step(info["action_mask"].argmax())[4]["action_mask"].all()


def notices_of(source, config: Config) -> tuple[gymnasium.Env, list[str]]:
    notices: list[str] = []
    return make(source, config, notify=notices.append), notices


def test_time_limits() -> None:
    assert notices_of("CartPole-v1", Config())[1] == []
    for source, name in (("CliffWalking-v1", "CliffWalking-v1"), (Noisy, "Noisy")):
        env, notices = notices_of(source, Config())
        assert notices == [
            f"{name} names no time limit: episodes are truncated after 1,000 steps (--max-episode-steps)."
        ]
        env.close()
    limited = lambda: gymnasium.wrappers.TimeLimit(Noisy(100), 50)
    for source in ("CliffWalking-v1", "CartPole-v1", functools.partial(Noisy, length=100), limited):
        env, notices = notices_of(source, Config(max_episode_steps=3))
        assert notices == []
        env.reset(seed=0)
        start = env.action_space.start
        assert [env.step(start)[3] for _ in range(3)] == [False, False, True]
        env.close()


def test_notices_are_logged_once_for_all_environments_of_a_run(caplog) -> None:
    make_vector(Noisy, Config(num_envs=3), 0).close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Noisy names no time limit" in caplog.text


def test_an_old_version_that_can_still_be_made_says_what_succeeds_it() -> None:
    assert notices_of("CartPole-v0", Config())[1] == ["CartPole-v0 is out of date: CartPole-v1 succeeds it."]


def test_environments_by_module() -> None:
    env = make("toy_environments:Noisy", Config(env_kwargs={"length": 4}))
    assert isinstance(env.unwrapped, Noisy) and env.unwrapped.length == 4
    env = make("minigrid:MiniGrid-Empty-5x5-v0", Config(wrapper=("minigrid.wrappers:ImgObsWrapper",)))
    assert env.observation_space.shape == (7, 7, 3)
    with pytest.raises(EnvironmentFault, match=r"no environment 'Nosy'.* Did you mean 'Noisy'"):
        make("toy_environments:Nosy", Config())
    with pytest.raises(EnvironmentFault, match="neither a registered id nor a class derived from gymnasium.Env"):
        make("os:system", Config(env_kwargs={"command": "false"}))


def test_portable_names() -> None:
    assert portable_name("CartPole-v1") == "CartPole-v1"
    assert portable_name(Noisy) == "toy_environments:Noisy"
    assert portable_name(lambda: Noisy()) is None
    assert portable_name(functools.partial(Noisy, 3)) is None


def test_wrappers_by_name_apply_innermost_first() -> None:
    config = Config(wrapper=("FlattenObservation", "gymnasium.wrappers:RecordEpisodeStatistics"))
    env = make("CartPole-v1", config)
    assert isinstance(env, gymnasium.wrappers.RecordEpisodeStatistics)
    assert isinstance(env.env, gymnasium.wrappers.FlattenObservation)
    with pytest.raises(
        SettingError, match="There is no wrapper 'FlattenObservations' in gymnasium.wrappers. Did you mean"
    ):
        make("CartPole-v1", Config(wrapper=("FlattenObservations",)))
    with pytest.raises(SettingError, match="cannot be imported"):
        make("CartPole-v1", Config(wrapper=("no_such_module:Wrapper",)))
    for text, says in (
        ("FrameStackObservation(stack_size=", "cannot be read: write module:Class"),
        ("FrameStackObservation(4)", "cannot be read: write module:Class"),
        ("FrameStackObservation(stack_size=open('x'))", "cannot be read: write module:Class"),
        ("FrameStackObservation", "cannot be applied: .*stack_size"),
    ):
        with pytest.raises(SettingError, match=says):
            make("CartPole-v1", Config(wrapper=(text,)))
    stacked = make("CartPole-v1", Config(wrapper=("FrameStackObservation(stack_size=4, padding_type='zero')",)))
    assert stacked.observation_space.shape == (4, 4)
    with pytest.raises(SettingError, match="A wrapper is a class derived from gymnasium.Wrapper"):
        make("CartPole-v1", Config(wrapper=("os:system",)))


def test_discretized_actions_cover_the_box_and_act_in_it() -> None:
    box = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 10], np.float32))
    taken = []

    class Continuous(Spaces):
        def __init__(self) -> None:
            super().__init__(spaces.Discrete(2), box)

        def step(self, action):
            taken.append(np.array(action))
            return super().step(action)

    environment = make_environment(Continuous, Config(discretize=4), 0, 0)
    assert environment.actions.n == 16
    environment.reset()
    for number in range(9):
        environment.step(number)
    assert all(box.contains(action) for action in taken)
    assert len({tuple(action) for action in taken}) == 9
    np.testing.assert_allclose(taken[0], [-0.75, 1.25])
    with pytest.raises(SettingError, match=r"CartPole-v1 has Discrete\(2\); leave it out"):
        make("CartPole-v1", Config(discretize=3))
    with pytest.raises(UprightError, match="has 10,000 joint actions"):
        make_environment(Continuous, Config(discretize=100), 0, 0)


def test_a_callable_that_makes_something_else_is_refused() -> None:
    with pytest.raises(EnvironmentFault, match=r"dict is a class that is not derived from gymnasium.Env"):
        make(dict, Config())
    with pytest.raises(EnvironmentFault, match=r"made a vector of environments.* let num_envs make the vector"):
        make(lambda: gymnasium.make_vec("CartPole-v1", 2), Config())


def test_what_an_environment_does_to_its_arrays_later_changes_nothing() -> None:
    class Mutating(Noisy):
        def reset(self, **arguments):
            self.buffer = super().reset(**arguments)[0]
            return self.buffer, {}

        def step(self, action):
            result = super().step(action)
            self.buffer[:] = result[0]
            return self.buffer, *result[1:]

    assert roll(InProcess([make_environment(Mutating, Config(), 0, 0)]), 30) == roll(
        InProcess([make_environment(Noisy, Config(), 0, 0)]), 30
    )


def test_actions_reach_the_environment_in_its_own_numbers() -> None:
    for space in (spaces.Discrete(3, start=-1), spaces.MultiDiscrete([2, 3], start=[5, 0])):
        environment = make_environment(lambda space=space: Spaces(spaces.Discrete(2), space), Config(), 0, 0)
        environment.reset()
        for number in range(Actions(space).n):
            environment.step(number)


@pytest.mark.filterwarnings("ignore:.*(Box observation space|not symmetric)")
def test_the_helpers_of_these_tests_are_what_gymnasium_expects() -> None:
    for env in (Noisy(), toy_environments.Image((40, 40, 3))):
        check_env(env, skip_render_check=True, skip_close_check=True)
