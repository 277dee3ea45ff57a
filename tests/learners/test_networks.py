"""Networks: shapes, the papers' heads against formulas written by hand, noise, sizes."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from configurations import ACTIVATIONS, LOSSES
from upright.learners.initialisation import initial_parameters
from upright.learners.problem import Problem
from upright.learners.torch.losses import midpoints
from upright.learners.torch.networks import Network, NoisyLinear
from upright.settings.config import Config
from upright.settings.kinds import Categorical, ImplicitQuantile, QLearning, Quantile

torch.set_num_threads(1)

BATCH, ACTIONS, FRACTIONS = 5, 3, 6
VECTOR, IMAGE = (4,), (2, 36, 36)  # the smallest image that Nature's convolutions take
COSINES = LOSSES["implicit_quantile"].cosines

every_loss = pytest.mark.parametrize("kind", LOSSES)


@pytest.fixture(autouse=True)
def float64():
    """Compute in float64 with the same initial weights in every test."""
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(torch.float32)


def make_network(kind="q_learning", shape=VECTOR, actions=ACTIONS, **settings):
    config = Config(**{"loss": LOSSES[kind], "munchausen": None, "net_arch": (8, 6), **settings})
    network = Network(config, shape, len(shape) == 3, actions)
    parameters = initial_parameters(config, Problem(shape, len(shape) == 3, actions), seed=0)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in parameters.items()})
    return network


def noisy_layer(inputs, outputs):
    """A noisy layer as Fortunato 2018 starts it."""
    layer, bound = NoisyLinear(inputs, outputs), 1 / math.sqrt(inputs)
    with torch.no_grad():
        for mean, sigma in ((layer.weight, layer.weight_sigma), (layer.bias, layer.bias_sigma)):
            mean.uniform_(-bound, bound)
            sigma.fill_(0.5 * bound)
    return layer


def observations(shape=VECTOR, batch=BATCH):
    return torch.randn(batch, *shape)


def fractions_for(kind, batch=BATCH):
    return torch.rand(batch, FRACTIONS) if kind == "implicit_quantile" else None


def parameter_count(network):
    return sum(each.numel() for each in network.parameters())


def generator(seed):
    return np.random.default_rng(seed)


def assert_equal(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# Shapes and sizes


@every_loss
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("shape", [VECTOR, IMAGE])
def test_output_has_one_scalar_or_distribution_for_each_action(kind, dueling, noisy, layer_norm, shape):
    network = make_network(kind, shape, dueling=dueling, noisy=noisy, layer_norm=layer_norm)
    network.resample(generator(0))
    output = network(observations(shape), fractions_for(kind))
    count = FRACTIONS if kind == "implicit_quantile" else LOSSES[kind].outputs
    assert output.shape == ((BATCH, ACTIONS) if count is None else (BATCH, ACTIONS, count))
    assert output.isfinite().all()
    # Each sample is answered by itself: noise is drawn once for a batch, and nothing is shared between its rows.
    obs, fractions = observations(shape), fractions_for(kind)
    alone = [network(obs[i : i + 1], None if fractions is None else fractions[i : i + 1]) for i in range(BATCH)]
    assert_equal(network(obs, fractions), torch.cat(alone))


def test_convolutions_give_an_atari_frame_3136_features():
    network = make_network(shape=(4, 84, 84), net_arch=())
    assert network.torso(torch.zeros(1, 4, 84, 84)).shape == (1, 3136)


# One linear layer a → b has (a + 1)·b parameters; CartPole has 4 numbers and 2 actions.
@pytest.mark.parametrize(
    ("loss", "settings", "expected"),
    [
        (QLearning(), {}, 17_410),  # 5·128 + 129·128 + 129·2
        (QLearning(), {"net_arch": ()}, 10),  # 5·2
        (QLearning(), {"layer_norm": True}, 17_922),  # and 2 · 2·128
        (QLearning(), {"noisy": True}, 34_180),  # 5·128 + 2·(129·128 + 129·2)
        (QLearning(), {"dueling": True}, 34_051),  # 5·128 + 2 · 129·128 + 129·2 + 129·1
        (Categorical(atoms=7), {"dueling": True, "noisy": True}, 72_106),  # 5·128 + 2·(2 · 129·128 + 129·14 + 129·7)
        (Quantile(quantiles=9), {}, 19_474),  # 5·128 + 129·128 + 129·18
        (ImplicitQuantile(cosines=10), {}, 18_818),  # the scalar's and 11·128 for the embedding
    ],
)
def test_parameter_count(loss, settings, expected):
    assert parameter_count(make_network(loss=loss, actions=2, **{"net_arch": (128, 128), **settings})) == expected


def test_natures_network_has_its_1_687_206_parameters_for_six_actions():
    # (8·8·4 + 1)·32 + (4·4·32 + 1)·64 + (3·3·64 + 1)·64 + 3137·512 + 513·6
    assert parameter_count(make_network(shape=(4, 84, 84), net_arch=(512,), actions=6)) == 1_687_206


# Torsos


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_perceptron_is_the_formula(activation, layer_norm):
    network = make_network(activation=activation, layer_norm=layer_norm)
    obs = observations()
    linears = [each for each in network.modules() if isinstance(each, nn.Linear)]
    assert [tuple(each.weight.shape) for each in linears] == [(8, 4), (6, 8), (3, 6)]
    nonlinearity = {
        "relu": lambda x: x.clamp(min=0),
        "tanh": torch.tanh,
        "silu": lambda x: x / (1 + torch.exp(-x)),
    }[activation]
    hidden = obs
    for layer in linears[:2]:
        hidden = hidden @ layer.weight.T + layer.bias
        if layer_norm:
            centred = hidden - hidden.mean(dim=1, keepdim=True)
            hidden = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        hidden = nonlinearity(hidden)
    assert_equal(network(obs), hidden @ linears[2].weight.T + linears[2].bias)


def test_without_hidden_layers_the_network_is_linear():
    network = make_network(net_arch=())
    (layer,) = [each for each in network.modules() if isinstance(each, nn.Linear)]
    obs = observations()
    assert_equal(network(obs), obs @ layer.weight.T + layer.bias)


def test_convolutions_are_natures():
    network = make_network(shape=IMAGE)
    obs = observations(IMAGE)
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    features = obs
    for layer, stride in zip(convolutions, (4, 2, 1), strict=True):
        features = functional.conv2d(features, layer.weight, layer.bias, stride=stride).clamp(min=0)
    hidden, last, output = [each for each in network.modules() if isinstance(each, nn.Linear)]
    expected = output(last(hidden(features.flatten(1)).clamp(min=0)).clamp(min=0))
    assert_equal(network(obs), expected)


# Dueling


@every_loss
def test_dueling_is_the_formula(kind):
    network = make_network(kind, dueling=True)
    obs, fractions = observations(), fractions_for(kind)
    features = network.torso(obs)
    if kind == "implicit_quantile":
        features = features[:, None] * functional.relu(
            network.embedding(torch.cos(fractions[..., None] * math.pi * torch.arange(COSINES)))
        )
        advantage, value = network.advantage(features).transpose(1, 2), network.value(features).transpose(1, 2)
    else:
        advantage = network.advantage(features).reshape(BATCH, ACTIONS, -1)
        value = network.value(features).reshape(BATCH, 1, -1)
    q = network(obs, fractions).reshape(BATCH, ACTIONS, -1)
    for action in range(ACTIONS):
        others = sum(advantage[:, other] for other in range(ACTIONS)) / ACTIONS
        assert_equal(q[:, action], value[:, 0] + advantage[:, action] - others)
    assert_equal((q - value).mean(dim=1), torch.zeros(q[:, 0].shape))


@every_loss
def test_the_value_stream_moves_all_actions_alike_and_the_advantage_stream_none_on_average(kind):
    network = make_network(kind, dueling=True)
    obs, fractions = observations(), fractions_for(kind)
    before = network(obs, fractions)
    with torch.no_grad():
        network.value[-1].bias += 0.75
    assert_equal(network(obs, fractions) - before, torch.full_like(before, 0.75))
    with torch.no_grad():
        network.advantage[-1].weight += 1.0
        network.advantage[-1].bias += torch.randn(network.advantage[-1].bias.shape)
    assert_equal((network(obs, fractions) - before).mean(dim=1), torch.full_like(before[:, 0], 0.75))


# Noise


def test_evaluation_leaves_the_noise_out():
    layer, x = noisy_layer(4, 3), torch.randn(BATCH, 4)
    layer.resample(generator(0))
    layer.eval()
    assert torch.equal(layer(x), functional.linear(x, layer.weight, layer.bias))
    layer.train()
    assert not torch.isclose(layer(x), functional.linear(x, layer.weight, layer.bias)).any()


def test_a_noisy_layer_is_the_formula():
    layer, x = noisy_layer(4, 3), torch.randn(BATCH, 4)
    layer.resample(generator(0))
    with torch.no_grad():
        layer.weight_sigma.copy_(torch.randn(3, 4))
        layer.bias_sigma.copy_(torch.randn(3))
    expected = torch.zeros(BATCH, 3)
    for i in range(3):
        expected[:, i] = layer.bias[i] + layer.bias_sigma[i] * layer.bias_noise[i]
        for j in range(4):
            expected[:, i] += (layer.weight[i, j] + layer.weight_sigma[i, j] * layer.weight_noise[i, j]) * x[:, j]
    assert_equal(layer(x), expected)


def test_noise_is_an_outer_product():
    layer = noisy_layer(7, 5)
    layer.resample(generator(0))
    assert torch.linalg.matrix_rank(layer.weight_noise) == 1
    of_input = layer.weight_noise[0] / layer.bias_noise[0]
    for i in range(5):
        assert_equal(layer.weight_noise[i], layer.bias_noise[i] * of_input)


def test_noise_is_drawn_by_numpy_in_float32_for_the_inputs_first():
    network = make_network(noisy=True, dueling=True, net_arch=(4,))
    network.resample(generator(5))
    random = generator(5)
    for layer in (each for each in network.modules() if isinstance(each, NoisyLinear)):
        of_input, of_output = (
            np.array([math.copysign(math.sqrt(abs(x)), x) for x in random.standard_normal(size, dtype=np.float32)])
            for size in (layer.in_features, layer.out_features)
        )
        assert_equal(layer.bias_noise, torch.from_numpy(of_output), 1e-6)
        assert_equal(layer.weight_noise, torch.from_numpy(np.outer(of_output, of_input)), 1e-6)


def test_noise_is_the_signed_root_of_a_normal_variable():
    layer = noisy_layer(20_000, 1)
    layer.resample(generator(1))
    of_input = (layer.weight_noise[0] / layer.bias_noise[0]).numpy()
    assert stats.kstest(np.sign(of_input) * of_input**2, "norm").pvalue > 0.01
    layer = noisy_layer(1, 20_000)
    layer.resample(generator(2))
    of_output = layer.bias_noise.numpy()
    assert stats.kstest(np.sign(of_output) * of_output**2, "norm").pvalue > 0.01


def test_variance_of_a_noisy_output():
    layer, x = noisy_layer(4, 2).requires_grad_(False), torch.tensor([[1.0, -2.0, 0.5, 0.0]])
    random, draws = generator(0), 20_000
    outputs = torch.empty(draws, 2)
    for i in range(draws):
        layer.resample(random)
        outputs[i] = layer(x)[0]
    # E f(ε)² = E|ε| = √(2/π), so a weight's noise has variance 2/π and a bias's √(2/π), each times σ² = 1/16.
    root = math.sqrt(2 / math.pi)
    variance = (root**2 * float(x.square().sum()) + root) / 16
    # Means of 20,000 draws: four standard errors. The fourth moment of f(ε) is 1, so a variance is known to 2 %.
    assert_equal(outputs.mean(dim=0), layer.eval()(x)[0], 4 * math.sqrt(variance / draws))
    assert_equal(outputs.var(dim=0) / variance, torch.ones(2), 0.08)


def test_resampling_follows_the_generator_alone():
    network, obs = make_network(noisy=True, dueling=True), observations()
    random = generator(3)
    outputs = []
    for _ in range(2):
        network.resample(random)
        outputs.append(network(obs))
    assert not torch.isclose(outputs[0], outputs[1]).any()
    torch.rand(7)
    network.resample(generator(3))
    assert torch.equal(network(obs), outputs[0])


@every_loss
def test_the_heads_linear_layers_are_noisy_each_with_noise_of_its_own(kind):
    network = make_network(kind, noisy=True, dueling=True, net_arch=(8, 8))
    plain = [each for each in network.modules() if isinstance(each, nn.Linear)]
    assert plain == [network.torso[0], *([network.embedding] if kind == "implicit_quantile" else [])]
    network.resample(generator(0))
    noises = [each.bias_noise for each in network.modules() if isinstance(each, NoisyLinear)]
    assert len(noises) == 4  # a hidden and an output layer in each of two streams
    assert len({round(float(noise[0]), 9) for noise in noises}) == 4
    assert not any("noise" in name for name in network.state_dict())


# Implicit quantiles


@pytest.mark.parametrize("net_arch", [(), (6,), (8, 6)])
@pytest.mark.parametrize("shape", [VECTOR, IMAGE])
def test_implicit_quantiles_are_the_formula(net_arch, shape):
    network = make_network("implicit_quantile", shape, net_arch=net_arch)
    obs, fractions = observations(shape, 2), torch.rand(2, FRACTIONS)
    weight, bias = network.embedding.weight, network.embedding.bias
    output, features = network(obs, fractions), network.torso(obs)
    for b in range(2):
        for k in range(FRACTIONS):
            cosines = torch.tensor([math.cos(math.pi * i * float(fractions[b, k])) for i in range(COSINES)])
            expected = network.advantage(features[b] * (weight @ cosines + bias).clamp(min=0))
            assert_equal(output[b, :, k], expected)


@pytest.mark.parametrize("dueling", [False, True])
def test_a_quantile_depends_on_its_own_fraction_alone(dueling):
    network = make_network("implicit_quantile", dueling=dueling)
    obs, fractions = observations(), torch.rand(BATCH, FRACTIONS)
    output = network(obs, fractions)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert_equal(network(obs, fractions[:, order]), output[:, :, order])
    changed = fractions.clone()
    changed[:, 2] = 1 - changed[:, 2]
    difference = network(obs, changed) - output
    assert difference[:, :, 2].all()
    others = [0, 1, 3, 4, 5]
    assert_equal(difference[:, :, others], torch.zeros(BATCH, ACTIONS, 5))
    # More fractions at once do not move the ones that were asked before.
    more = torch.cat([fractions, midpoints(8, fractions).expand(BATCH, -1)], dim=1)
    assert_equal(network(obs, more)[:, :, :FRACTIONS], output)
