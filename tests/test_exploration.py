"""Random actions that are gone on with: how long they last, when they end, what a checkpoint holds of them."""

import math

import numpy as np
import pytest

from configurations import SHORT
from toy_environments import Masked, Noisy
from upright.environments.vectors import Outcome
from upright.exploration import LONGEST, Repeats
from upright.loop import train
from upright.runs.run import Run
from upright.settings.config import Config

ENVIRONMENTS = 50
ACTIONS = 50
SETTINGS = Config(**{**SHORT, "total_timesteps": 400, "learning_starts": 100, "buffer_size": 500})


def ending(*ended: bool) -> Outcome:
    nothing, obs = [False] * len(ended), np.zeros((len(ended), 1))
    return Outcome(
        obs, [0.0] * len(ended), list(ended), nothing, None, obs, None, [True] * len(ended), [None] * len(ended)
    )


def test_durations_follow_the_zeta_distribution() -> None:
    """P(n) = n^−2 / ζ(2) with ζ(2) = π²/6, measured on the steps between two draws."""
    repeats, random = Repeats(2.0, ENVIRONMENTS, ACTIONS), np.random.default_rng(0)
    drawn, lengths, running = [0] * ENVIRONMENTS, [], [0] * ENVIRONMENTS
    for step in range(20_000):
        action, explored = np.full(ENVIRONMENTS, step), [True] * ENVIRONMENTS
        repeats.apply(action, explored, None, random)
        assert all(explored)
        for i, taken in enumerate(action.tolist()):
            if taken == step:  # a new one
                lengths.append(running[i])
                drawn[i], running[i] = step, 0
            assert taken == drawn[i]
            running[i] += 1
    counts = np.bincount(lengths[ENVIRONMENTS:], minlength=5)
    total = counts.sum()
    for n in (1, 2, 3, 4):
        expected = total * n**-2 / (math.pi**2 / 6)
        assert abs(counts[n] - expected) < 4 * math.sqrt(expected)
    assert max(lengths) <= LONGEST


def test_what_is_not_random_stays_and_ends_nothing() -> None:
    repeats, random = Repeats(1.0001, 2, ACTIONS), np.random.default_rng(0)  # a draw lasts for very long
    action, explored = np.array([3, 4]), [True, False]
    repeats.apply(action, explored, None, random)
    np.testing.assert_array_equal(action, [3, 4])
    action, explored = np.array([5, 6]), [False, False]
    repeats.apply(action, explored, None, random)
    np.testing.assert_array_equal(action, [3, 6])
    assert explored == [True, False]


def test_a_random_action_ends_with_its_episode_and_where_it_is_forbidden() -> None:
    repeats, random = Repeats(1.0001, 3, ACTIONS), np.random.default_rng(0)
    repeats.apply(np.array([1, 1, 1]), [True, True, True], None, random)
    repeats.end(ending(True, False, False))
    action, explored = np.array([0, 0, 0]), [False, False, False]
    mask = np.array([[True, True], [True, False], [True, True]])
    repeats.apply(action, explored, mask, random)
    np.testing.assert_array_equal(action, [0, 0, 1])
    assert explored == [False, False, True]
    action = np.array([0, 0, 0])
    repeats.apply(action, [False, False, False], None, random)
    np.testing.assert_array_equal(action, [0, 0, 1])  # what was forbidden once is over


def test_without_an_exponent_nothing_is_repeated_or_drawn() -> None:
    repeats, random = Repeats(None, 2, ACTIONS), np.random.default_rng(0)
    before = random.bit_generator.state
    action, explored = np.array([1, 0]), [True, False]
    repeats.apply(action, explored, None, random)
    assert repeats.state() == {} and explored == [True, False]
    assert random.bit_generator.state == before


def changes(exponent: float | None) -> int:
    """How often a run of nothing but random actions takes another action than before."""
    config = SETTINGS.override(exploration_final_eps=1.0, exploration_repeat=exponent, n_steps=1)
    run = Run(Noisy, config, seed=0)
    list(train(run))
    run.close()
    return np.count_nonzero(np.diff(run.replay.ring.columns.action[: len(run.replay)]))


def test_random_actions_of_a_run_come_in_stretches() -> None:
    assert changes(1.5) < changes(None) / 2


@pytest.mark.parametrize("num_envs", [1, 3])
def test_masks_hold_for_what_is_repeated(num_envs: int) -> None:
    config = SETTINGS.override(exploration_final_eps=1.0, exploration_repeat=1.1, num_envs=num_envs)
    run = Run(Masked, config, seed=0)
    list(train(run))
    rows, kept = run.replay.ring.columns, np.arange(len(run.replay))
    assert rows.mask[kept, rows.action[kept]].all()
    run.close()


def test_the_state_goes_on_as_it_was_and_refuses_what_cannot_be() -> None:
    repeats, random = Repeats(1.3, ENVIRONMENTS, ACTIONS), np.random.default_rng(1)
    for _ in range(20):
        repeats.apply(np.arange(ENVIRONMENTS), [True] * ENVIRONMENTS, None, random)
    again = Repeats(1.3, ENVIRONMENTS, ACTIONS)
    again.load_state(repeats.state())
    taken = [np.zeros(ENVIRONMENTS, np.int64) for _ in range(2)]
    for each, action in zip((repeats, again), taken, strict=True):
        each.apply(action, [False] * ENVIRONMENTS, None, random)
    assert taken[0].any()
    np.testing.assert_array_equal(*taken)
    for name in ("action", "left"):
        for wrong in (np.zeros(3, np.int64), np.full(ENVIRONMENTS, -1), np.zeros(ENVIRONMENTS)):
            with pytest.raises(ValueError, match=name):
                again.load_state({**repeats.state(), name: wrong})
    with pytest.raises(ValueError, match="action"):
        again.load_state({**repeats.state(), "action": np.full(ENVIRONMENTS, ACTIONS)})
