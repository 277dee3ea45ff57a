"""What tests ask of the learner of any engine: batches drawn at random, and states that go on to the same bits."""

from __future__ import annotations

import numpy as np

from configurations import PROBLEM
from upright.replay import Batch, Columns


def random_batch(size=16, seed=0, problem=PROBLEM, weight=None, **columns):
    """Transitions of which every third is terminal; columns replace the drawn ones."""
    random = np.random.default_rng(seed)
    shape = (size, *problem.observation_shape)
    fields = {
        "obs": random.standard_normal(shape, np.float32),
        "action": random.integers(problem.num_actions, size=size),
        "reward": random.normal(size=size),
        "discount": 0.99 * (np.arange(size) % 3 != 0),
        "next_obs": random.standard_normal(shape, np.float32),
    }
    return Batch(Columns(**{**fields, **columns}), np.arange(size), weight)


def assert_equal_states(actual, expected):
    assert list(actual) == list(expected)
    for name, value in actual.items():
        assert value.dtype == expected[name].dtype, name
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def advance(learner, updates):
    """Make updates and choose actions that depend on nothing but the learner; return what it answered."""
    answers = []
    for update in updates:
        answers.append(learner.q_values(random_batch(1 + update % 3, seed=update).transition.obs, explore=True))
        answers.append(learner.update(random_batch(seed=update), 1e-2 / (1 + update)))
        if update % 3 == 0:
            learner.update_target()
    return answers


def assert_a_state_goes_on(undisturbed, stopped, resumed, before, carried=lambda kept: kept):
    """Of three learners, the third takes up the second's state after some updates; all go on to the same bits."""
    advance(undisturbed, range(before))
    advance(stopped, range(before))
    advance(resumed, range(3))
    kept = stopped.state()
    copied = {name: value.copy() for name, value in kept.items()}
    resumed.load_state(carried(kept))
    assert_equal_states(resumed.state(), kept)
    expected = advance(undisturbed, range(before, before + 8))
    for learner in (stopped, resumed):
        for actual, want in zip(advance(learner, range(before, before + 8)), expected, strict=True):
            np.testing.assert_array_equal(actual, want)
        assert_equal_states(learner.state(), undisturbed.state())
    assert_equal_states(kept, copied)  # what was handed out is a copy
    metrics = undisturbed.metrics()
    assert {"train/loss", "train/grad_norm", "train/mean_q"} <= metrics.keys()
    assert stopped.metrics() == resumed.metrics() == metrics
