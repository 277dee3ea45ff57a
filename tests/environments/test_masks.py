"""Action masks in the three conventions that are read, and what is said of all others."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import upright
from configurations import SHORT
from upright.environments.environment import make_environment
from upright.errors import EnvironmentFault, Misfit, SpaceError
from upright.settings.config import Config

ALLOWED = np.array([1, 0, 1, 0], np.int8)


class Plain(gymnasium.Env):
    """Four actions, of which taking one that is not allowed is counted; episodes of five steps."""

    observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (3,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(4)
    taken: list[int]

    def look(self) -> Any:
        return np.full(3, 0.5, np.float32)

    def info(self) -> dict[str, Any]:
        return {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self.taken = getattr(self, "taken", [])
        return self.look(), self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.taken.append(int(np.ravel_multi_index(action, (2, 2))) if np.ndim(action) else int(action))
        return self.look(), 1.0, self.time >= 5, False, self.info()


class Info(Plain):
    def info(self) -> dict[str, Any]:
        return {"action_mask": ALLOWED}


class Method(Plain):
    def action_masks(self) -> Any:
        return ALLOWED.astype(bool)


class Observed(Plain):
    observation_space = spaces.Dict(
        observation=spaces.Box(-1, 1, (3,), np.float32), action_mask=spaces.Box(0, 1, (4,), np.int8)
    )

    def look(self) -> Any:
        return {"observation": np.full(3, 0.5, np.float32), "action_mask": ALLOWED}


class ObservedBits(Observed):
    observation_space = spaces.Dict(
        observations=spaces.Box(-1, 1, (3,), np.float32), action_mask=spaces.MultiDiscrete([2] * 4)
    )

    def look(self) -> Any:
        return {"observations": np.full(3, 0.5, np.float32), "action_mask": ALLOWED.astype(np.int64)}


class Joint(Plain):
    """sb3-contrib's form for several dimensions: one mask after the other. Of four, (0, 0) and (1, 0) are allowed."""

    action_space = spaces.MultiDiscrete([2, 2])

    def action_masks(self) -> Any:
        return [True, True, True, False]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Info, "info['action_mask']"),
        (Method, "action_masks()"),
        (Observed, "observation['action_mask']"),
        (ObservedBits, "observation['action_mask']"),
        (Joint, "action_masks()"),
    ],
)
def test_only_allowed_actions_are_taken_and_the_convention_is_named(source: Any, said: str, mode: str, caplog) -> None:
    agent = upright.DQN(source, num_envs=2, vectorization_mode=mode, **SHORT).learn(300)
    assert [said in message for message in caplog.messages if message.startswith("Only actions that")] == [True]
    assert agent.run.mask is not None and agent.run.mask.tolist() == [[True, False, True, False]] * 2
    stored = agent.run.replay.ring.columns.action[: len(agent.run.replay)]
    assert set(stored.tolist()) == {0, 2}
    if mode == "sync":
        taken = [environment.unwrapped.taken for environment in agent.run.vector.environments]
        assert {action for actions in taken for action in actions} == {0, 2}
    agent.close()
    assert (agent.evaluate(3).returns == 5).all()


def test_a_policy_with_masks_in_its_observations_reads_them_itself(tmp_path) -> None:
    agent = upright.DQN(Observed, exploration_final_eps=1.0, **SHORT)
    assert agent.agent.observations.shape == (3,), "the network does not see the mask"
    agent.save(tmp_path)
    kept = upright.load(tmp_path)
    for policy in (agent, kept):
        for action in range(4):
            observation = {"observation": np.zeros(3, np.float32), "action_mask": np.eye(4, dtype=np.int8)[action]}
            assert policy.predict(observation)[0] == policy.predict(observation, deterministic=False)[0] == action
        batch = {"observation": np.zeros((4, 3), np.float32), "action_mask": np.eye(4, dtype=np.int8)}
        assert policy.predict(batch)[0].tolist() == [0, 1, 2, 3]
        with pytest.raises(Misfit, match="no key 'observation'"):
            policy.predict({"action_mask": ALLOWED})


@pytest.mark.parametrize("setting", ["none", "info"])
def test_a_setting_leaves_masks_out_as_older_versions_did(setting: str) -> None:
    environment = make_environment(Observed, Config(action_masks=setting), 0, 0)
    observation, info = environment.reset()
    assert observation.shape == (7,) and info == {}
    assert make_environment(Method, Config(action_masks=setting), 0, 0).reset()[1] == {}
    assert bool(make_environment(Info, Config(action_masks=setting), 0, 0).reset()[1]) == (setting == "info")


@pytest.mark.parametrize("setting", ["method", "observation"])
def test_masks_that_were_asked_for_have_to_be_there(setting: str) -> None:
    with pytest.raises(EnvironmentFault, match=f"action_masks is '{setting}', but the environment has no"):
        make_environment(Plain, Config(action_masks=setting), 0, 0).reset()


@pytest.mark.parametrize("name", ["action_masks", "legal_actions", "avail_actions"])
def test_other_names_are_said_not_to_be_read(name: str, caplog) -> None:
    class Others(Plain):
        def info(self) -> dict[str, Any]:
            return {name: ALLOWED}

    upright.DQN(Others, **SHORT).close()
    assert f"info['{name}'] is not read: to restrict the actions, put zeros and ones for all 4 into" in caplog.text


def faulty(mask_at: dict[int, Any]) -> Any:
    """An environment whose info has these masks by step."""

    class Faulty(Plain):
        def info(self) -> dict[str, Any]:
            return {"action_mask": mask_at[self.time]} if self.time in mask_at else {}

    return Faulty


@pytest.mark.parametrize(
    ("mask_at", "says"),
    [
        ({1: ALLOWED}, "step 1: info has an 'action_mask', but had none at the first reset"),
        ({0: ALLOWED}, "step 1: info has no 'action_mask', though it had one at the first reset"),
        ({0: [0, -100, 0, -100]}, r"step 0: info\['action_mask'\] has other entries than zeros and ones: \[0, -100, "),
        ({0: [0.5, 1, 1, 1]}, "has other entries than zeros and ones"),
        ({0: [1, 0, 1]}, r"info\['action_mask'\] has 3 entries of type int64, not 4 zeros and ones"),
        ({0: "1010"}, "not 4 zeros and ones"),
        ({0: [0, 0, 0, 0]}, r"info\['action_mask'\] forbids every action"),
    ],
)
def test_a_mask_that_cannot_be_followed_is_a_fault(mask_at: dict[int, Any], says: str) -> None:
    environment = make_environment(faulty(mask_at), Config(), 0, 0)
    with pytest.raises(EnvironmentFault, match=says):
        environment.reset()
        environment.step(0)


def test_at_the_end_of_an_episode_a_mask_may_forbid_everything_or_fail() -> None:
    ended = dict.fromkeys(range(5), ALLOWED) | {5: [0, 0, 0, 0]}

    class Fails(Plain):
        def action_masks(self) -> Any:
            assert self.time < 5
            return ALLOWED.astype(float)

    for source in (faulty(ended), Fails):
        environment = make_environment(source, Config(), 0, 0)
        environment.reset()
        masks = [environment.step(0)[4]["action_mask"].tolist() for _ in range(5)]
        assert masks == [[True, False, True, False]] * 4 + [[True] * 4]


@pytest.mark.parametrize(
    ("entry", "action"),
    [
        (spaces.Box(0, 1, (5,), np.int8), spaces.Discrete(4)),
        (spaces.Discrete(4), spaces.Discrete(4)),
        (spaces.Box(0, 1, (2, 4), np.int8), spaces.Discrete(4)),
        (spaces.MultiBinary(3), spaces.MultiDiscrete([2, 2])),
    ],
)
def test_an_entry_that_is_no_mask_of_these_actions_is_refused(entry: spaces.Space, action: spaces.Space) -> None:
    class Odd(Plain):
        observation_space = spaces.Dict(observation=spaces.Box(-1, 1, (3,)), action_mask=entry)
        action_space = action

    with pytest.raises(
        SpaceError, match=r"observation\['action_mask'\] is .* which is no mask of 4 actions: give zeros"
    ):
        make_environment(Odd, Config(), 0, 0)
    assert make_environment(Odd, Config(action_masks="info"), 0, 0).observations.mask_key is None


@pytest.mark.parametrize(
    "entry",
    [spaces.MultiBinary(5), spaces.MultiBinary(6), spaces.Tuple([spaces.MultiBinary(2), spaces.MultiBinary(3)])],
)
def test_masks_of_several_dimensions_are_read_from_observations_too(entry: spaces.Space) -> None:
    """For 2 × 3 actions: a mask after the other, a joint one, and a tuple. The first dimension's second is forbidden."""
    count = 5 if isinstance(entry, spaces.Tuple) else entry.shape[0]
    flat = np.array([1, 0, 1, 1, 0] if count == 5 else [1, 1, 0, 0, 0, 0], np.int8)

    class Joint23(Plain):
        observation_space = spaces.Dict(observation=spaces.Box(-1, 1, (3,)), action_mask=entry)
        action_space = spaces.MultiDiscrete([2, 3])

        def look(self) -> Any:
            mask = (flat[:2], flat[2:]) if isinstance(entry, spaces.Tuple) else flat
            return {"observation": np.zeros(3, np.float32), "action_mask": mask}

    environment = make_environment(Joint23, Config(), 0, 0)
    assert environment.reset()[1]["action_mask"].tolist() == [True, True, False, False, False, False]
    assert environment.observations.shape == (3,)


@pytest.mark.parametrize("name", ["legal_actions", "mask", "action_masks"])
def test_other_names_within_an_observation_are_named(name: str, caplog) -> None:
    class Named(Plain):
        observation_space = spaces.Dict({"observation": spaces.Box(-1, 1, (3,)), name: spaces.MultiBinary(4)})

        def look(self) -> Any:
            return {"observation": np.zeros(3, np.float32), name: ALLOWED}

    upright.DQN(Named, **SHORT).close()
    assert f"observation['{name}'] is not read" in caplog.text


def test_an_observation_without_its_mask_asks_for_one() -> None:
    agent = upright.DQN(Observed, **SHORT)
    with pytest.raises(Misfit, match="no key 'action_mask': give the whole observation, or action_masks=…"):
        agent.predict({"observation": np.zeros(3, np.float32)})
    assert agent.predict({"observation": np.zeros(3, np.float32)}, action_masks=[0, 0, 0, 1])[0] == 3


def test_predict_reads_a_mask_in_an_observation_as_training_does() -> None:
    """For 2 × 2 actions, four entries are a mask for each dimension: only the first value of the second is allowed."""

    class Both(Plain):
        observation_space = spaces.Dict(observation=spaces.Box(-1, 1, (3,)), action_mask=spaces.MultiBinary(4))
        action_space = spaces.MultiDiscrete([2, 2])

        def look(self) -> Any:
            return {"observation": np.zeros(3, np.float32), "action_mask": np.array([1, 1, 1, 0], np.int8)}

    agent = upright.DQN(Both, exploration_final_eps=1.0, **SHORT)
    assert agent.run.mask is not None and agent.run.mask.tolist() == [[True, False, True, False]]
    taken = {tuple(agent.predict(Both().look(), deterministic=False)[0].tolist()) for _ in range(50)}
    assert taken == {(0, 0), (1, 0)}
