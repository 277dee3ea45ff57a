"""Generators: their state as plain numbers, and the learners' own stream."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from upright.state import generator_state, noise_generator, set_generator_state


@given(seed=st.integers(0, 2**64), numbers=st.integers(0, 5))
def test_a_generator_goes_on_where_another_was(seed: int, numbers: int) -> None:
    random, other = np.random.default_rng(seed), np.random.default_rng(1)
    random.random(numbers, dtype=np.float32)  # an odd number of them leaves half of a drawn one behind
    state = generator_state(random)
    assert state.dtype == np.uint64 and state.shape == (6,) and state[4] == numbers % 2
    set_generator_state(other, state)
    assert other.bit_generator.state == random.bit_generator.state
    np.testing.assert_array_equal(other.random(5, dtype=np.float32), random.random(5, dtype=np.float32))


def test_noise_is_not_drawn_from_the_stream_of_the_parameters() -> None:
    draws = [tuple(random.random(4)) for random in (noise_generator(0), noise_generator(1), np.random.default_rng(0))]
    assert len(set(draws)) == 3
    assert tuple(noise_generator(0).random(4)) == draws[0]
