"""Initialisation: the network's own names and shapes, and first values with the bounds and angles that they should have."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from configurations import LOSSES
from upright.learners.initialisation import initial_parameters
from upright.learners.layout import input_features, parameter_shapes
from upright.learners.problem import Problem
from upright.learners.torch.networks import Network
from upright.settings.config import Config
from upright.settings.kinds import ImplicitQuantile, QLearning
from upright.settings.presets import PRESETS

VECTOR, IMAGE = Problem((4,), False, 3), Problem((2, 36, 36), True, 3)
PROBLEMS = {
    "vector": VECTOR,
    "matrix": Problem((2, 5), False, 1),
    "image": IMAGE,
    "oblong": Problem((1, 50, 39), True, 2),
}
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def config_for(**settings):
    return Config(**{"munchausen": None, "loss": QLearning(), **settings})


def configs():
    """Every kind of network."""
    for kind, net_arch, dueling, noisy, layer_norm in itertools.product(
        LOSSES, ((), (5,), (8, 6), (3, 4, 5)), (False, True), (False, True), (False, True)
    ):
        if net_arch or not layer_norm:
            yield config_for(loss=LOSSES[kind], net_arch=net_arch, dueling=dueling, noisy=noisy, layer_norm=layer_norm)


def assert_is_named_as_the_network(config, problem):
    network = Network(config, problem.observation_shape, problem.is_image, problem.num_actions)
    expected = [(name, tuple(each.shape)) for name, each in network.named_parameters()]
    assert list(parameter_shapes(config, problem).items()) == expected
    assert list(network.state_dict()) == [name for name, _ in expected]
    parameters = initial_parameters(config, problem, 0)
    assert [(name, value.shape) for name, value in parameters.items()] == expected
    assert {value.dtype for value in parameters.values()} == {np.dtype(np.float32)}


@every_problem
def test_names_shapes_and_order_are_the_networks(problem):
    for config in configs():
        assert_is_named_as_the_network(config, problem)


@pytest.mark.parametrize("preset", PRESETS)
def test_names_shapes_and_order_are_those_of_each_presets_network(preset):
    problem = Problem((4, 84, 84), True, 6) if preset == "dqn" else VECTOR
    assert_is_named_as_the_network(PRESETS[preset], problem)


@pytest.mark.parametrize("sides", [(36, 36), (84, 84), (50, 39), (210, 160)])
def test_the_features_of_an_image_are_those_that_the_convolutions_give(sides):
    network = Network(config_for(net_arch=()), (3, *sides), True, 2)
    assert network.torso(torch.zeros(1, 3, *sides)).shape == (1, input_features(Problem((3, *sides), True, 2)))


def layers(parameters):
    """Each layer's parameters: weight, bias and, of a noisy one, their sigmas."""
    for name, weight in parameters.items():
        if name.endswith(".weight"):
            layer = name.removesuffix("weight")
            sigmas = [f"{layer}weight_sigma", f"{layer}bias_sigma"]
            yield weight, parameters[f"{layer}bias"], [parameters[each] for each in sigmas if each in parameters]


@every_problem
@pytest.mark.parametrize("initialisation", ["pytorch", "orthogonal"])
def test_layers_start_as_they_should(problem, initialisation):
    noisy, standardised = [], []
    for config in configs():
        parameters = initial_parameters(config.override(initialisation=initialisation), problem, 0)
        for weight, bias, sigmas in layers(parameters):
            if weight.ndim == 1:
                assert (weight == 1).all() and (bias == 0).all()
                continue
            inputs = math.prod(weight.shape[1:])
            for sigma in sigmas:
                noisy.append(config.noisy)
                np.testing.assert_allclose(sigma, 0.5 / math.sqrt(inputs), rtol=1e-6)
            if initialisation == "pytorch":
                standardised += [math.sqrt(inputs) * weight.ravel(), math.sqrt(inputs) * bias]
            else:
                flat = weight.reshape(len(weight), -1).astype(float)
                gram = flat @ flat.T if len(flat) <= inputs else flat.T @ flat
                np.testing.assert_allclose(gram, 2 * np.eye(len(gram)), rtol=0, atol=1e-6)
                assert not bias.any()
    assert len(noisy) > 100 and all(noisy)
    if initialisation == "pytorch":
        assert max(abs(each).max() for each in standardised) <= 1 + 1e-6


@pytest.mark.parametrize("problem", [VECTOR, IMAGE], ids=["vector", "image"])
@pytest.mark.parametrize("noisy", [False, True])
def test_weights_and_biases_are_uniform_within_the_inverse_root_of_the_inputs(problem, noisy):
    config = config_for(net_arch=(400, 300), noisy=noisy, loss=ImplicitQuantile(cosines=64))
    for weight, bias, _ in layers(initial_parameters(config, problem, 1)):
        root = math.sqrt(math.prod(weight.shape[1:]))
        for values in (weight, bias):
            assert stats.kstest(root * values.ravel()[:20_000], stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_pytorchs_own_layers_start_within_the_same_bounds():
    """What the setting's name promises, of the version of PyTorch that is installed."""
    config = config_for(net_arch=(200,))
    network = Network(config, (2, 36, 36), True, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    theirs = {name: value.detach().numpy() for name, value in network.named_parameters()}
    ours = initial_parameters(config, IMAGE, 0)
    for name, value in ours.items():
        if value.size > 1_000:
            assert np.abs(value).max() == pytest.approx(np.abs(theirs[name]).max(), rel=0.02)
            assert value.std() == pytest.approx(theirs[name].std(), rel=0.05)


def test_orthogonal_weights_point_everywhere():
    """Of uniformly turned matrices the first entry is as often negative, and ±√2·cos of a uniform angle in the plane."""
    config = config_for(net_arch=(), initialisation="orthogonal")
    problem = Problem((2,), False, 2)
    weights = np.array([initial_parameters(config, problem, seed)["advantage.0.weight"] for seed in range(2_000)])
    assert stats.kstest(weights[:, 0, 0] / math.sqrt(2), stats.arcsine(-1, 2).cdf).pvalue > 1e-3
    # Turned and mirrored alike.
    assert stats.binomtest(int((np.linalg.det(weights) > 0).sum()), 2_000).pvalue > 1e-3


@pytest.mark.parametrize("initialisation", ["pytorch", "orthogonal"])
def test_the_seed_decides(initialisation):
    config = config_for(noisy=True, dueling=True, initialisation=initialisation)
    first, again, other = (initial_parameters(config, IMAGE, seed) for seed in (5, 5, 6))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
        drawn = "sigma" not in name and ("weight" in name or initialisation == "pytorch")
        assert (value != other[name]).mean() > 0.99 if drawn else (value == other[name]).all()


def test_it_works_without_pytorch():
    program = """
import sys
sys.modules["torch"] = None  # an import of it fails
from upright.settings.config import Config
from upright.state import noise_generator
from upright.learners.initialisation import initial_parameters
from upright.learners.problem import Problem
from upright.replay import ReplayMemory
initial_parameters(Config(noisy=True, layer_norm=True), Problem((4,), False, 2), 0)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
