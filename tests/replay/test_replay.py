"""Replay: the ring against a list, n-step returns against brute force, draws against their probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from configurations import REPLAYS
from engines import needs_native
from toy_environments import Scripted
from upright.environments.environment import Environment
from upright.environments.vectors import InProcess, Vectorised
from upright.errors import Misfit, UprightError
from upright.replay import Batch, NStep, ReplayMemory, ring
from upright.replay.prioritised import ByPriority, SumTree
from upright.settings.kinds import Prioritised, Uniform


def native_tree(capacity: int):
    from upright._native import SumTree as NativeSumTree

    return NativeSumTree(capacity)


TREES = pytest.mark.parametrize(
    "make", [SumTree, pytest.param(native_tree, marks=needs_native)], ids=["numpy", "native"]
)


def transition(k: int) -> tuple:
    return np.full(2, k, np.float32), k % 5, k / 2, 0.9, np.full(2, k + 1, np.float32)


@given(capacity=st.integers(1, 20), pushes=st.integers(0, 60))
def test_the_ring_holds_the_last_transitions(capacity: int, pushes: int) -> None:
    memory = ReplayMemory(capacity)
    for k in range(pushes):
        memory.push(*transition(k))
    assert len(memory) == min(capacity, pushes)
    if pushes:
        stored = Batch(memory.ring.columns, np.arange(len(memory)), None).transition
        assert sorted(stored.reward * 2) == list(range(max(0, pushes - capacity), pushes))
        for row in range(len(memory)):
            expected = transition(int(stored.reward[row] * 2))
            for value, column in zip(expected, stored, strict=False):
                np.testing.assert_array_equal(column[row], value)
            assert stored.mask is None and stored.next_mask is None


def test_pushing_copies_and_sampling_copies() -> None:
    memory = ReplayMemory(4)
    mine = np.zeros(2, np.float32)
    memory.push(mine, 0, 0.0, 1.0, mine)
    mine[:] = 7
    batch = memory.sample(3)
    assert (batch.transition.obs == 0).all()
    batch.transition.obs[:] = 9
    assert (memory.sample(3).transition.obs == 0).all()


@pytest.mark.parametrize("allocated", [False, True])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("kind", REPLAYS)
def test_a_batch_names_rows_of_the_memorys_own_columns(kind: str, masks: bool, allocated: bool) -> None:
    columns = ring.transition_forms((2,), np.dtype(np.float32), 3 if masks else None) if allocated else None
    memory = ReplayMemory(6, columns, replay=REPLAYS[kind])
    given, seen = [], []
    for k in range(9):
        given.append((*transition(k), *([np.arange(3) != k % 3, np.arange(3) == k % 3] if masks else [None, None])))
        memory.push(*given[-1])
        batch = memory.sample(20)
        assert batch.columns is memory.ring.columns
        seen.append(batch.columns)
        drawn = batch.transition
        for row, place in enumerate(batch.place):
            newest = max(each for each in range(k + 1) if each % 6 == place)
            for field, value in zip(drawn, given[newest], strict=True):
                if value is None:
                    assert field is None
                else:
                    np.testing.assert_array_equal(field[row], value)
    assert all(each is seen[0] for each in seen)  # what a learner may keep


def test_the_first_transition_decides_the_forms_of_its_own_fields() -> None:
    memory = ReplayMemory(3)
    with pytest.raises(Misfit, match="both masks or none"):
        memory.push(np.arange(2), 1, 1, 1, np.array([0.5, 1.5]), None, [1, 0])
    memory.push(np.arange(2), 1, 1, 1, np.array([0.5, 1.5]))
    columns = memory.ring.columns
    assert (columns.obs.dtype, columns.next_obs.dtype) == (np.int64, np.float64)
    assert columns.next_obs[0].tolist() == [0.5, 1.5] and columns.mask is None


def test_uniform_draws_are_uniform_and_seeded() -> None:
    memories = [ReplayMemory(50, seed=seed) for seed in (3, 3, 4)]
    for memory in memories:
        for k in range(70):
            memory.push(*transition(k))
    draws = [np.concatenate([memory.sample(100).place for _ in range(100)]) for memory in memories]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    assert stats.chisquare(np.bincount(draws[0], minlength=50)).pvalue > 1e-3


@pytest.mark.parametrize("kind", REPLAYS)
def test_a_memory_of_any_kind_draws_by_its_seed_and_takes_up_the_state_of_another(kind: str) -> None:
    first, same, other = (ReplayMemory(50, seed=seed, replay=REPLAYS[kind]) for seed in (3, 3, 4))
    for memory in (first, same, other):
        for k in range(70):
            memory.push(*transition(k))

    def drawn(memory: ReplayMemory) -> list[np.ndarray]:
        places = []
        for k in range(5):
            batch = memory.sample(20, progress=k / 5)
            assert batch.place.shape == (20,) and (batch.weight is None or (batch.weight > 0).all())
            places += [batch.place, np.ones(20) if batch.weight is None else batch.weight]
            memory.reprioritise(batch, 1.0 + batch.place)
        return places

    np.testing.assert_array_equal(drawn(first), expected := drawn(same))
    assert (np.array(drawn(other)) != expected).any()
    other.load_state(first.state())
    np.testing.assert_array_equal(drawn(other), drawn(first))


def test_the_ring_and_what_draws_its_rows_know_nothing_of_each_other() -> None:
    """A memory is a ring and a selector: with the same seed, the selector alone draws the memory's rows."""
    for replay, selector in ((Uniform(), ring.Uniformly(7)), (Prioritised(), ByPriority(5, Prioritised(), 7))):
        memory, ring_alone = ReplayMemory(5, seed=7, replay=replay), ring.Ring(5)
        for k in range(8):
            memory.push(*transition(k))
            selector.add(ring_alone.push(*transition(k)))
            place, weight = selector.select(20, min(k + 1, 5), 0.5)
            batch = memory.sample(20, 0.5)
            np.testing.assert_array_equal(batch.place, place)
            np.testing.assert_array_equal(batch.weight, weight)
            priority = np.arange(20.0)
            memory.reprioritise(batch, priority)
            selector.reprioritise(place, priority)
        for name, column in ring_alone.columns.named().items():
            np.testing.assert_array_equal(column, memory.ring.columns.named()[name])


def test_an_empty_memory_says_what_to_do() -> None:
    for memory in (ReplayMemory(3, replay=replay) for replay in REPLAYS.values()):
        with pytest.raises(ValueError, match="push a transition before you sample"):
            memory.sample(1)
    with pytest.raises(ValueError, match="holds at least 1 transition"):
        ReplayMemory(0)


def test_memory_is_counted_before_it_is_allocated_and_refused_when_there_is_not_enough() -> None:
    columns = ring.transition_forms((4, 84, 84), np.dtype(np.uint8), 18)
    per_transition = 2 * 4 * 84 * 84 + 8 + 8 + 8 + 2 * 18
    assert ring.bytes_needed(1_000_000, columns) == 1_000_000 * per_transition
    memory = ReplayMemory(10, columns)
    assert sum(column.nbytes for column in memory.ring.columns) == 10 * per_transition
    ring.check_memory(10, columns)
    with pytest.raises(UprightError, match=r"needs 1048576.00 GiB, and .* available here: lower buffer_size"):
        ring.check_memory(2**50 // per_transition + 1, columns)


@given(
    capacity=st.integers(1, 10_000),
    # Half of the smallest number there is would be 0; priorities are at least ε^α.
    changes=st.lists(st.tuples(st.integers(0, 9_999), st.just(0.0) | st.floats(1e-9, 1e6)), min_size=1, max_size=50),
)
@TREES
def test_the_sum_tree_is_a_running_sum(make, capacity: int, changes: list[tuple[int, float]]) -> None:
    tree, plain = make(capacity), np.zeros(capacity)
    for place, value in changes:
        tree.set(np.array([place % capacity]), np.array([value]))
        plain[place % capacity] = value
    np.testing.assert_array_equal(tree[np.arange(capacity)], plain)
    assert tree.total == pytest.approx(plain.sum(), rel=1e-12)
    if plain.sum() > 0:
        # Halfway into each positive value's own share of the total lies that value.
        places = np.flatnonzero(plain > plain.sum() * 1e-9)
        middle = plain.cumsum()[places] - plain[places] / 2
        np.testing.assert_array_equal(tree.find(middle), places)


@given(values=st.lists(st.floats(0, 1e3), min_size=1, max_size=300).filter(any), seed=st.integers(0, 99))
@TREES
def test_the_sum_tree_never_finds_a_value_of_zero(make, values: list[float], seed: int) -> None:
    tree = make(len(values))
    tree.set(np.arange(len(values)), np.array(values))
    mass = np.concatenate([np.random.default_rng(seed).random(50) * tree.total, [0.0, np.nextafter(tree.total, 0)]])
    assert (tree[tree.find(mass)] > 0).all()


@given(
    capacity=st.integers(1, 5_000),
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 4_999), st.just(0.0) | st.floats(1e-9, 1e6)), min_size=1, max_size=80),
        min_size=1,
        max_size=4,
    ),
)
@TREES
def test_of_a_place_that_is_set_twice_the_last_value_counts(make, capacity: int, batches: list) -> None:
    tree, plain = make(capacity), np.zeros(capacity)
    for batch in batches:
        place, value = np.array([place % capacity for place, _ in batch]), np.array([value for _, value in batch])
        tree.set(place, value)
        for each, number in zip(place, value, strict=True):
            plain[each] = number
    np.testing.assert_array_equal(tree[np.arange(capacity)], plain)
    assert tree.total == pytest.approx(plain.sum(), rel=1e-12)
    tree.set(0, 7.5)
    assert tree[np.array([0])] == [7.5]


@needs_native
@given(
    values=st.lists(st.just(0.0) | st.floats(1e-6, 1e3), min_size=1, max_size=700).filter(any), seed=st.integers(0, 99)
)
def test_both_sum_trees_find_the_same(values: list[float], seed: int) -> None:
    trees = [make(len(values)) for make in (SumTree, native_tree)]
    for tree in trees:
        tree.set(np.arange(len(values)), np.array(values))
    assert trees[0].total == pytest.approx(trees[1].total, rel=1e-13)
    running = np.array(values).cumsum()
    mass = np.random.default_rng(seed).random(200) * running[-1]
    # The two add in different orders: a mass that lies on an edge may belong to either side.
    mass = mass[np.abs(mass[:, None] - running).min(axis=1) > 1e-12 * running[-1]]
    expected = running.searchsorted(mass, side="right")
    for tree in trees:
        np.testing.assert_array_equal(tree.find(mass), expected)


@needs_native
@pytest.mark.parametrize("capacity", [1, 15, 16, 17, 256, 257, 4_096, 5_000])
def test_both_sum_trees_draw_the_same_transitions(capacity: int, monkeypatch) -> None:
    random = np.random.default_rng(capacity)
    memories = []
    for make in (SumTree, native_tree):
        monkeypatch.setattr("upright.replay.prioritised.sum_tree", make)
        memories.append(ReplayMemory(capacity, seed=1, replay=Prioritised()))
        assert type(memories[-1].selector._tree) is type(make(1))
    for k in range(capacity + 40):
        for memory in memories:
            memory.push(*transition(k))
        if k % 20 == 0:
            left, right = (memory.sample(32, 0.5) for memory in memories)
            np.testing.assert_array_equal(left.place, right.place)
            np.testing.assert_allclose(left.weight, right.weight, rtol=1e-12)
            priority = random.exponential(size=32).astype(np.float32)
            for memory, batch in zip(memories, (left, right), strict=True):
                memory.reprioritise(batch, priority)


@needs_native
@pytest.mark.parametrize(
    ("method", "words", "error"),
    [
        ("set", (np.array([5]), np.array([1.0])), IndexError),
        ("set", (np.array([-1]), np.array([1.0])), IndexError),
        ("set", (np.array([0, 2**62]), np.array([1.0, 1.0])), IndexError),
        ("set", (np.array([0, 1]), np.array([1.0])), ValueError),
        ("set", (np.array([0, 1]), np.array([2.0, -1.0])), ValueError),
        ("set", (np.array([0]), np.array([np.nan])), ValueError),
        ("set", (np.array([0]), np.array([np.inf])), ValueError),
        ("set", (np.array([0.5]), np.array([1.0])), ValueError),
        ("set", (np.array([True]), np.array([1.0])), ValueError),
        ("set", (np.array([[0]]), np.array([[1.0]])), (ValueError, TypeError)),
        ("set", (np.array([0]), np.array([1j])), TypeError),
        ("set", (5, 1.0), IndexError),
        ("set", (-1, 1.0), IndexError),
        ("set", (0, np.nan), ValueError),
        ("set", (0, -1.0), ValueError),
        ("set", (0.5, 1.0), TypeError),
        ("set", (2**70, 1.0), TypeError),
        ("set", (None, None), TypeError),
        ("__getitem__", (np.array([5]),), IndexError),
        ("__getitem__", (np.array([-1]),), IndexError),
        ("__getitem__", (np.array([0.0]),), ValueError),
        ("__getitem__", (None,), TypeError),
        ("find", (None,), TypeError),
        ("find", (np.array([[1.0]]),), TypeError),
    ],
)
def test_the_native_sum_tree_refuses_what_does_not_fit(method: str, words: tuple, error: type) -> None:
    tree = native_tree(5)
    tree.set(np.arange(5), np.arange(5.0))
    with pytest.raises(error):
        getattr(tree, method)(*words)
    np.testing.assert_array_equal(tree[np.arange(5)], np.arange(5.0))
    assert tree.total == 10
    # A mass outside of [0, total) finds some place, and none outside of the tree.
    wild = tree.find(np.array([-1.0, 10.0, 1e300, np.inf, -np.inf, np.nan]))
    assert ((wild >= 0) & (wild < 5)).all()
    assert tree.find(np.zeros(0)).shape == tree[np.zeros(0, np.int64)].shape == (0,)


@needs_native
@pytest.mark.parametrize("capacity", [0, -1, -(2**62), 2**45, 2**62, 2**63, 2**70, 1.5, None])
def test_a_capacity_that_cannot_be_is_refused(capacity) -> None:
    with pytest.raises((ValueError, TypeError, MemoryError)):
        native_tree(capacity)


def prioritised(capacity: int, priorities: np.ndarray, settings: Prioritised) -> ReplayMemory:
    memory = ReplayMemory(capacity, seed=1, replay=settings)
    for k in range(len(priorities)):
        memory.push(*transition(k))
    everything = Batch(memory.ring.columns, np.arange(len(memory)), None)
    memory.reprioritise(everything, priorities)
    return memory


def test_prioritised_draws_follow_their_probabilities() -> None:
    """P(i) = pᵢ^α / Σ pₖ^α (Schaul 2016, eq. 1), over a million draws."""
    priorities = np.random.default_rng(0).exponential(size=200)
    memory = prioritised(200, priorities, Prioritised(alpha=0.6))
    expected = (priorities + 1e-6) ** 0.6
    counts = np.zeros(200)
    for _ in range(1_000):
        counts += np.bincount(memory.sample(1_000).place, minlength=200)
    # Stratified draws vary less than independent ones: the statistic may be small, never large.
    assert stats.chisquare(counts, 1_000_000 * expected / expected.sum()).pvalue > 1e-3
    singles = np.bincount(np.concatenate([memory.sample(1).place for _ in range(20_000)]), minlength=200)
    assert stats.chisquare(singles, 20_000 * expected / expected.sum()).pvalue > 1e-3


def test_importance_weights_undo_the_priorities() -> None:
    """w = (N P)^−β / max w, and Σ P w = 1/N Σ 1 when β = 1: the weighted mean is the uniform one."""
    priorities = np.array([1.0, 2.0, 4.0, 8.0])
    memory = prioritised(4, priorities, Prioritised(alpha=1.0, beta_initial=0.4, beta_final=1.0, epsilon=1e-12))
    for progress, beta in ((0.0, 0.4), (0.5, 0.7), (1.0, 1.0)):
        batch = memory.sample(4_000, progress)
        weight = (4 * priorities / 15) ** -beta
        np.testing.assert_allclose(batch.weight, (weight / weight[batch.place].max())[batch.place], rtol=1e-9)
    value = np.array([3.0, -1.0, 2.0, 10.0])
    batch = memory.sample(100_000, 1.0)
    assert np.average(value[batch.place], weights=batch.weight) == pytest.approx(value.mean(), abs=0.05)


def test_alpha_zero_is_uniform() -> None:
    memory = prioritised(64, np.arange(64.0), Prioritised(alpha=0.0))
    batch = memory.sample(64, 0.3)
    assert (batch.weight == 1).all()
    np.testing.assert_array_equal(np.sort(batch.place), np.arange(64))


def test_a_new_transition_has_the_largest_priority_so_far() -> None:
    memory = prioritised(8, np.array([1.0, 5.0, 2.0]), Prioritised(alpha=1.0, epsilon=1e-12))
    memory.push(*transition(3))
    np.testing.assert_allclose(memory.selector.priorities(4), [1, 5, 2, 5], rtol=1e-9)


# --- n-step, against brute force over the environments' own episodes, in every autoreset mode


def brute_force(episodes: list, steps: int, n: int, gamma: float, masks: bool, cuts: set[int]) -> list[tuple]:
    """All n-step transitions of the first `steps` steps of one environment that plays the episodes in turn.

    None goes past one of the steps in `cuts`, but the one that begins there.
    """
    expected, taken, episode = [], 0, 0
    while taken < steps:
        rewards, terminates = episodes[episode % len(episodes)]
        done = min(len(rewards), steps - taken)
        for t in range(len(rewards)):
            last = min([t + n, len(rewards), *(cut - taken for cut in cuts if cut - taken > t)])
            if last > done or (last == done < len(rewards) and last - t < n and taken + last not in cuts):
                continue  # what it waits for is yet to come
            terminal = last == len(rewards) and terminates
            value = sum(gamma**k * rewards[t + k] for k in range(last - t))
            discount = 0.0 if terminal else gamma ** (last - t)
            mask = [1, t % 2, (t + 1) % 2] if masks else None
            next_mask = [1, last % 2, (last + 1) % 2] if masks else None
            expected.append(([episode, t], value, discount, [episode, last], mask, next_mask))
        taken += done
        episode += 1
    return expected


@settings(max_examples=60)
@given(
    streams=st.lists(
        st.lists(
            st.tuples(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=6), st.booleans()),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=3,
    ),
    n=st.integers(1, 5),
    gamma=st.floats(0, 1),
    masks=st.booleans(),
    mode=st.sampled_from(["in process", *AutoresetMode]),
    random_steps=st.none() | st.sets(st.integers(0, 24)),
)
def test_n_step_transitions_are_those_of_brute_force(streams, n, gamma, masks, mode, random_steps) -> None:
    """`random_steps`: those at which every environment explores, if that cuts; else the same at random."""
    steps = 25
    environments = [
        Environment(Scripted(episodes, masks), "Scripted", 0, index) for index, episodes in enumerate(streams)
    ]
    if mode == "in process":
        vector = InProcess(environments)
    else:
        sync = SyncVectorEnv([lambda e=environment: e for environment in environments], autoreset_mode=mode)
        vector = Vectorised(sync, environments[0].observations, environments[0].actions)
    nstep = NStep(n, gamma, len(streams), {}, environments[0].actions.n, cut=random_steps is not None)
    obs, mask = vector.reset()
    found: list[list] = [[] for _ in streams]
    taken = np.zeros(len(streams), int)
    while (taken < steps).any():
        actions = np.zeros(len(streams), int)
        outcome = vector.step(actions)
        explored = [random_steps is None or k in random_steps for k in taken]
        taken += outcome.valid
        for i in range(len(streams)):
            alone = outcome._replace(valid=outcome.valid & (np.arange(len(streams)) == i))
            if taken[i] <= steps:
                found[i] += list(nstep.push(obs, actions, mask, alone, explored))
        obs, mask = outcome.obs, outcome.mask
    vector.close()
    for episodes, transitions in zip(streams, found, strict=True):
        expected = brute_force(episodes, steps, n, gamma, masks, random_steps or set())
        assert len(transitions) == len(expected)
        key = lambda each: tuple(each[0])
        for got, want in zip(sorted(transitions, key=lambda t: tuple(t.obs)), sorted(expected, key=key), strict=True):
            np.testing.assert_array_equal(got.obs, want[0])
            assert got.reward == pytest.approx(want[1], rel=1e-12, abs=1e-12)
            assert got.discount == pytest.approx(want[2], rel=1e-12)
            np.testing.assert_array_equal(got.next_obs, want[3])
            if masks:
                np.testing.assert_array_equal(got.mask, np.array(want[4], bool))
                np.testing.assert_array_equal(got.next_mask, np.array(want[5], bool))
            else:
                assert got.mask is None and got.next_mask is None


@pytest.mark.parametrize("kind", REPLAYS)
def test_a_transition_that_does_not_fit_leaves_whole_ones_alone(kind: str) -> None:
    memory = ReplayMemory(4, replay=REPLAYS[kind])
    for k in range(6):
        memory.push(*transition(k))
    before = [memory.ring.columns.take(np.array([place])) for place in range(4)]
    whole = [tuple(array.tobytes() for array in columns.named().values()) for columns in before]
    good = dict(zip(("obs", "action", "reward", "discount", "next_obs"), transition(9), strict=False))
    for wrong in ({"reward": "much"}, {"next_obs": np.zeros(99)}, {"action": None}, {"obs": [[1], [2, 3]]}):
        with pytest.raises(Misfit, match="The transition does not fit the memory"):
            memory.push(**{**good, **wrong})
    after = [memory.ring.columns.take(np.array([place])) for place in range(4)]
    for columns in after:
        assert tuple(array.tobytes() for array in columns.named().values()) in whole
    memory.push(**good)
    assert len(memory) == 4 and memory.ring.columns.reward[memory.ring.pushed - 1 & 3] == good["reward"]
