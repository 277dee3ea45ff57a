"""Spaces: flattened as Gymnasium flattens, images in channels first, actions numbered, masks, and what is refused."""

from __future__ import annotations

import itertools
import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from hypothesis import given
from hypothesis import strategies as st

from upright.environments.actions import Actions, suggested_bins
from upright.environments.saved_spaces import from_dict, to_dict
from upright.environments.spaces import Observations
from upright.errors import SpaceError

shapes = st.lists(st.integers(1, 3), min_size=0, max_size=3).map(tuple)
leaves = st.one_of(
    st.builds(
        lambda shape, dtype: spaces.Box(0, 100, shape, dtype),
        shapes,
        st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.uint16]),
    ),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 6), st.integers(-5, 5)),
    st.builds(
        lambda sizes, start: spaces.MultiDiscrete(sizes, start=[start] * len(sizes)),
        st.lists(st.integers(1, 4), min_size=1, max_size=3),
        st.integers(-2, 2),
    ),
    st.just(spaces.MultiDiscrete([[2, 3], [4, 1]])),
    st.builds(spaces.MultiBinary, st.one_of(st.integers(1, 5), st.just([2, 3]))),
)
any_space = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=5,
)


@given(space=any_space, seed=st.integers(0, 1000))
def test_observations_are_flattened_as_gymnasium_flattens(space: spaces.Space, seed: int) -> None:
    space.seed(seed)
    observations = Observations(space)
    sample = space.sample()
    encoded = observations.encode(sample)
    np.testing.assert_array_equal(encoded, gymnasium.spaces.flatten(space, sample).astype(observations.dtype))
    assert encoded.shape == observations.shape == (spaces.flatdim(space),)
    assert encoded.dtype == observations.dtype


@given(space=any_space, seed=st.integers(0, 1000), count=st.integers(1, 4))
def test_a_batch_of_observations_is_the_observations_one_by_one(space: spaces.Space, seed: int, count: int) -> None:
    batched = batch_space(space, count)
    batched.seed(seed)
    batch = batched.sample()
    observations = Observations(space)
    encoded, single = observations.encode_any(batch)
    assert not single
    each = [observations.encode(one) for one in gymnasium.vector.utils.iterate(batched, batch)]
    np.testing.assert_array_equal(encoded, np.stack(each))
    one, single = observations.encode_any(space.sample())
    assert single and one.shape == (1, *observations.shape)


@given(space=any_space)
def test_a_space_survives_json(space: spaces.Space) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(space)))) == space


def test_infinite_and_uneven_bounds_survive_json() -> None:
    cartpole = gymnasium.make("CartPole-v1").observation_space
    for space in (cartpole, spaces.Box(-np.inf, np.inf, (2, 2)), spaces.Box(0, 1, (3,), np.bool_)):
        assert from_dict(json.loads(json.dumps(to_dict(space)))) == space


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 84), (1, 84, 84)),
        ((84, 80, 1), (1, 84, 80)),
        ((84, 80, 3), (3, 84, 80)),
        ((3, 84, 80), (3, 84, 80)),
        ((4, 84, 84), (4, 84, 84)),
        ((4, 84, 80, 3), (12, 84, 80)),
        ((36, 36, 3), (3, 36, 36)),
        ((35, 36, 3), None),
        ((7, 7, 3), None),
        ((10, 10), None),
    ],
)
def test_images_become_channels_first_and_small_grids_vectors(shape, expected) -> None:
    space = spaces.Box(0, 255, shape, np.uint8)
    observations = Observations(space)
    image = space.sample()
    encoded = observations.encode(image)
    assert observations.is_image == (expected is not None)
    assert encoded.dtype == np.uint8
    if expected is None:
        np.testing.assert_array_equal(encoded, image.reshape(-1))
        return
    assert encoded.shape == observations.shape == expected
    for row, column in ((0, 0), (shape[-3 if len(shape) > 2 and shape[-1] < 5 else -2] - 1, 30)):
        if len(shape) == 2 or (len(shape) == 3 and shape[0] >= shape[2]):
            pixel = image[row, column]
        else:  # channels or frames first
            pixel = image[:, row, column].reshape(-1)
        np.testing.assert_array_equal(encoded[:, row, column], pixel)


def test_floats_of_image_shape_are_vectors() -> None:
    assert not Observations(spaces.Box(0, 1, (84, 84, 3), np.float32)).is_image


def test_entries_that_can_only_be_small_are_stretched_to_one() -> None:
    """MountainCar: position in [-1.2, 0.6], velocity in ±0.07."""
    space = gymnasium.make("MountainCar-v0").observation_space
    observation = np.array([-0.6, 0.035], np.float32)
    np.testing.assert_allclose(Observations(space, stretch=True).encode(observation), [-0.6, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(Observations(space).encode(observation), observation)
    np.testing.assert_array_equal(observation, np.array([-0.6, 0.035], np.float32))
    nested = spaces.Dict({
        "b": spaces.Box(np.array([-0.05, -0.2, -np.inf, 0.0]), np.array([0.01, 0.01, np.inf, 0.0]), dtype=np.float64),
        "a": spaces.Discrete(2),
    })  # fmt: skip
    encoded = Observations(nested, stretch=True).encode({"a": 1, "b": np.array([-0.05, 0.01, 0.01, 0.0])})
    np.testing.assert_allclose(encoded, [0, 1, -1, 0.01, 0.01, 0], rtol=1e-6)


@given(space=any_space, seed=st.integers(0, 1000))
def test_nothing_else_is_stretched(space: spaces.Space, seed: int) -> None:
    """Of these spaces no entry is bounded within ±0.1 but those that are always 0."""
    space.seed(seed)
    sample = space.sample()
    np.testing.assert_array_equal(Observations(space, stretch=True).encode(sample), Observations(space).encode(sample))


def test_encoding_copies() -> None:
    observations = Observations(spaces.Box(-1, 1, (2,), np.float32))
    mine = np.zeros(2, np.float32)
    encoded = observations.encode(mine)
    mine[:] = 1
    assert (encoded == 0).all()
    image = np.zeros((40, 40), np.uint8)
    encoded = Observations(spaces.Box(0, 255, (40, 40), np.uint8)).encode(image)
    image[:] = 1
    assert (encoded == 0).all()


@pytest.mark.parametrize(
    ("space", "observation", "says"),
    [
        (spaces.Box(-1, 1, (2,)), np.zeros(3), r"the observation has shape \(3,\), not \(2,\)"),
        (spaces.Box(-1, 1, (2,)), np.array(["a", "b"]), "dtype <U1, not float32"),
        (spaces.Box(0, 9, (2,), np.int64), np.zeros(2), "dtype float64, not int64"),
        (spaces.Box(-1, 1, (2,)), np.array([0, np.nan]), "is nan at entry 1 of 2"),
        (spaces.Box(-1, 1, (2,)), np.array([-np.inf, 0]), "is -inf at entry 0 of 2"),
        (spaces.Discrete(3), 3, "is 3, which is not a member of Discrete"),
        (spaces.Discrete(3, start=1), 0, "is 0, which is not a member"),
        (spaces.Discrete(3), 1.5, "is 1.5, which is not a member"),
        (spaces.MultiDiscrete([2, 2]), np.array([0, 2]), "which is not a member"),
        (spaces.MultiBinary(2), np.array([0, 2]), "which is not a member|not a member"),
        (spaces.Dict(a=spaces.Discrete(2)), {"b": 1}, "has no key 'a'"),
        (spaces.Dict(a=spaces.Discrete(2)), {"a": 7}, r"the observation\['a'\] is 7"),
        (spaces.Dict(a=spaces.Box(0, 1, (2,))), {"a": np.zeros(1)}, r"the observation\['a'\] has shape"),
        (spaces.Tuple([spaces.Discrete(2)]), (1, 1), "is a tuple, which is not a member"),
        (spaces.Tuple([spaces.Discrete(2)]), 1, "is a int, which is not a member"),
    ],
)
def test_a_misfit_is_named(space: spaces.Space, observation: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Observations(space).encode(observation)


def test_huge_but_finite_values_are_no_misfit() -> None:
    encoded = Observations(spaces.Box(-np.inf, np.inf, (3,))).encode(np.full(3, 3e38, np.float32))
    assert np.isfinite(encoded).all()


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Sequence(spaces.Discrete(2)), spaces.Dict(a=spaces.Text(3))])
def test_observations_without_a_fixed_size_are_refused_with_the_way_out(space: spaces.Space) -> None:
    with pytest.raises(SpaceError, match=r"is not supported: it has no fixed size to flatten to; wrap the environment"):
        Observations(space)


def test_actions_of_a_discrete_start_where_it_says() -> None:
    actions = Actions(spaces.Discrete(3, start=5))
    assert [actions.decode(number) for number in range(actions.n)] == [5, 6, 7]
    np.testing.assert_array_equal(actions.decode_batch(np.array([0, 2])), [5, 7])


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 3, 2], start=[0, 1, -1]), spaces.MultiDiscrete([[2, 2], [1, 3]])]
)
def test_the_joint_table_holds_every_action_once(space: spaces.MultiDiscrete) -> None:
    actions = Actions(space)
    table = [actions.decode(number) for number in range(actions.n)]
    assert all(space.contains(action) for action in table)
    assert len({action.tobytes() for action in table}) == actions.n == np.prod(space.nvec)
    np.testing.assert_array_equal(actions.decode_batch(np.arange(actions.n)), table)


def test_masks() -> None:
    discrete = Actions(spaces.Discrete(3))
    np.testing.assert_array_equal(discrete.mask(np.array([1, 0, 1], np.int8)), [True, False, True])
    joint = Actions(spaces.MultiDiscrete([2, 3]))
    parts = (np.array([0, 1], np.int8), np.array([1, 0, 1], np.int8))
    expected = [bool(parts[0][a] and parts[1][b]) for a, b in itertools.product(range(2), range(3))]
    np.testing.assert_array_equal(joint.mask(parts), expected)
    np.testing.assert_array_equal(joint.mask(np.array(expected).reshape(2, 3)), expected)
    for wrong in (np.ones(2), np.ones(4, np.int8), "101", np.array([0.5, 1.0, 1.0])):
        with pytest.raises(ValueError, match="^has .* (zeros and ones|other entries)|^has other entries"):
            discrete.mask(wrong)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Box(-1, 1, (2,)), r"add --discretize 11 \(discretize=11 in Python\)"),
        (spaces.Box(-1, 1, (6,)), "add --discretize 4 "),
        (spaces.Box(-1, 1, (17,)), "even 2 bins in each of its 17 dimensions make 131,072 joint actions"),
        (spaces.Box(-np.inf, np.inf, (1,)), "it is unbounded"),
        (spaces.MultiDiscrete([100, 100]), "has 10,000 joint actions, above the 4,096"),
        (spaces.MultiBinary(13), r"has 2\^13 joint actions, above the 4,096"),
        (spaces.Box(0, 9, (4,), np.int64), "has 10,000 joint actions, above the 4,096"),
        (spaces.Sequence(spaces.Discrete(2)), "wrap the environment so that its actions are Discrete or MultiDiscrete"),
        (spaces.Dict(a=spaces.Discrete(2)), "the DQN family needs numbered actions"),
        (spaces.Tuple([spaces.Discrete(5)] * 2), "if these are the actions of several agents, so that it plays all"),
    ],
)
def test_other_actions_are_refused_with_the_way_out(space: spaces.Space, says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        Actions(space)


def test_the_suggested_bins_fit_and_one_more_would_not() -> None:
    for dimensions in range(1, 13):
        bins = suggested_bins(spaces.Box(-1, 1, (dimensions,)))
        assert bins is not None and bins**dimensions <= 4096
        assert bins == 11 or (bins + 1) ** dimensions > 4096
    assert suggested_bins(spaces.Box(-1, 1, (13,))) is None
