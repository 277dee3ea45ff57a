"""How integers, chosen entries and images within spaces reach the network."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import upright
from configurations import SHORT
from engines import ENGINES
from upright.environments.actions import Actions
from upright.environments.environment import encoding
from upright.environments.spaces import Observations
from upright.errors import Misfit, SpaceError
from upright.settings.config import Config

INTEGERS = [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64]


def seen(observations: Observations, observation: Any) -> np.ndarray:
    """What the network is given for an observation."""
    encoded = observations.encode(observation).astype(np.float64)
    return encoded if observations.scale is None else encoded * np.array(observations.scale)


@st.composite
def integer_boxes(draw: Any) -> spaces.Box:
    dtype = draw(st.sampled_from(INTEGERS))
    limits = np.iinfo(dtype)
    low = draw(st.integers(max(limits.min, -(2**23)), min(limits.max, 2**23) - 1))
    high = draw(st.integers(low, min(limits.max, 2**23)))
    return spaces.Box(low, high, draw(st.sampled_from([(3,), (2, 2), ()])), dtype)


@given(box=integer_boxes(), seed=st.integers(0, 1000))
def test_bounded_integers_go_from_0_to_1_by_their_bounds(box: spaces.Box, seed: int) -> None:
    observations = Observations(box, scale_integers=True)
    box.seed(seed)
    value = box.sample()
    low, high = box.low.astype(np.float64).ravel(), box.high.astype(np.float64).ravel()
    expected = (value.ravel() - low) / np.where(high > low, high - low, 1)
    np.testing.assert_allclose(seen(observations, value), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(seen(observations, box.low), np.zeros_like(low), atol=1e-7)
    np.testing.assert_allclose(seen(observations, box.high), (high > low).astype(float), rtol=1e-6)
    fits = bool((high - low <= 255).all()) and box.shape != ()
    assert observations.dtype == (np.uint8 if fits or box.dtype == np.uint8 else np.float32)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers_without_bounds_and_floats_stay_as_they_are(dtype: Any) -> None:
    limits = np.iinfo(dtype)
    value = np.array([3, -7], dtype)
    np.testing.assert_array_equal(
        seen(Observations(spaces.Box(limits.min, limits.max, (2,), dtype), scale_integers=True), value), value
    )
    floats = spaces.Box(0, 255, (2,), np.float32)
    np.testing.assert_array_equal(seen(Observations(floats, scale_integers=True), np.float32([3, 7])), [3, 7])


def test_one_hots_bits_and_masks_of_bytes_stay_as_they_are() -> None:
    for space in (spaces.Discrete(5), spaces.MultiBinary(4), spaces.Box(0, 1, (4,), np.uint8)):
        assert Observations(space, scale_integers=True).scale is None


def test_each_entry_is_scaled_by_its_own_bounds_within_a_dict() -> None:
    space = spaces.Dict(
        a=spaces.Box(np.array([0, 10]), np.array([4, 20]), dtype=np.int64),
        b=spaces.Box(0, 255, (2, 1), np.uint8),
        c=spaces.Discrete(2),
        d=spaces.Box(-1, 1, (1,), np.float32),
    )
    observation = {"a": np.array([1, 15]), "b": np.uint8([[51], [255]]), "c": 1, "d": np.float32([0.5])}
    np.testing.assert_allclose(
        seen(Observations(space, scale_integers=True), observation), [0.25, 0.5, 0.2, 1, 0, 1, 0.5], rtol=1e-6
    )
    bytes_alone = spaces.Dict({key: space[key] for key in "abc"})
    observations = Observations(bytes_alone, scale_integers=True)
    assert observations.dtype == np.uint8, "stored as bytes"
    del observation["d"]
    np.testing.assert_allclose(seen(observations, observation), [0.25, 0.5, 0.2, 1, 0, 1], rtol=1e-6)


def test_what_does_not_fit_into_a_byte_is_refused_rather_than_wrapped_around() -> None:
    observations = Observations(spaces.Box(-5, 5, (2,), np.int64), scale_integers=True)
    for value in ([300, 0], [0, -6]):
        with pytest.raises(ValueError, match="out of its space's bounds at entry"):
            observations.encode(np.array(value))


def test_older_files_keep_the_bytes_as_they_were() -> None:
    space = spaces.Box(0, 255, (4, 4, 3), np.uint8)
    then = Config.from_file({name: value for name, value in Config().to_dict().items() if name != "scale_integers"})
    assert encoding(space, spaces.Discrete(2), then)[0].scale is None
    assert encoding(space, spaces.Discrete(2), Config())[0].scale == pytest.approx([1 / 255] * 48)


class Grid(gymnasium.Env):
    """A grid of 28×28 bytes, too small for convolutions: the brightest of four corners is the action to take."""

    observation_space = spaces.Box(0, 255, (28, 28, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.right = int(self.np_random.integers(2))
        grid = np.full((28, 28, 3), 100, np.uint8)
        grid[:, 14 * self.right : 14 * self.right + 14] = 200
        return grid, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros((28, 28, 3), np.uint8), float(action == self.right), True, False, {}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_grid_of_bytes_is_seen_as_fractions_by_both_engines(engine: str, caplog, tmp_path) -> None:
    agent = upright.DQN(Grid, engine=engine, **SHORT)
    assert "integers are scaled to 0 … 1 by the space's bounds, 0 to 255" in caplog.text
    grid = Grid().reset(seed=0)[0]
    weights = agent.agent.learner.parameters()
    x = grid.reshape(-1) / 255
    hidden = np.maximum(weights["advantage.0.weight"] @ x + weights["advantage.0.bias"], 0)
    expected = weights["advantage.2.weight"] @ hidden + weights["advantage.2.bias"]
    np.testing.assert_allclose(agent.q_values(grid), expected, rtol=1e-4, atol=1e-5)
    agent.learn(300)
    assert agent.run.replay.ring.columns.obs.dtype == np.uint8
    agent.save(tmp_path)
    np.testing.assert_array_equal(upright.load(tmp_path, engine=engine).q_values(grid), agent.q_values(grid))


# --- entries of a Dict

MISSION = spaces.Dict(
    direction=spaces.Discrete(4), image=spaces.Box(0, 255, (40, 40, 3), np.uint8), mission=spaces.Text(20)
)


def test_keys_choose_what_the_network_sees() -> None:
    space = spaces.Dict({key: MISSION[key] for key in ("direction", "image")})
    alone = Observations(space, keys=("image",))
    assert alone.is_image and alone.shape == (3, 40, 40), "an image alone is read by convolutions"
    assert Observations(space, keys=("direction",)).shape == (4,)
    assert Observations(space, keys=("image", "direction")).shape == (4 + 4800,), "in the space's order"
    with pytest.raises(SpaceError, match="observation_keys names 'speed', but the observation has direction, image"):
        Observations(space, keys=("speed",))
    with pytest.raises(SpaceError, match=r"chooses entries of a Dict, but the observation space is Discrete\(3\)"):
        Observations(spaces.Discrete(3), keys=("image",))


def test_an_entry_that_cannot_be_read_is_refused_with_the_line_to_type() -> None:
    with pytest.raises(SpaceError, match=r"choose the others with --observation-keys direction image \(observation_k"):
        Observations(MISSION)
    assert Observations(MISSION, keys=("direction", "image")).shape == (4804,)
    with pytest.raises(SpaceError, match="is not supported"):
        Observations(spaces.Dict(mission=spaces.Text(20)))


class Mission(gymnasium.Env):
    observation_space, action_space = MISSION, spaces.Discrete(2)

    def look(self) -> dict[str, Any]:
        return {"direction": 1, "image": np.full((40, 40, 3), 9, np.uint8), "mission": "go"}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.look(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.look(), 1.0, True, False, {}


def test_a_policy_of_chosen_entries_takes_the_environments_own_observations(tmp_path, caplog) -> None:
    agent = upright.DQN(Mission, observation_keys=("direction",), **SHORT).learn(100)
    agent.save(tmp_path)
    kept = upright.load(tmp_path)
    assert kept.observation_space == spaces.Dict(direction=spaces.Discrete(4))
    assert (kept.evaluate(2, env=Mission).returns == 1).all() and kept.q_values(Mission().look()).shape == (2,)
    batch = {"direction": np.array([0, 1, 2]), "image": np.zeros((3, 40, 40, 3), np.uint8), "mission": ("a", "b", "c")}
    assert kept.predict(batch)[0].shape == (3,)
    np.testing.assert_array_equal(kept.q_values(batch), agent.q_values(batch))
    with pytest.raises(Misfit, match="has no key 'direction'"):
        kept.predict({"image": np.zeros((40, 40, 3), np.uint8)})
    assert "image" not in caplog.text


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Box(0, 1, (84, 84, 3), np.float32), "looks like an image, but it is of float32, so it becomes a vector of"),
        (spaces.Box(0, 1, (1, 84, 84), np.float64), "looks like an image, but it is of float64"),
        (spaces.Dict(a=spaces.Box(0, 255, (84, 84, 3), np.uint8), b=spaces.Discrete(2)), "--observation-keys a "),
        (spaces.Dict(a=spaces.Box(0, 1, (84, 84), np.float32)), "observation['a'] looks like an image"),
        (spaces.Tuple([spaces.Box(0, 1, (84, 84)), spaces.Discrete(2)]), "observation[0] looks like an image, but within"),
        (spaces.Dict(a=spaces.Dict(b=spaces.Box(0, 255, (40, 40, 3), np.uint8))), "observation['a'] looks like an image"),
        (spaces.Box(0, 1, (4, 40, 40, 3), np.float32), "looks like an image, but it is of float32"),
    ],
)  # fmt: skip
def test_an_image_that_becomes_a_vector_is_named(space: spaces.Space, says: str) -> None:
    (notice,) = [text for text in Observations(space).notices() if "image" in text]
    assert says in notice


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (84, 84, 3), np.uint8),
        spaces.Box(-1, 1, (20, 20), np.float32),
        spaces.Box(-1, 1, (100, 6), np.float32),
        spaces.Box(-1, 1, (17,), np.float32),
        spaces.Box(0, 1, (50, 50, 50), np.float32),
        spaces.Dict(a=spaces.Box(0, 255, (7, 7, 3), np.uint8)),
    ],
)
def test_nothing_is_said_of_what_is_read_as_it_should_be(space: spaces.Space) -> None:
    assert not [text for text in Observations(space).notices() if "image" in text]


# --- values and actions


def test_python_bools_are_members_of_a_discrete_of_two() -> None:
    space = spaces.Dict(key=spaces.Discrete(2), flags=spaces.MultiDiscrete([2, 2]))
    np.testing.assert_array_equal(
        Observations(space).encode({"key": True, "flags": np.array([False, True])}), [0, 1, 1, 0, 0, 1]
    )


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 4, (1,), np.int64),
        spaces.Box(-1, 1, (), np.int8),
        spaces.Box(np.array([-1, 5]), np.array([1, 6]), dtype=np.int32),
        spaces.Box(0, 1, (3,), np.bool_),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 2]),
    ],
)
def test_whole_valued_actions_are_numbered_without_gap_or_repetition(space: spaces.Space) -> None:
    actions = Actions(space)
    decoded = [actions.decode(number) for number in range(actions.n)]
    assert all(space.contains(action) for action in decoded)
    assert len({json.dumps(np.asarray(action).tolist()) for action in decoded}) == actions.n
    space.seed(0)
    samples = {json.dumps(space.sample().tolist()) for _ in range(50 * actions.n)}
    assert samples == {json.dumps(np.asarray(action).tolist()) for action in decoded}
    np.testing.assert_array_equal(actions.decode_batch(np.arange(actions.n)), np.stack(decoded))


@pytest.mark.parametrize("largest", [1, 3, 255])
def test_an_image_is_divided_by_the_largest_pixel_of_its_space(largest: int) -> None:
    space = spaces.Box(0, largest, (40, 40), np.uint8)
    assert Observations(space, scale_integers=True).largest == largest
    assert Observations(space).largest == 255, "as older versions did"
    seen: list[float] = []

    class Labels(gymnasium.Env):
        observation_space, action_space = space, spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            return np.full((40, 40), largest, np.uint8), {}

        def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return np.full((40, 40), largest, np.uint8), 1.0, True, False, {}

    agent = upright.DQN(Labels, **SHORT)
    agent.agent.learner.online.torso[0].register_forward_pre_hook(
        lambda module, given: seen.append(float(given[0].max()))
    )
    agent.q_values(np.full((40, 40), largest, np.uint8))
    assert seen == [1.0]


@pytest.mark.parametrize("space", [spaces.Box(-5, 5, (2,), np.int8), spaces.Box(10, 20, (2,), np.uint8)])
def test_small_integers_out_of_their_bounds_do_not_wrap_around(space: spaces.Box) -> None:
    observations = Observations(space, scale_integers=True)
    with pytest.raises(ValueError, match="out of its space's bounds at entry 0"):
        observations.encode(np.array([space.low[0] - 2, space.high[0]], space.dtype))
    np.testing.assert_allclose(seen(observations, space.high), [1, 1])
