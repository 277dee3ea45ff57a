"""The papers' equations: numbers worked out by hand, brute force, identities, and gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configurations import VARIANTS, bootstrapped, bootstraps
from upright.learners.torch.losses import (
    Predictions,
    Transitions,
    _distributional_target,
    action_values,
    categorical_loss,
    categorical_projection,
    categorical_support,
    chosen,
    double_q_target,
    huber,
    masked,
    midpoints,
    munchausen_bonus,
    munchausen_target,
    q_learning_target,
    quantile_loss,
    soft_policy,
    temporal_difference,
)
from upright.settings.kinds import Categorical, ImplicitQuantile, Munchausen, QLearning, Quantile

torch.set_num_threads(1)

BATCH, ACTIONS = 6, 4
LN2, LN3 = math.log(2), math.log(3)

DISTRIBUTIONS = {name: loss for name, loss in VARIANTS.items() if loss.outputs is not None}
SETTINGS = Munchausen(alpha=0.7, temperature=0.8, clip=-0.9)

every_bootstrap = pytest.mark.parametrize(
    ("kind", "bootstrap"), [(kind, bootstrap) for kind, loss in VARIANTS.items() for bootstrap in bootstraps(loss)]
)
every_distribution = pytest.mark.parametrize("kind", DISTRIBUTIONS)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def allowed(values):
    return torch.tensor(values, dtype=torch.bool)


def assert_equal(actual, expected, tolerance=1e-12):
    expected = expected if isinstance(expected, torch.Tensor) else tensor(expected)
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_transitions(seed=0, with_masks=False, actions=ACTIONS):
    """A batch whose action is always allowed, as is at least one next action."""
    generator = torch.Generator().manual_seed(seed)
    action = torch.randint(actions, (BATCH,), generator=generator)
    mask = next_mask = None
    if with_masks:
        mask, next_mask = (torch.rand(BATCH, actions, generator=generator) < 0.5 for _ in range(2))
        mask[torch.arange(BATCH), action] = True
        next_mask[torch.arange(BATCH), torch.randint(actions, (BATCH,), generator=generator)] = True
    return Transitions(action, normal(BATCH, seed=seed + 1), uniform(BATCH, seed=seed + 2), mask, next_mask)


def random_predictions(loss, bootstrap, seed=0, actions=ACTIONS):
    """What two networks might say, consistent with itself: q_next is the mean of what chooses the next action."""
    online_shape = target_shape = (BATCH, actions)
    fractions = None
    if (asked := loss.fractions) is not None:
        online_shape, target_shape = (BATCH, actions, asked.online), (BATCH, actions, asked.target)
        fractions = uniform(BATCH, asked.online, seed=seed + 10)
    elif (count := loss.outputs) is not None:
        online_shape = target_shape = (BATCH, actions, count)
        fractions = midpoints(count, tensor(0.0))
    target_next = normal(*target_shape, seed=seed + 11)
    q_next = action_values(loss, target_next)
    return Predictions(
        online=normal(*online_shape, seed=seed + 12),
        fractions=fractions,
        target_next=target_next,
        q_next=normal(BATCH, actions, seed=seed + 13) if bootstrap == "double" else q_next,
        q=normal(BATCH, actions, seed=seed + 14) if bootstrap == "munchausen" else None,
    )


def settings_for(kind, bootstrap):
    """The loss of that kind, and Munchausen's settings, for a bootstrap."""
    settings = bootstrapped(VARIANTS[kind], bootstrap, SETTINGS)
    return settings["loss"], settings["munchausen"]


# Selecting


def test_chosen_takes_the_entry_of_the_action():
    scalars = tensor([[1, 2, 3], [4, 5, 6]])
    assert_equal(chosen(scalars, torch.tensor([2, 0])), [3, 4])
    distributions = torch.stack([scalars, -scalars], dim=2)
    assert_equal(chosen(distributions, torch.tensor([2, 0])), [[3, -3], [4, -4]])


def test_masked_is_minus_infinity_where_forbidden():
    q = tensor([[1, 2], [3, 4]])
    assert masked(q, None) is q
    assert_equal(masked(q, allowed([[True, False], [False, True]])), [[1, -math.inf], [-math.inf, 4]])


# Targets for a scalar Q

REWARD, DISCOUNT = tensor([1, -2]), tensor([0.5, 0.9])
Q_NEXT = tensor([[2, 4, 3], [-1, -3, -2]])
Q_NEXT_ONLINE = tensor([[5, 1, 0], [0, 2, 9]])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, [3.0, -2.9]),  # 1 + 0.5·4, −2 + 0.9·(−1)
        ([[True, False, True], [False, True, True]], [2.5, -3.8]),  # 1 + 0.5·3, −2 + 0.9·(−2)
    ],
)
def test_q_learning_target(mask, expected):
    mask = mask and allowed(mask)
    assert_equal(q_learning_target(REWARD, DISCOUNT, Q_NEXT, mask), expected)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, [2.0, -3.8]),  # online's best are 0 and 2: 1 + 0.5·2, −2 + 0.9·(−2)
        ([[False, True, True], [True, True, False]], [3.0, -4.7]),  # 1 and 1: 1 + 0.5·4, −2 + 0.9·(−3)
    ],
)
def test_double_q_target(mask, expected):
    mask = mask and allowed(mask)
    assert_equal(double_q_target(REWARD, DISCOUNT, Q_NEXT, Q_NEXT_ONLINE, mask), expected)


@pytest.mark.parametrize("with_masks", [False, True])
def test_double_is_plain_when_both_networks_agree(with_masks):
    batch, q = random_transitions(3, with_masks), normal(BATCH, ACTIONS, seed=3)
    plain = q_learning_target(batch.reward, batch.discount, q, batch.next_mask)
    assert torch.equal(double_q_target(batch.reward, batch.discount, q, q, batch.next_mask), plain)
    # The choice depends on the order of the online values alone.
    assert torch.equal(double_q_target(batch.reward, batch.discount, q, 3 * q + 1, batch.next_mask), plain)


@pytest.mark.parametrize("huge", [1e200, -1e200])
def test_a_terminal_target_is_the_reward(huge):
    reward, nothing, q_next = tensor([1.5]), tensor([0.0]), tensor([[huge, 1.0]])
    action, q = torch.tensor([0]), tensor([[0.0, -1e9]])  # a certain action: its bonus is 0
    assert_equal(q_learning_target(reward, nothing, q_next), [1.5], 0)
    assert_equal(double_q_target(reward, nothing, q_next, -q_next), [1.5], 0)
    assert_equal(munchausen_target(SETTINGS, reward, nothing, action, q, q_next), [1.5], 0)


# Munchausen

# At temperature 1/2 the values 0 and ln(3)/2 have logits 0 and ln 3: the policy is 1/4, 3/4.
Q = tensor([[0.0, LN3 / 2]])


def test_soft_policy():
    probability, scaled_log = soft_policy(Q, 0.5)
    assert_equal(probability, [[0.25, 0.75]])
    assert_equal(scaled_log, [[-LN2, math.log(0.75) / 2]])


def test_soft_policy_gives_a_forbidden_action_exactly_nothing():
    q, mask = tensor([[0.0, 99.0, LN3 / 2]]), allowed([[True, False, True]])
    probability, scaled_log = soft_policy(q, 0.5, mask)
    assert probability[0, 1] == 0
    assert scaled_log[0, 1] == 0
    assert_equal(probability, [[0.25, 0.0, 0.75]])
    assert_equal(scaled_log, [[-LN2, 0.0, math.log(0.75) / 2]])


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(0.01, 10))
@settings(deadline=None)
def test_soft_policy_is_the_exponential_of_its_logarithm_and_sums_to_one(values, temperature):
    probability, scaled_log = soft_policy(tensor([values]), temperature)
    assert_equal(probability.sum(), 1.0)
    assert_equal((scaled_log / temperature).exp(), probability)


def test_soft_policy_tends_to_the_greedy_one():
    q = tensor([[1.0, 1.001, -5.0]])
    # The runner-up's odds are exp(−0.001/τ).
    odds = math.exp(-10)
    assert_equal(soft_policy(q, 1e-4).probability, [[odds / (1 + odds), 1 / (1 + odds), 0.0]])
    assert_equal(soft_policy(q, 1e-6).probability, [[0.0, 1.0, 0.0]])
    assert_equal(soft_policy(q, 1e-6).scaled_log, [[-0.001, 0.0, -6.001]])


@pytest.mark.parametrize(
    ("action", "clip", "mask", "expected"),
    [
        (0, -1.0, None, -0.9 * LN2),  # 0.9 · ln(1/4)/2
        (1, -1.0, None, 0.45 * math.log(0.75)),  # 0.9 · ln(3/4)/2
        (0, -0.5, None, -0.45),  # −ln 2 is below the clip of −0.5
        (0, 0.0, None, 0.0),
        (1, -1.0, [[False, True]], 0.0),  # the only action is certain
    ],
)
def test_munchausen_bonus(action, clip, mask, expected):
    settings = Munchausen(alpha=0.9, temperature=0.5, clip=clip)
    assert_equal(munchausen_bonus(settings, Q, torch.tensor([action]), mask and allowed(mask)), [expected])


@pytest.mark.parametrize(
    ("clip", "mask", "next_mask", "expected"),
    [
        # The soft value is τ ln Σ exp(q/τ) = ln(1 + 3)/2 = ln 2: 1 − 0.9 ln 2 + 0.5 ln 2
        (-1.0, None, None, 1 - 0.4 * LN2),
        (-0.5, None, None, 1 - 0.45 + 0.5 * LN2),
        (-1.0, [[True, False]], None, 1 + 0.5 * LN2),
        (-1.0, None, [[True, False]], 1 - 0.9 * LN2),  # the next value is q = 0
        (-1.0, [[True, False]], [[False, True]], 1 + 0.25 * LN3),  # the next value is q = ln(3)/2
    ],
)
def test_munchausen_target(clip, mask, next_mask, expected):
    settings = Munchausen(alpha=0.9, temperature=0.5, clip=clip)
    masks = mask and allowed(mask), next_mask and allowed(next_mask)
    target = munchausen_target(settings, tensor([1.0]), tensor([0.5]), torch.tensor([0]), Q, Q, *masks)
    assert_equal(target, [expected])


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize("temperature", [10.0, 1.0, 1e-2, 1e-4, 1e-9])
def test_munchausen_without_bonus_tends_to_the_greedy_target(temperature, with_masks):
    batch, q, q_next = random_transitions(5, with_masks), normal(BATCH, ACTIONS, seed=6), normal(BATCH, ACTIONS, seed=7)
    reward, discount, action, mask, next_mask = batch.reward, batch.discount, batch.action, batch.mask, batch.next_mask
    settings = Munchausen(alpha=0.0, temperature=temperature)
    soft = munchausen_target(settings, reward, discount, action, q, q_next, mask, next_mask)
    excess = soft - q_learning_target(reward, discount, q_next, next_mask)
    # max q ≤ τ ln Σ exp(q/τ) ≤ max q + τ ln A
    assert (excess >= -1e-12).all()
    assert (excess <= discount * temperature * math.log(ACTIONS) + 1e-12).all()


# Errors and distributions


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (1.0, [2.5, 0.5, 0.125, 0.0, 1.5]),  # 1·(3 − 1/2), 1/2, 1/8, 0, 1·(2 − 1/2)
        (2.0, [4.0, 0.5, 0.125, 0.0, 2.0]),  # 2·(3 − 1), 1/2, 1/8, 0, 4/2
    ],
)
def test_huber(threshold, expected):
    assert_equal(huber(tensor([-3, -1, -0.5, 0, 2]), threshold), expected)


def test_midpoints():
    assert_equal(midpoints(4, tensor(0.0)), [0.125, 0.375, 0.625, 0.875])
    assert_equal(midpoints(1, tensor(0.0)), [0.5])


def test_categorical_support():
    assert_equal(categorical_support(Categorical(atoms=5, v_min=-1, v_max=1), tensor(0.0)), [-1.0, -0.5, 0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("loss", "output", "expected"),
    [
        (QLearning(), [[3.0, -4.0]], [[3.0, -4.0]]),
        # ln 2 has twice the odds of 0: probabilities 1/4, 1/4, 1/2 and 1/2, 1/4, 1/4 of −1, 0, 1
        (Categorical(atoms=3, v_min=-1, v_max=1), [[[0.0, 0.0, LN2], [LN2, 0.0, 0.0]]], [[0.25, -0.25]]),
        (Quantile(quantiles=3), [[[1.0, 2.0, 6.0], [0.0, 0.0, -3.0]]], [[3.0, -1.0]]),
        (ImplicitQuantile(), [[[1.0, 2.0, 6.0], [0.0, 0.0, -3.0]]], [[3.0, -1.0]]),
    ],
)
def test_action_values(loss, output, expected):
    assert_equal(action_values(loss, tensor(output)), expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, [0, 1, 0, 0]),
        (-1.0, [1, 0, 0, 0]),
        (2.0, [0, 0, 0, 1]),
        (0.25, [0, 0.75, 0.25, 0]),
        (1.5, [0, 0, 0.5, 0.5]),
        (-7.0, [1, 0, 0, 0]),
        (2.001, [0, 0, 0, 1]),
    ],
)
def test_categorical_projection_of_one_value(value, expected):
    assert_equal(categorical_projection(tensor([[value]]), tensor([[1.0]]), tensor([-1, 0, 1, 2])), [expected])


def test_categorical_projection_adds_up_what_meets():
    values, mass = tensor([[0, 0.25, 1.5, -7, 9]]), tensor([[0.1, 0.2, 0.3, 0.15, 0.25]])
    # −1: 0.15 · 0: 0.1 + 0.75·0.2 · 1: 0.25·0.2 + 0.5·0.3 · 2: 0.5·0.3 + 0.25
    expected = [[0.15, 0.25, 0.2, 0.4]]
    assert_equal(categorical_projection(values, mass, tensor([-1, 0, 1, 2])), expected)


def bellemare_projection(values, probability, v_min, v_max, atoms):
    """Bellemare 2017, algorithm 1, for one sample (with the mass of a value that meets an atom, lost in print)."""
    projected = np.zeros(atoms)
    spacing = (v_max - v_min) / (atoms - 1)
    for value, mass in zip(values, probability, strict=True):
        position = min((min(max(value, v_min), v_max) - v_min) / spacing, atoms - 1)
        lower, upper = math.floor(position), math.ceil(position)
        if lower == upper:
            projected[lower] += mass
        else:
            projected[lower] += mass * (upper - position)
            projected[upper] += mass * (position - lower)
    return projected


@st.composite
def supports(draw):
    v_min, width = draw(st.floats(-100, 100)), draw(st.floats(0.5, 200))
    return Categorical(atoms=draw(st.integers(2, 60)), v_min=v_min, v_max=v_min + width)


@st.composite
def distributions(draw, elements):
    values = draw(st.lists(elements, min_size=1, max_size=20))
    mass = np.array(draw(st.lists(st.floats(0.01, 1), min_size=len(values), max_size=len(values))))
    return np.array(values), mass / mass.sum()


@given(supports(), distributions(st.floats(-500, 500)))
@settings(deadline=None)
def test_categorical_projection_is_the_papers_algorithm_and_keeps_the_mass(loss, distribution):
    values, probability = distribution
    support = categorical_support(loss, tensor(0.0))
    projected = categorical_projection(tensor(values)[None], tensor(probability)[None], support)
    assert_equal(projected.sum(), 1.0)
    assert (projected >= 0).all()
    assert_equal(projected[0], tensor(bellemare_projection(*distribution, loss.v_min, loss.v_max, loss.atoms)), 1e-10)


@given(supports(), distributions(st.floats(0, 1)))
@settings(deadline=None)
def test_categorical_projection_keeps_the_mean_within_the_support(loss, distribution):
    share, probability = distribution
    values = loss.v_min + share * (loss.v_max - loss.v_min)
    support = categorical_support(loss, tensor(0.0))
    projected = categorical_projection(tensor(values)[None], tensor(probability)[None], support)
    assert_equal(projected[0] @ support, float(values @ probability), 1e-10)


def test_categorical_projection_keeps_a_batch_apart():
    values, probability = 3 * normal(BATCH, 9, seed=1), torch.softmax(normal(BATCH, 9, seed=2), dim=1)
    support = categorical_support(Categorical(atoms=5, v_min=-3, v_max=4), values)
    rows = [categorical_projection(values[i : i + 1], probability[i : i + 1], support) for i in range(BATCH)]
    assert torch.equal(categorical_projection(values, probability, support), torch.cat(rows))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ([0.5, 0.5], math.log(4 / 3) / 2),  # (ln(1/2 / 1/4) + ln(1/2 / 3/4))/2 = (ln 2 + ln(2/3))/2
        ([0.0, 1.0], math.log(4 / 3)),
        ([1.0, 0.0], 2 * LN2),
        ([0.25, 0.75], 0.0),
    ],
)
def test_categorical_loss(target, expected):
    assert_equal(categorical_loss(tensor([[0.0, LN3]]), tensor([target])), [expected])  # p = 1/4, 3/4


def test_categorical_loss_descends_from_prediction_to_target():
    logits = normal(BATCH, 7, seed=1).requires_grad_()
    target = torch.softmax(normal(BATCH, 7, seed=2), dim=1)
    target[:, 3] = 0
    target /= target.sum(dim=1, keepdim=True)
    categorical_loss(logits, target).sum().backward()
    assert_equal(logits.grad, torch.softmax(logits.detach(), dim=1) - target)


@pytest.mark.parametrize(
    ("kappa", "expected"),
    [
        # θ = 0, 1 · τ = 1/4, 3/4 · y = −1/2, 3: u = −0.5, 3 | −1.5, 2 with weights 0.75, 0.25 | 0.25, 0.75
        (0.0, 1.5),  # (0.75·0.5 + 0.25·3)/2 + (0.25·1.5 + 0.75·2)/2 = 0.5625 + 0.9375
        (1.0, 1.046875),  # (0.75·0.125 + 0.25·2.5)/2 + (0.25·1 + 0.75·1.5)/2 = 0.359375 + 0.6875
        (2.0, 0.71875),  # (0.75·0.0625 + 0.25·2)/2 + (0.25·0.5625 + 0.75·1)/2 = 0.2734375 + 0.4453125
    ],
)
def test_quantile_loss(kappa, expected):
    quantiles, fractions, target = tensor([[0, 1]]), tensor([0.25, 0.75]), tensor([[-0.5, 3]])
    assert_equal(quantile_loss(quantiles, fractions, target, kappa), [expected])
    assert_equal(quantile_loss(quantiles, fractions[None], target, kappa), [expected])


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shared_fractions", [True, False])
def test_quantile_loss_by_brute_force(kappa, shared_fractions):
    quantiles, target = normal(BATCH, 4, seed=1), normal(BATCH, 7, seed=2)
    fractions = uniform(4, seed=3) if shared_fractions else uniform(BATCH, 4, seed=3)
    expected = []
    for b in range(BATCH):
        total = 0.0
        for i in range(4):
            fraction = float(fractions[i] if shared_fractions else fractions[b, i])
            for j in range(7):
                error = float(target[b, j] - quantiles[b, i])
                size = abs(error)
                if kappa:
                    size = error**2 / (2 * kappa) if size <= kappa else size - kappa / 2
                total += abs(fraction - (error < 0)) * size / 7
        expected.append(total)
    assert_equal(quantile_loss(quantiles, fractions, target, kappa), expected)


def test_quantile_regression_is_at_rest_at_the_true_quantiles():
    sample = tensor([[-3.0, -1.0, 0.5, 0.75, 2.0, 4.0, 9.0, 10.0]])
    fractions = midpoints(4, sample)  # 1/8, 3/8, 5/8, 7/8: between the 1st and 2nd, 3rd and 4th, … of 8
    between = (sample[:, 0::2] + sample[:, 1::2]) / 2

    def gradient(quantiles):
        quantiles = quantiles.clone().requires_grad_()
        quantile_loss(quantiles, fractions, sample, kappa=0.0).sum().backward()
        return quantiles.grad

    assert_equal(gradient(between), torch.zeros(1, 4, dtype=torch.float64))
    # One order statistic too far weighs 1/8, towards the quantile.
    assert_equal(gradient(sample[:, 1::2] + 0.01), [[0.125] * 4])
    assert_equal(gradient(sample[:, 0::2] - 0.01), [[-0.125] * 4])


# The loss that the settings name


def test_temporal_difference_of_a_scalar():
    predictions = Predictions(tensor([[9.0, 0.5]]), None, tensor([[2.0, 4.0]]), tensor([[1.0, 0.0]]), None)
    batch = Transitions(torch.tensor([1]), tensor([1.0]), tensor([0.5]), None, None)
    # δ = 1 + 0.5·4 − 0.5 = 2.5, and with double 1 + 0.5·2 − 0.5 = 1.5
    for loss, per_sample, priority in (
        (QLearning(error="huber"), 2.0, 2.5),
        (QLearning(error="squared"), 3.125, 2.5),
        (QLearning(error="huber", double=True), 1.0, 1.5),
        (QLearning(error="squared", double=True), 1.125, 1.5),
    ):
        actual = temporal_difference(loss, None, predictions, batch)
        assert_equal(actual[0], [per_sample])
        assert_equal(actual[1], [priority])


def test_temporal_difference_of_atoms():
    loss = Categorical(atoms=3, v_min=-1, v_max=1)
    online = torch.zeros(1, 2, 3, dtype=torch.float64)
    online[0, 0] = 7
    # The target network is all but sure of 1 after action 0 and of −1 after action 1.
    target_next = tensor([[[0.0, 0.0, 1e3], [1e3, 0.0, 0.0]]])
    batch = Transitions(torch.tensor([1]), tensor([0.25]), tensor([0.5]), None, None)
    # 0.25 + 0.5·1 = 0.75 shares its mass as 0, 1/4, 3/4: ln 3 − H; −0.25 as 1/4, 3/4, 0, with the same entropy
    entropy = 2 * LN2 - 0.75 * LN3
    for q_next in (tensor([[1.0, 0.0]]), tensor([[0.0, 1.0]])):
        per_sample, priority = temporal_difference(
            loss, None, Predictions(online, None, target_next, q_next, None), batch
        )
        assert_equal(per_sample, [LN3 - entropy])
        assert_equal(priority, [LN3 - entropy])
    # A prediction tells the two apart: 1/6, 1/3, 1/2 costs Σ m ln(m/p)
    online[0, 1] = tensor([0.0, LN2, LN3])
    for q_next, cross_entropy in (
        (tensor([[1.0, 0.0]]), 0.25 * LN3 + 0.75 * LN2),
        (tensor([[0.0, 1.0]]), 0.25 * (LN2 + LN3) + 0.75 * LN3),
    ):
        per_sample, _ = temporal_difference(loss, None, Predictions(online, None, target_next, q_next, None), batch)
        assert_equal(per_sample, [cross_entropy - entropy])


def test_temporal_difference_of_quantiles():
    # The target is 1 + 0.5·(−3, 4) = −0.5, 3 after action 1: the numbers of test_quantile_loss
    online = tensor([[[0.0, 1.0], [7.0, 8.0]]])
    predictions = Predictions(
        online, tensor([0.25, 0.75]), tensor([[[50.0, 60.0], [-3.0, 4.0]]]), tensor([[0.0, 1.0]]), None
    )
    batch = Transitions(torch.tensor([0]), tensor([1.0]), tensor([0.5]), None, None)
    for kappa, expected in ((0.0, 1.5), (1.0, 1.046875)):
        for loss in (Quantile(quantiles=2, kappa=kappa), ImplicitQuantile(kappa=kappa)):
            per_sample, priority = temporal_difference(loss, None, predictions, batch)
            assert_equal(per_sample, [expected])
            assert_equal(priority, [expected])


@every_bootstrap
@pytest.mark.parametrize("with_masks", [False, True])
def test_gradient_is_that_of_finite_differences(kind, bootstrap, with_masks):
    loss, munchausen = settings_for(kind, bootstrap)
    predictions, batch = random_predictions(loss, bootstrap), random_transitions(0, with_masks)

    def per_sample(online):
        return temporal_difference(loss, munchausen, predictions._replace(online=online), batch)[0]

    assert torch.autograd.gradcheck(per_sample, predictions.online.requires_grad_(), rtol=1e-6, atol=1e-8)


@every_bootstrap
def test_only_the_chosen_action_of_the_online_network_has_a_gradient(kind, bootstrap):
    loss, munchausen = settings_for(kind, bootstrap)
    predictions, batch = random_predictions(loss, bootstrap), random_transitions()
    for each in predictions:
        if each is not None:
            each.requires_grad_()
    per_sample, priority = temporal_difference(loss, munchausen, predictions, batch)
    per_sample.sum().backward()
    assert not priority.requires_grad
    assert [predictions.target_next.grad, predictions.q_next.grad] == [None, None]
    assert predictions.q is None or predictions.q.grad is None
    untouched = torch.ones(BATCH, ACTIONS, dtype=torch.bool)
    untouched[torch.arange(BATCH), batch.action] = False
    assert not predictions.online.grad[untouched].any()
    touched = predictions.online.grad[~untouched].view(BATCH, -1)
    assert touched.any(dim=1).all()


@every_bootstrap
def test_priority_is_the_error_of_a_scalar_and_the_loss_of_a_distribution(kind, bootstrap):
    loss, munchausen = settings_for(kind, bootstrap)
    predictions, batch = random_predictions(loss, bootstrap), random_transitions(1, with_masks=True)
    per_sample, priority = temporal_difference(loss, munchausen, predictions, batch)
    assert per_sample.shape == priority.shape == (BATCH,)
    if kind in DISTRIBUTIONS:
        assert torch.equal(priority, per_sample)
        return
    assert (priority >= 0).all()
    if not isinstance(loss, QLearning):
        return
    reward, discount, q_next = batch.reward, batch.discount, predictions.target_next
    target = {
        "greedy": lambda: q_learning_target(reward, discount, q_next, batch.next_mask),
        "double": lambda: double_q_target(reward, discount, q_next, predictions.q_next, batch.next_mask),
        "munchausen": lambda: munchausen_target(
            SETTINGS, reward, discount, batch.action, predictions.q, q_next, batch.mask, batch.next_mask
        ),
    }[bootstrap]()
    error = target - chosen(predictions.online, batch.action)
    assert torch.equal(priority, error.abs())
    assert_equal(per_sample, huber(error) if loss.error == "huber" else error**2 / 2)


def with_forbidden_action(loss, predictions, batch):
    """The same batch with one action more, which promises most of all and is never allowed."""

    def extended(values, extra):
        return None if values is None else torch.cat([values, torch.full_like(values[:, :1], extra)], dim=1)

    def extended_mask(mask):
        mask = torch.ones(BATCH, ACTIONS, dtype=torch.bool) if mask is None else mask
        return torch.cat([mask, torch.zeros(BATCH, 1, dtype=torch.bool)], dim=1)

    target_next = extended(predictions.target_next, 1e6)
    if isinstance(loss, Categorical):
        target_next[:, -1] = tensor([0.0] * (loss.atoms - 1) + [1e6])
    return (
        predictions._replace(
            online=extended(predictions.online, 1e6),
            target_next=target_next,
            q_next=extended(predictions.q_next, 1e6),
            q=extended(predictions.q, 1e6),
        ),
        batch._replace(mask=extended_mask(batch.mask), next_mask=extended_mask(batch.next_mask)),
    )


@every_bootstrap
@pytest.mark.parametrize("with_masks", [False, True])
def test_a_forbidden_action_might_as_well_not_exist(kind, bootstrap, with_masks):
    loss, munchausen = settings_for(kind, bootstrap)
    predictions, batch = random_predictions(loss, bootstrap), random_transitions(2, with_masks)
    expected = temporal_difference(loss, munchausen, predictions, batch)
    tempting, masks = with_forbidden_action(loss, predictions, batch)
    actual = temporal_difference(loss, munchausen, tempting, masks)
    assert_equal(actual[0], expected[0])
    assert_equal(actual[1], expected[1])
    # Without the mask the temptation wins: the equality above is the mask's doing.
    yielded = temporal_difference(loss, munchausen, tempting, masks._replace(mask=None, next_mask=None))
    assert ((yielded[0] - expected[0]).abs() > 1e-3).all()


@every_bootstrap
def test_a_terminal_transition_ignores_the_next_state(kind, bootstrap):
    loss, munchausen = settings_for(kind, bootstrap)
    predictions = random_predictions(loss, bootstrap)
    batch = random_transitions()._replace(discount=torch.zeros(BATCH, dtype=torch.float64))
    expected = temporal_difference(loss, munchausen, predictions, batch)
    for seed, scale in ((20, 1.0), (21, 1e100)):
        other = random_predictions(loss, bootstrap, seed)
        changed = predictions._replace(target_next=scale * other.target_next, q_next=scale * other.q_next)
        actual = temporal_difference(loss, munchausen, changed, batch)
        assert_equal(actual[0], expected[0])
        assert_equal(actual[1], expected[1])


@every_distribution
@pytest.mark.parametrize("with_masks", [False, True])
@given(st.integers(0, 2**32), st.floats(0, 1), st.floats(0.05, 2), st.floats(-2, 0))
@settings(deadline=None, max_examples=30)
def test_munchausens_distribution_has_the_scalar_targets_mean(kind, with_masks, seed, alpha, temperature, clip):
    loss, munchausen = DISTRIBUTIONS[kind], Munchausen(alpha=alpha, temperature=temperature, clip=clip)
    predictions, batch = random_predictions(loss, "munchausen", seed), random_transitions(seed, with_masks)
    values, probability = _distributional_target(loss, munchausen, predictions, batch)
    assert_equal(probability.sum(dim=1), [1.0] * BATCH)
    expected = munchausen_target(
        munchausen,
        batch.reward,
        batch.discount,
        batch.action,
        predictions.q,
        action_values(loss, predictions.target_next),
        batch.mask,
        batch.next_mask,
    )
    assert_equal((values * probability).sum(dim=1), expected, 1e-11)
    if isinstance(loss, Categorical):
        wide = categorical_support(Categorical(atoms=41, v_min=-100, v_max=100), values)
        assert_equal(categorical_projection(values, probability, wide) @ wide, expected, 1e-11)


@every_distribution
def test_greedy_and_double_targets_are_the_distribution_of_the_chosen_action(kind):
    for bootstrap in ("greedy", "double"):
        loss, _ = settings_for(kind, bootstrap)
        predictions, batch = random_predictions(loss, bootstrap), random_transitions(4, with_masks=True)
        values, probability = _distributional_target(loss, None, predictions, batch)
        for b in range(BATCH):
            permitted = [a for a in range(ACTIONS) if batch.next_mask[b, a]]
            best = max(permitted, key=lambda a, b=b: float(predictions.q_next[b, a]))
            output = predictions.target_next[b, best]
            if isinstance(loss, Categorical):
                atoms, mass = categorical_support(loss, output), torch.softmax(output, dim=0)
            else:
                atoms, mass = output, torch.full_like(output, 1 / len(output))
            assert_equal(values[b], batch.reward[b] + batch.discount[b] * atoms)
            assert_equal(probability[b], mass)
