"""The torch learner: equal to PyTorch written out plainly, step for step; deterministic; true to a network of yours."""

import copy
import itertools
import math
import re

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from configurations import (
    BOOTSTRAPPED,
    BOOTSTRAPS,
    EVERYTHING,
    LOSSES,
    PROBLEM,
    REPLAYS,
    STATES,
    bootstrapped,
    bootstraps,
    plain,
)
from engines import ENGINES
from learner_properties import advance, assert_a_state_goes_on, assert_equal_states, random_batch
from upright.errors import SettingError
from upright.learners import make_learner, moments
from upright.learners.initialisation import initial_parameters
from upright.learners.layout import parameter_shapes
from upright.learners.problem import Problem
from upright.learners.torch.losses import Predictions, Transitions, action_values, temporal_difference
from upright.replay import Batch, Columns
from upright.settings.kinds import Categorical, ImplicitQuantile, Munchausen, Prioritised, QLearning, Quantile
from upright.settings.presets import preset
from upright.state import noise_generator

torch.set_num_threads(1)


def perceptron(dtype=torch.float64, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def flat(learner):
    return np.concatenate([value.ravel() for value in learner.parameters().values()])


def displacement(config, batch, network=None):
    """How far one update moves the parameters."""
    learner = make_learner(config, PROBLEM, 0, network if network is not None else perceptron())
    before = flat(learner)
    learner.update(batch, config.learning_rate)
    return flat(learner) - before


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(actual, expected, tolerance=0.0):
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        torch.testing.assert_close(
            value, expected[name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


# Nature's optimiser


def natures_step(gradients, rate):
    """The last of these steps of centred RMSprop as Mnih 2015's code takes them with a batch's sum, and the variance."""
    mean = square = 0.0
    for gradient in gradients:
        mean = 0.95 * mean + 0.05 * gradient
        square = 0.95 * square + 0.05 * gradient**2
    variance = square - mean**2
    return rate * gradients[-1] / np.sqrt(variance + 0.01), variance


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [1e-3, 1e-1, 3.0, 1e4])
def test_the_dqn_presets_steps_are_natures(engine, scale):
    """At most 1/√2 shorter, for the constant stands beside the root, and alike where the variance is far from it."""
    dqn = preset("dqn").override(net_arch=(), engine=engine, device="cpu")
    learner = make_learner(dqn, PROBLEM, 0)
    gradients = []
    for update in range(5):
        observations = scale * np.random.default_rng(update).standard_normal((32, 4), np.float32)
        # Errors beyond ±1, whose clipped gradient is ±1, whatever the parameters are.
        rewards = np.where(np.arange(32) % 3, 1e9, -1e9)
        batch = random_batch(32, update, obs=observations, reward=rewards, discount=np.zeros(32))
        # Plain descent at rate 1 moves the parameters by the mean gradient.
        plain_descent = make_learner(dqn.override(optimizer="sgd"), PROBLEM, 0)
        start = flat(plain_descent)
        plain_descent.update(batch, 1.0)
        gradients.append(32 * (start - flat(plain_descent)).astype(np.float64))
        expected, variance = natures_step(gradients, dqn.learning_rate)
        before = flat(learner).astype(np.float64)
        learner.update(batch, dqn.learning_rate)
        exact = np.abs(expected) > 1e-5 * np.abs(before)  # in float32
        ratio = (before - flat(learner))[exact] / expected[exact]
        assert ratio.min() > 0.7 and ratio.max() < 1.01
        far = np.abs(np.log10(variance[exact] / 0.01)) > 3
        assert far.any() or scale in (1e-1, 3.0)
        assert (ratio[far] > 0.96).all()


# The PyTorch tutorial


class Tutorial(nn.Module):
    """The network of the PyTorch tutorial "Reinforcement Learning (DQN)"."""

    def __init__(self):
        super().__init__()
        self.layer1, self.layer2, self.layer3 = nn.Linear(4, 128), nn.Linear(128, 128), nn.Linear(128, 3)

    def forward(self, x):
        return self.layer3(torch.relu(self.layer2(torch.relu(self.layer1(x)))))


@pytest.mark.parametrize(
    ("network", "largest_scale", "tolerance"),
    [
        (None, 1.0, 1e-6),
        # In float64 even the clipping at 100, which large observations reach, agrees to rounding.
        (lambda problem: Tutorial().double(), 3_000.0, 1e-12),
    ],
    ids=["float32", "float64-clipped"],
)
def test_the_tutorial_preset_is_the_tutorials_own_update(network, largest_scale, tolerance):
    config = preset("tutorial").override(engine="torch", device="cpu")
    learner = make_learner(config, PROBLEM, 0, network)
    dtype = torch.float32 if network is None else torch.float64
    policy, target = Tutorial().to(dtype), Tutorial().to(dtype)
    initial = dict(zip(policy.state_dict(), map(torch.from_numpy, learner.parameters().values()), strict=True))
    policy.load_state_dict(initial)
    target.load_state_dict(initial)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4, amsgrad=True)
    criterion = nn.SmoothL1Loss()
    clipped = 0
    for update in range(20):
        scale = np.float32(largest_scale if update % 4 == 3 else 1.0)
        drawn = random_batch(128, seed=update).transition
        batch = drawn._replace(obs=scale * drawn.obs, next_obs=scale * drawn.next_obs)

        non_final = torch.from_numpy(batch.discount > 0)
        assert 0 < non_final.sum() < 128
        q = policy(torch.from_numpy(batch.obs).to(dtype)).gather(1, torch.from_numpy(batch.action)[:, None])
        next_values = torch.zeros(128, dtype=dtype)
        with torch.no_grad():
            next_values[non_final] = target(torch.from_numpy(batch.next_obs).to(dtype)[non_final]).max(1).values
        expected = next_values * 0.99 + torch.from_numpy(batch.reward).to(dtype)
        loss = criterion(q, expected[:, None])
        optimizer.zero_grad()
        loss.backward()
        clipped += max(float(each.grad.abs().max()) for each in policy.parameters()) > 100
        nn.utils.clip_grad_value_(policy.parameters(), 100)
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), policy.parameters(), strict=True):
                slow.copy_(fast * 0.005 + slow * (1 - 0.005))

        learner.update(Batch(batch, np.arange(128), None), config.learning_rate)
        learner.update_target()
    assert clipped == (0 if network is None else 5)
    for name, module in (("online", policy), ("target", target)):
        ours = dict(zip(initial, getattr(learner, name).state_dict().values(), strict=True))
        assert_same(ours, module.state_dict(), tolerance)
        assert min(float((ours[each] - initial[each]).abs().max()) for each in initial) > 1e-5  # it moved


# Optimisers and clipping, against torch.optim on the module's own parameters


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({"optimizer": "sgd"}, lambda each: torch.optim.SGD(each)),
        ({"optimizer": "sgd", "weight_decay": 0.1}, lambda each: torch.optim.SGD(each, weight_decay=0.1)),
        ({"optimizer": "adam"}, lambda each: torch.optim.Adam(each)),
        (
            {"optimizer": "adam", "amsgrad": True, "weight_decay": 0.1, "optimizer_eps": 1e-3},
            lambda each: torch.optim.Adam(each, amsgrad=True, weight_decay=0.1, eps=1e-3),
        ),
        ({"optimizer": "adamw", "weight_decay": 0.1}, lambda each: torch.optim.AdamW(each, weight_decay=0.1)),
        (
            {"optimizer": "adamw", "weight_decay": 0.0, "amsgrad": True},
            lambda each: torch.optim.AdamW(each, weight_decay=0.0, amsgrad=True),
        ),
        (
            {"optimizer": "rmsprop", "optimizer_eps": 0.01, "weight_decay": 0.1},
            lambda each: torch.optim.RMSprop(each, alpha=0.95, centered=True, eps=0.01, weight_decay=0.1),
        ),
        ({"optimizer": "rmsprop"}, lambda each: torch.optim.RMSprop(each, alpha=0.95, centered=True, eps=1e-8)),
        (
            {"optimizer": "sgd", "max_grad_norm": 0.05},
            lambda each: torch.optim.SGD(each),
        ),
        ({"optimizer": "adam", "max_grad_norm": 1e9}, lambda each: torch.optim.Adam(each)),
        ({"optimizer": "sgd", "max_grad_value": 0.01}, lambda each: torch.optim.SGD(each)),
    ],
    ids=lambda each: ",".join(f"{name}={value}" for name, value in each.items()) if isinstance(each, dict) else "",
)
def test_an_update_is_the_optimisers_own(settings, reference):
    config = plain(**settings)
    learner = make_learner(config, PROBLEM, 0, perceptron())
    module = perceptron()
    optimizer = reference(module.parameters())
    for update in range(6):
        learning_rate = 0.01 / (1 + update)
        batch = random_batch(seed=update, discount=np.zeros(16))
        q = module(torch.from_numpy(batch.transition.obs).double())[torch.arange(16), batch.transition.action]
        optimizer.zero_grad()
        (0.5 * (torch.from_numpy(batch.transition.reward) - q).square()).mean().backward()
        gradients = torch.cat([each.grad.flatten() for each in module.parameters()])
        norm = gradients.norm()
        if config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
            assert (norm > config.max_grad_norm) == (config.max_grad_norm == 0.05)
        if config.max_grad_value is not None:
            nn.utils.clip_grad_value_(module.parameters(), config.max_grad_value)
            assert 0 < (gradients.abs() > config.max_grad_value).double().mean() < 1
        optimizer.param_groups[0]["lr"] = learning_rate
        optimizer.step()
        learner.update(batch, learning_rate)
        assert learner.metrics()["train/grad_norm"] == pytest.approx(float(norm), rel=1e-12)
        assert_same(learner.online.state_dict(), module.state_dict(), 1e-12)
        kept = learner.state()
        assert kept["optimizer/step"] == update + 1
        for name, each in module.named_parameters():
            buffers = {key: value for key, value in optimizer.state[each].items() if torch.is_tensor(value)}
            assert set(moments(config)) == buffers.keys() - {"step"}
            for moment in moments(config):
                actual = kept[f"optimizer/{moment}/{name}"]
                np.testing.assert_allclose(actual, buffers[moment].numpy(), rtol=0, atol=1e-12)


# The target network


@pytest.mark.parametrize("tau", [1.0, 0.005])
def test_the_target_takes_its_share_of_the_online_parameters(tau):
    learner = make_learner(plain(tau=tau, optimizer="adam"), PROBLEM, 0, perceptron())
    expected = state(learner.online)
    assert_same(state(learner.target), expected)
    for update in range(5):
        learner.update(random_batch(seed=update), 0.1)
        assert_same(state(learner.target), expected)  # an update leaves it alone
        learner.update_target()
        for name, online in state(learner.online).items():
            expected[name] = online if tau == 1.0 else tau * online + (1 - tau) * expected[name]
        assert_same(state(learner.target), expected, 0.0 if tau == 1.0 else 1e-15)
        expected = state(learner.target)


@pytest.mark.parametrize("kind", LOSSES)
def test_no_update_moves_the_target_networks_parameters(kind):
    learner = make_learner(plain(optimizer="adam", **EVERYTHING[kind]), PROBLEM, 0)
    before = state(learner.target)
    learner.update(random_batch(), 0.1)
    learner.q_values(random_batch().transition.obs, explore=True)
    assert_same(state(learner.target), before)


@pytest.mark.parametrize("double", [False, True])
def test_the_bootstrap_asks_the_network_that_it_should(double):
    """The target network values the next action; it also chooses it, unless double."""
    config = plain(loss=QLearning(error="squared", double=double), replay=Prioritised())
    learner = make_learner(config, PROBLEM, 0, perceptron())
    learner.update(random_batch(seed=1), 1.0)  # now the two networks differ
    batch = random_batch(64, seed=2)
    obs, action, reward, discount, next_obs, *_ = batch.transition
    with torch.no_grad():
        q = learner.online(torch.from_numpy(obs).double()).numpy()
        online_next = learner.online(torch.from_numpy(next_obs).double()).numpy()
        target_next = learner.target(torch.from_numpy(next_obs).double()).numpy()
    assert (online_next.argmax(axis=1) != target_next.argmax(axis=1)).any()
    rows = np.arange(64)
    best = (online_next if double else target_next).argmax(axis=1)
    error = reward + discount * target_next[rows, best] - q[rows, action]
    np.testing.assert_allclose(learner.update(batch, 0.0), np.abs(error), rtol=0, atol=1e-12)


@pytest.fixture
def float64():
    """Build upright's own networks in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("kind", "bootstrap"), BOOTSTRAPPED)
def test_each_network_is_asked_what_the_equations_say(float64, kind, bootstrap):
    chosen = bootstrapped(LOSSES[kind], bootstrap, Munchausen(temperature=0.5))
    loss, munchausen = chosen["loss"], chosen["munchausen"]
    learner = make_learner(plain(replay=Prioritised(), **chosen), PROBLEM, 0)
    learner.load_parameters({name: 2 * value for name, value in learner.parameters().items()})
    learner.update(random_batch(64, seed=1), 1.0)  # now the two networks differ
    batch = random_batch(64, seed=2).transition
    # The fractions that the learner will draw: the online network's, then the target's.
    random = copy.deepcopy(learner._random)
    is_implicit = loss.fractions is not None
    counts = loss.fractions[:3] if is_implicit else (5, 5, 5)
    online_fractions, target_fractions = (
        torch.from_numpy(random.random((64, count), dtype=np.float32)).double() for count in counts[:2]
    )

    def output(network, obs, fractions):
        arguments = (fractions,) if is_implicit else ()
        return network(torch.from_numpy(obs).double(), *arguments)

    def values(network, obs):
        policy_fractions = ((torch.arange(counts[2]) + 0.5) / counts[2]).expand(64, -1)
        return action_values(loss, output(network, obs, policy_fractions))

    online, target = learner.online, learner.target
    with torch.no_grad():
        predictions = Predictions(
            online=output(online, batch.obs, online_fractions),
            fractions=online_fractions if is_implicit else None,
            target_next=output(target, batch.next_obs, target_fractions),
            q_next=values(online if bootstrap == "double" else target, batch.next_obs),
            q=values(target, batch.obs),
        )
    columns = [torch.from_numpy(each) for each in (batch.action, batch.reward, batch.discount)]
    _, expected = temporal_difference(loss, munchausen, predictions, Transitions(*columns, None, None))
    np.testing.assert_array_equal(learner.q_values(batch.obs), values(online, batch.obs).detach().numpy())
    actual = learner.update(Batch(batch, np.arange(64), None), 0.0)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=1e-12)


# Importance weights


def test_weights_scale_the_loss_of_each_sample():
    config = plain()
    base = displacement(config, random_batch())
    assert np.abs(base).max() > 1e-3
    doubled = displacement(config, random_batch(weight=np.full(16, 2.0)))
    np.testing.assert_allclose(doubled, 2 * base, rtol=0, atol=1e-12)
    # The mean of single-sample steps, each with its own weight.
    weight = np.random.default_rng(5).uniform(0, 3, 16)
    batch = random_batch(weight=weight)
    singles = [
        displacement(config, Batch(Columns(*[f if f is None else f[i : i + 1] for f in batch.transition]), [0], None))
        for i in range(16)
    ]
    expected = sum(w * step for w, step in zip(weight, singles, strict=True)) / 16
    np.testing.assert_allclose(displacement(config, batch), expected, rtol=0, atol=1e-12)


def test_a_sample_without_weight_has_no_influence():
    weight = np.array([0.0] + [1.0] * 15)
    other = random_batch(seed=9).transition
    base = random_batch().transition
    changed = Columns(*[f if f is None else np.concatenate([g[:1], f[1:]]) for f, g in zip(base, other, strict=True)])
    steps = [displacement(plain(), Batch(each, np.arange(16), weight)) for each in (base, changed)]
    np.testing.assert_allclose(*steps, rtol=0, atol=1e-15)
    assert np.abs(steps[0]).max() > 1e-3


def test_weights_leave_the_priorities_alone():
    config = plain(replay=Prioritised())
    priorities = [
        make_learner(config, PROBLEM, 0).update(random_batch(weight=weight), 0.1)
        for weight in (None, np.linspace(0, 1, 16))
    ]
    np.testing.assert_array_equal(*priorities)


# Every combination


def combinations():
    for (kind, bootstrap), dueling, noisy, replay in itertools.product(
        BOOTSTRAPPED, (False, True), (False, True), REPLAYS
    ):
        flags = {"dueling": dueling, "noisy": noisy}
        named = "-".join([kind, bootstrap, *[name for name, value in flags.items() if value], replay])
        yield pytest.param(kind, bootstrap, dueling, noisy, replay, id=named)


@pytest.mark.parametrize(("kind", "bootstrap", "dueling", "noisy", "replay"), combinations())
def test_every_combination_learns(kind, bootstrap, dueling, noisy, replay):
    config = plain(
        **bootstrapped(LOSSES[kind], bootstrap),
        dueling=dueling,
        noisy=noisy,
        replay=REPLAYS[replay],
        optimizer="adam",
    )
    learner = make_learner(config, PROBLEM, 0)
    before = learner.parameters()
    batch = random_batch(weight=None if replay == "uniform" else np.linspace(0.1, 1, 16))
    priority = learner.update(batch, 1e-2)
    after = learner.parameters()
    for name, value in after.items():
        assert np.isfinite(value).all(), name
        assert (value != before[name]).any(), name
    assert priority.shape == (16,)
    assert np.isfinite(priority).all()
    assert (priority >= 0).all()
    assert all(np.isfinite(value) for value in learner.metrics().values())
    assert learner.q_values(batch.transition.obs).shape == (16, 3)


@pytest.mark.parametrize("kind", [kind for kind, loss in LOSSES.items() if bootstraps(loss) == list(BOOTSTRAPS)])
def test_double_and_munchausen_are_refused_together(kind):
    with pytest.raises(SettingError, match=r"munchausen and loss\.double cannot be combined"):
        plain(loss=bootstrapped(LOSSES[kind], "double")["loss"], munchausen=Munchausen())


@pytest.mark.parametrize(("kind", "bootstrap"), BOOTSTRAPPED)
def test_masks_that_allow_everything_change_nothing_and_others_do(kind, bootstrap):
    config = plain(**bootstrapped(LOSSES[kind], bootstrap, Munchausen(alpha=0.0, temperature=1.0)))
    everything = np.ones((16, 3), bool)
    worst = make_learner(config, PROBLEM, 0).q_values(random_batch().transition.next_obs).argmin(axis=1)
    worst_alone = np.eye(3, dtype=bool)[worst]
    ended = []
    for masks in (
        {},
        {"mask": everything, "next_mask": everything},
        {"mask": everything, "next_mask": worst_alone},
        {"mask": everything, "next_mask": worst_alone, "discount": np.zeros(16)},
        {"discount": np.zeros(16)},
    ):
        learner = make_learner(config, PROBLEM, 0)
        learner.update(random_batch(**masks), 0.1)
        ended.append(flat(learner))
    np.testing.assert_allclose(ended[1], ended[0], rtol=0, atol=1e-7)
    assert np.abs(ended[2] - ended[0]).max() > 1e-5
    np.testing.assert_allclose(ended[3], ended[4], rtol=0, atol=1e-7)  # no action follows a terminal state


# Determinism


def trained(seed, config, updates=30):
    learner = make_learner(config, PROBLEM, seed)
    for update in range(updates):
        learner.q_values(random_batch(2, seed=update).transition.obs, explore=True)
        learner.update(random_batch(seed=update), 1e-2)
        if update % 7 == 0:
            learner.update_target()
    return flat(learner)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_seed_decides_everything(kind):
    config = plain(optimizer="adam", **EVERYTHING[kind])
    first = trained(3, config)
    torch.rand(5)
    np.testing.assert_array_equal(trained(3, config), first)
    assert (trained(4, config) != first).mean() > 0.9


@pytest.mark.parametrize("kind", LOSSES)
def test_a_learner_starts_from_the_parameters_that_the_seed_gives_every_engine(kind):
    config = plain(**EVERYTHING[kind])
    learner = make_learner(config, PROBLEM, 3)
    expected = initial_parameters(config, PROBLEM, 3)
    assert list(learner.parameters()) == list(expected)
    for name, value in learner.parameters().items():
        np.testing.assert_array_equal(value, expected[name])
    assert_same(state(learner.target), state(learner.online))


@pytest.mark.parametrize("settings", [{"noisy": True}, EVERYTHING["implicit_quantile"]], ids=["noise", "fractions"])
def test_a_learner_draws_from_numpy_in_the_order_that_every_engine_keeps(settings):
    """An update: the online network's noise, the target's, the online fractions, the target's. Acting: the first."""
    config = plain(**settings)
    learner = make_learner(config, PROBLEM, 0)
    random = noise_generator(0)
    shapes = parameter_shapes(config, PROBLEM)
    noisy = [sum(shapes[name]) for name in shapes if name.endswith("weight_sigma")]
    assert len(noisy) == (4 if config.dueling else 2)
    for update in range(3):
        learner.q_values(random_batch(1).transition.obs, explore=True)
        learner.q_values(random_batch(1).transition.obs)
        learner.update(random_batch(seed=update), 0.1)
        for size in 3 * noisy:
            random.standard_normal(size, dtype=np.float32)
        if config.loss.fractions is not None:
            for count in config.loss.fractions[:2]:
                random.random((16, count), dtype=np.float32)
        assert random.bit_generator.state == learner._random.bit_generator.state


def test_the_seed_decides_a_factorys_network():
    weights = [flat(make_learner(plain(), PROBLEM, seed, lambda problem: nn.Linear(4, 3))) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).all()


def network_with_dropout():
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("settings", "network"),
    [
        *[(EVERYTHING[kind], None) for kind in LOSSES],
        ({}, lambda problem: nn.Linear(4, 3)),
        ({}, network_with_dropout()),
    ],
    ids=[*LOSSES, "factory", "dropout"],
)
def test_building_a_learner_leaves_the_global_random_state_alone(settings, network):
    before = torch.get_rng_state()
    make_learner(plain(**settings), PROBLEM, 0, network)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", LOSSES)
def test_learning_leaves_the_global_random_state_alone(kind):
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    trained(0, plain(**EVERYTHING[kind]), updates=2)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


# A network of one's own


@pytest.mark.parametrize("kind", [kind for kind, loss in LOSSES.items() if loss.fractions is None])
@pytest.mark.parametrize("as_factory", [False, True])
def test_a_network_of_ones_own_learns_and_the_original_stays(kind, as_factory):
    count = LOSSES[kind].outputs
    outputs = (3,) if count is None else (3, count)
    original = nn.Sequential(nn.Linear(4, math.prod(outputs)), nn.Unflatten(1, outputs))
    before = state(original)
    problems = []
    network = (lambda problem: problems.append(problem) or original) if as_factory else original
    learner = make_learner(plain(loss=LOSSES[kind], replay=Prioritised()), PROBLEM, 0, network)
    assert problems == [PROBLEM] * as_factory
    assert_same(state(learner.online), before)
    priority = learner.update(random_batch(), 1.0)
    learner.update_target()
    assert priority.shape == (16,)
    assert (flat(learner) != np.concatenate([value.numpy().ravel() for value in before.values()])).any()
    assert_same(state(original), before)
    assert all(each.requires_grad and each.grad is None for each in original.parameters())


@pytest.mark.parametrize(
    ("settings", "network", "message"),
    [
        ({}, nn.Linear(4, 2), "network maps observations of shape (2, 4) to (2, 2), but the loss needs (2, 3)"),
        ({}, nn.Unflatten(1, (4, 1)), "no parameters"),
        ({}, nn.Sequential(), "no parameters"),
        ({}, nn.Linear(4, 3).requires_grad_(False), "no parameters to train"),
        ({}, nn.Linear(5, 3), "network cannot take observations of shape (2, 4)"),
        ({}, lambda problem: "a network", "network gave a str, not a torch.nn.Module"),
        (
            {"loss": Categorical(atoms=7)},
            nn.Linear(4, 3),
            "network maps observations of shape (2, 4) to (2, 3), but the loss needs (2, 3, 7)",
        ),
        ({"loss": Quantile(quantiles=5)}, nn.Linear(4, 15), "the loss needs (2, 3, 5)"),
        ({"dueling": True}, nn.Linear(4, 3), "dueling"),
        ({"noisy": True}, nn.Linear(4, 3), "noisy"),
        ({"loss": ImplicitQuantile()}, nn.Linear(4, 3), "implicit quantiles need upright's own network"),
    ],
)
def test_a_network_that_cannot_work_is_refused(settings, network, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        make_learner(plain(**settings), PROBLEM, 0, network)


def test_a_float64_network_computes_in_float64():
    learner = make_learner(plain(replay=Prioritised()), PROBLEM, 0, perceptron(torch.float64))
    obs = random_batch().transition.obs
    exact = perceptron()(torch.from_numpy(obs).double()).detach().numpy()
    np.testing.assert_array_equal(learner.q_values(obs), exact)
    assert learner.q_values(obs).dtype == np.float64
    assert learner.update(random_batch(), 0.1).dtype == np.float64
    assert {value.dtype for value in learner.parameters().values()} == {np.dtype(np.float64)}


def test_frozen_parameters_stay():
    network = perceptron(torch.float32)
    network[0].requires_grad_(False)
    frozen = state(network[0])
    learner = make_learner(plain(tau=0.5, weight_decay=0.1, optimizer="adamw"), PROBLEM, 0, network)
    for update in range(3):
        learner.update(random_batch(seed=update), 0.1)
        learner.update_target()
    for module in (learner.online, learner.target):
        assert_same(state(module[0]), frozen)
        assert (module[2].weight != network[2].weight).any()


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.output(torch.tanh(self.second(torch.tanh(self.first(x)))))


def test_tied_parameters_stay_tied_and_learn_together():
    network = Tied().double()
    module = copy.deepcopy(network)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    learner = make_learner(plain(tau=0.5), PROBLEM, 0, network)
    for update in range(3):
        batch = random_batch(seed=update, discount=np.zeros(16))
        q = module(torch.from_numpy(batch.transition.obs).double())[torch.arange(16), batch.transition.action]
        optimizer.zero_grad()
        (0.5 * (torch.from_numpy(batch.transition.reward) - q).square()).mean().backward()
        optimizer.step()
        target_before = state(learner.target)
        learner.update(batch, 0.1)
        learner.update_target()
        assert_same(state(learner.online), state(module), 1e-13)
        average = {name: (target_before[name] + value) / 2 for name, value in state(learner.online).items()}
        assert_same(state(learner.target), average, 1e-15)
    for each in (learner.online, learner.target):
        assert each.first.weight is each.second.weight


def network_with_batch_norm():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_building_a_learner_leaves_a_networks_buffers_alone():
    network = network_with_batch_norm()
    learner = make_learner(plain(), PROBLEM, 0, network)
    assert_same(state(learner.online), state(network))
    assert_same(state(learner.target), state(network))


def test_buffers_reach_the_target_with_its_update():
    learner = make_learner(plain(tau=0.5), PROBLEM, 0, network_with_batch_norm())
    for update in range(3):
        learner.update(random_batch(seed=update), 0.1)
        assert (learner.online[1].running_mean != learner.target[1].running_mean).all()
        learner.update_target()
        for target, online in zip(learner.target.buffers(), learner.online.buffers(), strict=True):
            assert torch.equal(target, online)


def test_no_update_moves_the_target_networks_buffers():
    learner = make_learner(plain(), PROBLEM, 0, network_with_batch_norm())
    before = state(learner.target)
    learner.update(random_batch(), 0.1)
    assert_same(state(learner.target), before)


def test_acting_uses_a_network_of_ones_own_in_evaluation_mode():
    network = network_with_batch_norm().append(nn.Dropout(0.5))
    learner = make_learner(plain(), PROBLEM, 0, network)
    before, obs = state(learner.online), random_batch(1).transition.obs
    expected = copy.deepcopy(learner.online).eval()(torch.from_numpy(obs)).detach().numpy()
    for explore in (False, True):
        np.testing.assert_array_equal(learner.q_values(obs, explore), expected)
    assert_same(state(learner.online), before)


# Values, metrics, parameters


def test_an_images_bytes_are_scaled_to_one():
    problem = Problem(observation_shape=(2, 36, 36), is_image=True, num_actions=3)
    learner = make_learner(plain(), problem, 0)
    image = np.random.default_rng(0).integers(0, 256, (5, 2, 36, 36), dtype=np.uint8)
    expected = learner.online(torch.from_numpy(image).float() / 255).detach().numpy()
    np.testing.assert_array_equal(learner.q_values(image), expected)


def test_exploring_draws_noise_and_evaluating_does_not():
    learner = make_learner(plain(noisy=True), PROBLEM, 0)
    obs = random_batch().transition.obs
    exact = learner.q_values(obs)
    first, second = learner.q_values(obs, explore=True), learner.q_values(obs, explore=True)
    assert (first != second).all()
    assert (first != exact).all()
    np.testing.assert_array_equal(learner.q_values(obs), exact)


@pytest.mark.parametrize("kind", LOSSES)
def test_parameters_carry_a_learner_to_another(kind):
    config = plain(optimizer="adam", **EVERYTHING[kind])
    learner, other = make_learner(config, PROBLEM, 0), make_learner(config, PROBLEM, 1)
    learner.update(random_batch(), 1e-2)
    obs = random_batch(seed=1).transition.obs
    assert (other.q_values(obs) != learner.q_values(obs)).any()
    parameters = learner.parameters()
    kept = {name: value.copy() for name, value in parameters.items()}
    other.load_parameters(parameters)
    np.testing.assert_array_equal(other.q_values(obs), learner.q_values(obs))
    assert_same(state(other.target), state(learner.online))
    # What was handed out or loaded is a copy, and the loaded learner goes on learning from it.
    learner.update(random_batch(), 1e-2)
    other.update(random_batch(), 1e-2)
    for name, value in parameters.items():
        np.testing.assert_array_equal(value, kept[name])
    assert all((value != kept[name]).any() for name, value in other.parameters().items())


MISFITS = {
    "missing": (lambda kept, name: kept.pop(name), "{name!r} is missing"),
    "unknown": (lambda kept, name: kept.update(other=kept[name]), "'other' is not known here"),
    "misshapen": (lambda kept, name: kept.update({name: np.zeros((8, 9))}), "{name!r} has shape (8, 9), and "),
    "no numbers": (
        lambda kept, name: kept.update({name: np.full(kept[name].shape, "x")}),
        "{name!r} holds <U1, and ",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("network", [None, nn.Linear(4, 3)], ids=["own", "user's"])
@pytest.mark.parametrize("what", ["parameters", "state"])
def test_what_does_not_fit_is_refused_in_one_sentence_and_nothing_is_loaded(what, network, misfit):
    learner = make_learner(plain(optimizer="adam"), PROBLEM, 0, network)
    before = learner.state()
    given = {name: value + 1 for name, value in getattr(learner, what)().items()}
    change, message = MISFITS[misfit]
    parameter = next(name for name in given if name.endswith("bias"))
    for name in (parameter,) if what == "parameters" else ("random", "metrics/updates", "optimizer/step"):
        changed = dict(given)
        change(changed, name)
        load = learner.load_parameters if what == "parameters" else learner.load_state
        with pytest.raises(ValueError, match=re.escape(message.format(name=name))) as refused:
            load(changed)
        assert "\n" not in str(refused.value)
    assert_equal_states(learner.state(), before)


# State


OWN_NETWORKS = {
    "user's, with buffers": {"optimizer": "adam", "network": network_with_batch_norm},
    "user's, tied, float64": {"optimizer": "rmsprop", "network": lambda: Tied().double()},
}


@pytest.mark.parametrize("before", [0, 7])
@pytest.mark.parametrize("case", [*STATES, *OWN_NETWORKS])
def test_a_state_goes_on_to_the_same_bits(case, before):
    settings = {"replay": Prioritised(), **{**STATES, **OWN_NETWORKS}[case]}
    make_network = settings.pop("network", lambda: None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, another = make_network(), make_network()
    undisturbed, stopped, resumed = (
        make_learner(plain(**settings), PROBLEM, seed, each)
        for seed, each in ((0, network), (0, network), (1, another))
    )
    through_a_file = lambda kept: safetensors.numpy.load(safetensors.numpy.save(kept))
    assert_a_state_goes_on(undisturbed, stopped, resumed, before, through_a_file)


def test_a_resumed_learner_reports_the_same_means_without_another_update():
    learner, resumed = (make_learner(plain(optimizer="adam"), PROBLEM, seed) for seed in (0, 1))
    advance(learner, range(5))
    resumed.load_state(learner.state())
    assert resumed.metrics() == learner.metrics() != {}
    advance(resumed, range(2))
    resumed.load_state(learner.state())
    assert resumed.metrics() == learner.metrics() == {}


def test_a_states_names_are_those_that_every_engine_gives_it():
    config = plain(optimizer="adam", amsgrad=True, **EVERYTHING["implicit_quantile"])
    learner = make_learner(config, PROBLEM, 0)
    groups = ("online", "target", *[f"optimizer/{moment}" for moment in moments(config)])
    arrays = [f"{group}/{name}" for group in groups for name in parameter_shapes(config, PROBLEM)]
    names = [name for name in learner.state() if not name.startswith("metrics/")]
    assert names == [*arrays, "optimizer/step", "random"]
    metrics = {"metrics/updates", "metrics/loss", "metrics/grad_norm", "metrics/mean_q"}
    assert metrics <= learner.state().keys() - set(names)
    assert moments(config) == ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    assert learner.state()["random"].dtype == np.uint64


def test_metrics_are_means_since_the_last_call():
    learner = make_learner(plain(replay=Prioritised()), PROBLEM, 0, perceptron())
    assert learner.metrics() == {}
    for updates in (3, 1):
        losses = []
        for update in range(updates):
            batch = random_batch(seed=update)
            mean_q = learner.q_values(batch.transition.obs).mean()
            losses.append(np.mean(learner.update(batch, 0.1) ** 2 / 2))
        metrics = learner.metrics()
        assert metrics["train/loss"] == pytest.approx(np.mean(losses), rel=1e-12)
        assert metrics["train/mean_q"] == pytest.approx(mean_q, rel=1e-12)
        assert learner.metrics() == {}


def test_without_bootstrap_the_values_become_the_rewards():
    config = plain(net_arch=(32,), optimizer="adam")
    random = np.random.default_rng(0)
    states = random.standard_normal((8, 4), np.float32)
    obs, action = np.repeat(states, 3, axis=0), np.tile(np.arange(3), 8)
    reward = random.uniform(-1, 1, 24)
    batch = random_batch(24, obs=obs, action=action, reward=reward, discount=np.zeros(24))
    learner = make_learner(config, PROBLEM, 0)
    for update in range(500):
        learner.update(batch, 0.02 * (1 - update / 500))
    np.testing.assert_allclose(learner.q_values(states), reward.reshape(8, 3), rtol=0, atol=1e-2)
