"""The native learner: PyTorch's numbers within rounding, the same bits every time, and no crash whatever it is given.

Everything runs on each set of vector instructions that this machine has. scripts/sanitize runs this file under
AddressSanitizer and UBSan, several times slower: UPRIGHT_EXAMPLES, of which the default is 4, sizes it all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import hashlib
import itertools
import os
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from configurations import (
    BOOTSTRAPS,
    LOSSES,
    NATIVE_ACTIVATIONS,
    NATIVE_EVERYTHING,
    NATIVE_LOSSES,
    NATIVE_STATES,
    PROBLEM,
    plain,
)
from drawn_settings import values_of
from learner_properties import advance, assert_a_state_goes_on, assert_equal_states, random_batch
from upright.errors import Diverged, UprightError
from upright.learners.layout import parameter_shapes
from upright.learners.problem import Problem
from upright.learners.torch.learner import TorchLearner
from upright.learners.torch.losses import Transitions, chosen, masked
from upright.learners.torch.losses import _distributional_target as distributional_target
from upright.replay import Batch, Columns
from upright.settings.config import Config
from upright.settings.kinds import Categorical, ImplicitQuantile, Munchausen, Prioritised, QLearning, Quantile, Uniform
from upright.state import generator_state, set_generator_state

_native = pytest.importorskip("upright._native", reason="upright was installed without a C++ compiler")
from upright.learners.native import NativeLearner, described  # noqa: E402

torch.set_num_threads(1)

EXAMPLES = int(os.environ.get("UPRIGHT_EXAMPLES", 4))
F32, F64, I64, U8 = np.float32, np.float64, np.int64, np.uint8
SETS = _native.instruction_sets()

each_set = pytest.mark.parametrize("instruction_set", SETS)


def native(instruction_set: str | None = None, problem: Problem = PROBLEM, seed: int = 0, **settings) -> NativeLearner:
    return NativeLearner(plain(**settings), problem, seed, instruction_set)


def in_float64(config: Config, problem: Problem, seed: int) -> TorchLearner:
    """The reference in double precision, from the same parameters, with the same noise."""
    torch.set_default_dtype(torch.float64)
    try:
        return TorchLearner(config, problem, seed)
    finally:
        torch.set_default_dtype(torch.float32)


# --- parity with PyTorch


@st.composite
def configurations(draw: Any, **fixed: Any) -> Config:
    """Any configuration that the engine supports, with numbers for which a gradient step is a continuous function.

    A layer norm over a few numbers divides by a spread that may be next to nothing, so there are 8 at least. Adam and
    RMSprop divide by √v + ε: with a tiny ε the rounding of a gradient that should be 0 would become a whole step.
    """
    layer_norm = draw(st.booleans())
    widths = draw(st.lists(st.integers(8 if layer_norm else 1, 130), min_size=layer_norm, max_size=4))
    bootstrap = draw(st.sampled_from(BOOTSTRAPS))
    numbers = {
        "double": st.just(bootstrap == "double"),
        "kappa": st.sampled_from([1.0, 0.5, 0.0]),
        "v_min": st.just(-5.0),
        "v_max": st.just(5.0),
    }
    loss = draw(values_of(type(LOSSES[draw(st.sampled_from(NATIVE_LOSSES))]), **numbers))
    soft = st.builds(Munchausen, temperature=st.sampled_from([1.0, 0.3, 0.03]))
    optimizer = fixed.get("optimizer") or draw(st.sampled_from(["adam", "adamw", "rmsprop", "sgd"]))
    clip = draw(st.sampled_from(["none", "norm", "value"]))
    # PyTorch's centred RMSprop takes the root of a variance that rounding leaves below 0 when a clipped gradient stays
    # the same, and has no number then.
    clip = "none" if clip == "value" and optimizer == "rmsprop" else clip
    return Config(
        **{
            "net_arch": tuple(widths),
            "activation": draw(st.sampled_from(NATIVE_ACTIVATIONS)),
            "layer_norm": layer_norm,
            "initialisation": draw(st.sampled_from(["pytorch", "orthogonal"])),
            "dueling": draw(st.booleans()),
            "noisy": draw(st.booleans()),
            "loss": loss,
            "munchausen": draw(soft) if bootstrap == "munchausen" else None,
            "replay": draw(st.sampled_from([Uniform(), Prioritised()])),
            "batch_size": draw(st.integers(1, 200)),
            "optimizer": optimizer,
            "amsgrad": draw(st.booleans()) if optimizer in ("adam", "adamw") else False,
            "optimizer_eps": 0.01 if optimizer == "rmsprop" else draw(st.sampled_from([1e-2, 1e-3, 1e-4, 1e-5])),
            "weight_decay": draw(st.sampled_from([0.0, 0.01, 0.1])),
            # Small enough that an error of rounding stays one: at the rates that learn fastest it doubles every few
            # updates, and two runs with one rounding error between them go their own ways.
            "learning_rate": {"adam": 3e-4, "adamw": 3e-4, "rmsprop": 1e-4, "sgd": 3e-3}[optimizer],
            "max_grad_norm": draw(st.sampled_from([0.03, 0.3, 3.0])) if clip == "norm" else None,
            "max_grad_value": draw(st.sampled_from([0.003, 0.03, 0.3])) if clip == "value" else None,
            "tau": draw(st.sampled_from([1.0, 0.1])),
            **fixed,
        }
    )


class Memory(NamedTuple):
    """A problem, and 256 transitions of it."""

    inputs: int
    actions: int
    has_bytes: bool
    has_masks: bool
    seed: int

    @property
    def problem(self) -> Problem:
        return Problem((self.inputs,), False, self.actions)

    def columns(self) -> Columns:
        random, size = np.random.default_rng(self.seed), 256

        def observations() -> np.ndarray:
            if self.has_bytes:
                return random.integers(0, 4, (size, self.inputs), np.uint8)
            return random.standard_normal((size, self.inputs), np.float32)

        def some_actions() -> np.ndarray:
            allowed = random.random((size, self.actions)) < 0.6
            allowed[np.arange(size), random.integers(self.actions, size=size)] = True
            return allowed

        mask, next_mask = (some_actions(), some_actions()) if self.has_masks else (None, None)
        action = random.integers(self.actions, size=size)
        if mask is not None:
            action = np.where(mask[np.arange(size), action], action, mask.argmax(axis=1))
        discount = 0.9 * (np.arange(size) % 3 != 0)
        reward = random.normal(size=size)
        return Columns(observations(), action, reward, discount, observations(), mask, next_mask)


SEEDS = st.integers(0, 2**32 - 1)
MEMORIES = st.builds(Memory, st.integers(1, 140), st.integers(1, 6), st.booleans(), st.booleans(), SEEDS)


def steady(exact: TorchLearner, batch: Batch) -> np.ndarray:
    """Which rows of a batch hang on no decision that rounding could turn, in the learner's next update.

    The gradient jumps where a ReLU's input is 0, where two next actions are worth the same to something that asks for
    the better one, and, with κ = 0, where a quantile meets its target. A float32 engine that lands on the other side
    of one of these is not wrong, but it goes on from there as another run would.
    """
    config, loss, columns = exact.config, exact.config.loss, batch.transition
    tensor = lambda array: None if array is None else torch.from_numpy(array)
    obs, next_obs = exact._observations(columns.obs), exact._observations(columns.next_obs)
    good = torch.ones(len(obs), dtype=torch.bool)

    passes: list[nn.Module] = []

    def begin(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        passes.append(module)

    def see(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        before = output if module is exact.online.embedding else inputs[0]
        # Of implicit quantiles there are so many units that some always lie nearer to their corner.
        near = 1e-4 if before.ndim == 2 else 5e-5
        if len(passes) == 1:  # of the first pass the gradient is taken
            good.logical_and_((before.abs() > near).flatten(1).all(dim=1))

    with torch.no_grad():
        random = generator_state(exact._random)  # noise and fractions, as the update will draw them
        exact._set_training(True)
        if config.noisy:
            exact.online.resample(exact._random)
            exact.target.resample(exact._random)
        corners = [module for module in exact.online.modules() if isinstance(module, nn.ReLU)]
        corners += [exact.online.embedding] if exact.online.embedding is not None else []
        hooks = [module.register_forward_hook(see) for module in corners]
        hooks.append(exact.online.register_forward_pre_hook(begin))
        predictions = exact._predict(obs, next_obs)
        for hook in hooks:
            hook.remove()
        set_generator_state(exact._random, random)
        online, q_next = predictions.online, predictions.q_next
        if config.munchausen is None and exact.problem.num_actions > 1:
            best = masked(q_next, tensor(columns.next_mask)).topk(2, dim=1).values
            good &= best[:, 0] - best[:, 1] > 1e-3
        if isinstance(loss, (Quantile, ImplicitQuantile)) and loss.kappa == 0:
            transitions = Transitions(*[tensor(each) for each in (*columns[1:4], *columns[5:])])
            target, _ = distributional_target(loss, config.munchausen, predictions, transitions)
            error = target[:, None, :] - chosen(online, transitions.action)[:, :, None]
            good &= (error.abs() > 1e-4).flatten(1).all(dim=1)
    return good.numpy()


def steady_batch(exact: TorchLearner, columns: Columns, random: np.random.Generator) -> Batch:
    """A batch in which nothing hangs on rounding, drawn at random from a memory."""
    size, is_implicit = exact.config.batch_size, isinstance(exact.config.loss, ImplicitQuantile)
    candidates = Batch(columns, random.integers(len(columns.action), size=size if is_implicit else size + 8), None)
    good = steady(exact, candidates)
    # Fractions are drawn by a row's place in the batch: it may not move up, but it can weigh nothing.
    place = candidates.place if is_implicit else candidates.place[good][:size]
    weight = random.random(len(place)) if isinstance(exact.config.replay, Prioritised) else None
    if is_implicit:
        weight = good * (1.0 if weight is None else weight)
    return Batch(columns, place, weight)


def distance(actual: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> float:
    """The largest error, relative to the largest entry of its array (or to 1, for a mean, which may well be 0)."""
    worst = 0.0
    for name, value in exact.items():
        scale = max(np.abs(value).max(initial=0.0), float(name == "metrics/mean_q"), 1e-30)
        worst = max(worst, np.nan_to_num(np.abs(actual[name] - value).max(initial=0.0) / scale, nan=np.inf))
    return float(worst)


# How far PyTorch's float32 and this engine end from float64 is chance in both. Of 700 configurations the engine was at
# most 3 times as far where PyTorch was 1e-5 off or more, and 4e-5 off where it was less. A wrong constant in an
# optimiser or a loss shows above 1e-3.
TIMES_AS_FAR, ROUNDING = 6, 1e-4


@pytest.mark.parametrize(
    "fixed",
    [
        {"optimizer": "adam", "amsgrad": False},
        {"optimizer": "adam", "amsgrad": True},
        {"optimizer": "adamw"},
        {"optimizer": "rmsprop"},
        {"optimizer": "sgd"},
    ],
    ids=lambda fixed: "-".join(str(each) for each in fixed.values()),
)
def test_300_updates_end_as_close_to_float64_as_pytorchs_do(fixed: dict[str, Any]) -> None:
    @settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
    @given(config=configurations(**fixed), memory=MEMORIES, seed=SEEDS)
    def agree(config: Config, memory: Memory, seed: int) -> None:
        problem, columns = memory.problem, memory.columns()
        size = sum(np.prod(shape) for shape in parameter_shapes(config, problem).values())
        if isinstance(config.loss, ImplicitQuantile):  # whose head is asked once for each fraction
            size *= config.loss.quantiles + config.loss.target_quantiles + config.loss.policy_quantiles
        config = dataclasses.replace(config, batch_size=int(max(1, min(config.batch_size, 300_000 // size))))
        engines = {
            "float64": in_float64(config, problem, seed),
            "float32": TorchLearner(config, problem, seed),
            **{name: NativeLearner(config, problem, seed, name) for name in SETS},
        }
        random = np.random.default_rng(seed)
        priorities: dict[str, list[np.ndarray]] = {name: [] for name in engines}
        for update in range(300):
            batch = steady_batch(engines["float64"], columns, random)
            if not len(batch.place):
                continue
            for name, engine in engines.items():
                priority = engine.update(batch, config.learning_rate)
                priorities[name].append(priority if batch.weight is None else priority * (batch.weight > 0))
                if update % 10 == 0:
                    engine.update_target()
        ends = {name: engine.state() for name, engine in engines.items()}
        exact = ends["float64"]
        for name, end in ends.items():
            assert end.keys() - {"priorities"} == exact.keys() - {"priorities"}
            np.testing.assert_array_equal(end["random"], exact["random"])
            end["priorities"] = np.concatenate(priorities[name])
        assert exact["optimizer/step"] > 200
        rounding = distance(ends["float32"], exact)
        assume(rounding < 1e-3)  # else the configuration is chaotic, and tells nothing
        for name in SETS:
            assert distance(ends[name], exact) <= TIMES_AS_FAR * rounding + ROUNDING, (name, rounding)

    agree()


@settings(max_examples=12 * EXAMPLES)
@given(
    config=configurations(optimizer="sgd", max_grad_norm=None, max_grad_value=None, replay=Prioritised()),
    memory=MEMORIES,
    seed=SEEDS,
)
def test_gradients_are_those_of_float64(config: Config, memory: Memory, seed: int) -> None:
    problem, columns = memory.problem, memory.columns()
    exact = in_float64(config, problem, seed)
    state = exact.state()
    other = TorchLearner(config, problem, seed + 1).parameters()
    state |= {f"target/{name}": value for name, value in other.items()}  # the two networks differ
    exact.load_state(state)
    batch = steady_batch(exact, columns, np.random.default_rng(seed))
    assume(len(batch.place))
    # Where a prediction all but meets its target, nearly all digits of their difference are lost, in any float32: what
    # has such an error weighs nothing.
    weight = np.where(exact.update(batch, 0.0) > 0.01, batch.weight, 0.0)
    assume(weight.max() > 0.1)
    batch = batch._replace(weight=weight)
    exact.load_state(state)
    learners = {name: NativeLearner(config, problem, seed, name) for name in SETS}
    for learner in learners.values():
        learner.load_state(state)
        learner.update(batch, 0.0)
    exact.update(batch, 0.0)
    expected = {name: each.grad.numpy() for name, each in exact.online.named_parameters()}
    norm = exact.metrics()["train/grad_norm"]
    for name, learner in learners.items():
        gradient = learner.gradient()
        assert list(gradient) == list(expected)
        errors = {each: gradient[each] - value for each, value in expected.items()}
        assert np.sqrt(sum(np.square(error).sum() for error in errors.values())) <= 1e-4 * norm, name
        largest = max(np.abs(value).max() for value in expected.values())
        assert max(np.abs(error).max() for error in errors.values()) <= 1e-4 * largest, name
        for each, value in learner.parameters().items():  # nothing moves at a learning rate of 0
            np.testing.assert_array_equal(value, state[f"online/{each}"].astype(np.float32))


@each_set
@pytest.mark.parametrize(
    "clip", [{"max_grad_norm": 0.01}, {"max_grad_value": 0.001}], ids=lambda clip: next(iter(clip))
)
def test_clipping_is_as_documented(instruction_set: str, clip: dict[str, float]) -> None:
    learner = native(instruction_set, **clip)
    before = learner.parameters()
    learner.update(random_batch(), 1.0)
    gradient = learner.gradient()
    norm = np.sqrt(sum(np.square(each).sum(dtype=np.float64) for each in gradient.values()))
    assert learner.metrics()["train/grad_norm"] == pytest.approx(norm, rel=1e-6)
    assert norm > 0.02
    for name, value in learner.parameters().items():
        bound = clip.get("max_grad_value", np.inf)
        expected = np.clip(gradient[name] * min(1, clip.get("max_grad_norm", np.inf) / norm), -bound, bound)
        np.testing.assert_allclose(before[name] - value, expected, rtol=0, atol=1e-7)


@each_set
def test_a_gradient_that_stays_the_same_leaves_rmsprop_a_number(instruction_set: str) -> None:
    """Its variance is 0, and rounding puts it below."""
    learner = native(instruction_set, optimizer="rmsprop", max_grad_value=1e-3, optimizer_eps=1e-8)
    for _ in range(200):
        learner.update(random_batch(reward=np.full(16, 1e3)), 1e-3)
    assert all(np.isfinite(value).all() for value in learner.parameters().values())


# --- matrices of every shape


def products(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """rows · weightᵀ + bias in float64, and how far any order of float32 operations may be from it."""
    rows, weight, bias = (each.astype(np.float64) for each in (rows, weight, bias))
    size = np.abs(rows) @ np.abs(weight).T + np.abs(bias)
    return rows @ weight.T + bias, (weight.shape[1] + 2) * 2.0**-24 * size


@each_set
@pytest.mark.parametrize("batch", [1, 2, 15, 16, 17, 63, 64, 65, 200])
def test_matrices_of_every_shape_are_multiplied_right(instruction_set: str, batch: int) -> None:
    """One layer without activation, forward and backward: inputs and outputs of 1 … 140, in every remainder."""
    random = np.random.default_rng(batch)
    for inputs in range(1, 141):
        outputs = 1 + inputs * 53 % 140
        problem = Problem((inputs,), False, outputs)
        learner = native(instruction_set, problem, net_arch=())
        weight, bias = learner.parameters().values()
        assert weight.shape == (outputs, inputs)
        obs = random.standard_normal((batch, inputs), np.float32)
        exact, error = products(obs, weight, bias)
        q = learner.q_values(obs)
        assert (np.abs(q - exact) <= error).all()
        assert (np.abs(learner.q_values(obs[-1:]) - q[-1:]) <= 2 * error[-1:]).all()
        # ∂½(Q(s, a) − r)²/∂W = (Q(s, a) − r) s in the row of a
        action, reward = random.integers(outputs, size=batch), random.normal(size=batch)
        columns = {"obs": obs, "action": action, "reward": reward, "discount": np.zeros(batch), "next_obs": obs}
        learner.update(Batch(Columns(**columns), np.arange(batch), None), 0.1)
        slope = (np.arange(outputs) == action[:, None]) * (exact - reward[:, None]) / batch
        size = (np.arange(outputs) == action[:, None]) * (np.abs(exact) + np.abs(reward[:, None]) + error) / batch
        gradient = learner.gradient()
        tolerance = (batch + inputs + 8) * 2.0**-24
        assert (np.abs(gradient["advantage.0.weight"] - slope.T @ obs) <= tolerance * (size.T @ np.abs(obs))).all()
        assert (np.abs(gradient["advantage.0.bias"] - slope.sum(axis=0)) <= tolerance * size.sum(axis=0)).all()


FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@each_set
@pytest.mark.parametrize("activation", NATIVE_ACTIVATIONS)
def test_activations_are_right_to_the_last_digits(activation: str, instruction_set: str) -> None:
    """Q(s) = f(s) by weights of 1, from the smallest numbers to where f is flat."""
    learner = native(instruction_set, Problem((1,), False, 1), net_arch=(1,), activation=activation)
    learner.load_parameters(
        {name: np.full_like(value, "weight" in name) for name, value in learner.parameters().items()}
    )
    sizes = np.concatenate([np.geomspace(1e-30, 80, 20_000), np.linspace(0, 20, 20_000)]).astype(F32)
    for x in (sizes, -sizes):
        exact = FUNCTIONS[activation](x.astype(F64))
        np.testing.assert_allclose(learner.q_values(x[:, None])[:, 0], exact, rtol=8 * 2.0**-24, atol=1e-36)
        alone = np.concatenate([learner.q_values(each[None, None]) for each in x[::1_000]])[:, 0]
        np.testing.assert_allclose(alone, exact[::1_000], rtol=8 * 2.0**-24, atol=1e-36)


@each_set
def test_a_softmax_of_any_logits_is_a_distribution(instruction_set: str) -> None:
    loss = Categorical(atoms=11, v_min=-1.0, v_max=2.0)
    learner = native(instruction_set, Problem((11,), False, 1), net_arch=(), loss=loss)
    learner.load_parameters({"advantage.0.weight": np.eye(11, dtype=F32), "advantage.0.bias": np.zeros(11, F32)})
    random = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 30.0, 1e3, 1e30):
        logits = (scale * random.standard_normal((200, 11))).astype(F32)
        likelihood = np.exp(logits.astype(F64) - logits.max(axis=1, keepdims=True))
        exact = (likelihood / likelihood.sum(axis=1, keepdims=True)) @ np.linspace(-1, 2, 11)
        np.testing.assert_allclose(learner.q_values(logits)[:, 0], exact, rtol=0, atol=2e-6)


@each_set
@pytest.mark.parametrize("kind", NATIVE_EVERYTHING)
def test_an_observation_is_worth_the_same_alone_and_in_a_batch(instruction_set: str, kind: str) -> None:
    for width in (1, 7, 16, 33, 130):
        settings = {**NATIVE_EVERYTHING[kind], "layer_norm": width > 1}
        learner = native(instruction_set, net_arch=(width, width + 1), **settings)
        obs = random_batch(130).transition.obs
        q = learner.q_values(obs)
        alone = np.concatenate([learner.q_values(row[None]) for row in obs])
        np.testing.assert_allclose(alone, q, rtol=0, atol=3e-5 * np.abs(q).max())
        np.testing.assert_array_equal(learner.q_values(obs[:0]), np.zeros((0, 3), np.float32))


@pytest.mark.parametrize("kind", NATIVE_LOSSES)
@pytest.mark.parametrize("extras", itertools.product((False, True), repeat=3), ids=repr)
def test_outputs_are_those_of_pytorch(kind: str, extras: tuple[bool, bool, bool]) -> None:
    names = dict(zip(("dueling", "noisy", "layer_norm"), extras, strict=True))
    settings = {"loss": LOSSES[kind], "net_arch": (20, 17), **names}
    reference = TorchLearner(plain(**settings), PROBLEM, 5)
    reference.update(random_batch(), 0.1)  # with noise, which outputs leave out
    for learner in [native(each, seed=5, **settings) for each in SETS]:
        learner.load_parameters(reference.parameters())
        learner.update(random_batch(), 0.0)
        for size in (1, 2, 17, 70, 0):
            obs = random_batch(size, seed=size).transition.obs
            expected, actual = reference.outputs(obs), learner.outputs(obs)
            assert actual.shape == expected.shape and actual.dtype == F32
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max(initial=1.0))


@each_set
def test_bytes_and_observations_of_many_axes_are_read_as_their_numbers(instruction_set: str) -> None:
    problem = Problem((2, 3), False, 3)
    learner = native(instruction_set, problem)
    obs = np.random.default_rng(0).integers(0, 256, (20, 2, 3), np.uint8)
    np.testing.assert_array_equal(learner.q_values(obs), learner.q_values(obs.astype(np.float32)))
    ends = []
    for dtype in (np.uint8, np.float32):
        learner = native(instruction_set, problem)
        learner.update(random_batch(20, problem=problem, obs=obs.astype(dtype), next_obs=obs[::-1].astype(dtype)), 1e-4)
        ends.append(learner.state())
    assert_equal_states(*ends)


# --- state


@each_set
@pytest.mark.parametrize("before", [0, 7])
@pytest.mark.parametrize("case", NATIVE_STATES)
def test_a_state_goes_on_to_the_same_bits(case: str, before: int, instruction_set: str) -> None:
    settings = {"replay": Prioritised(), **NATIVE_STATES[case]}
    undisturbed, stopped, resumed = (native(instruction_set, seed=seed, **settings) for seed in (0, 0, 1))
    assert_a_state_goes_on(undisturbed, stopped, resumed, before)


def assert_same_arrays(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Bit for bit, but for the sums of metrics, which one engine keeps in 64 bits and the other in 32."""
    rounded = [
        {name: value.astype(F32) if "metrics/" in name else value for name, value in each.items()}
        for each in (actual, expected)
    ]
    assert_equal_states(*rounded)


@pytest.mark.parametrize("case", NATIVE_STATES)
@pytest.mark.parametrize("first", ["native", "torch"])
def test_what_one_engine_began_the_other_goes_on_with(case: str, first: str) -> None:
    config = plain(**{"replay": Prioritised(), **NATIVE_STATES[case]})
    engines = [NativeLearner, TorchLearner] if first == "native" else [TorchLearner, NativeLearner]
    began, other = engines[0](config, PROBLEM, 0), engines[1](config, PROBLEM, 1)
    assert_equal_states(began.state(), engines[1](config, PROBLEM, 0).state())
    advance(began, range(5))
    other.load_state(began.state())
    assert_same_arrays(other.state(), began.state())
    for learner in (began, other):
        advance(learner, range(5, 9))
    left, right = began.state(), other.state()
    for name in ("random", "optimizer/step", "metrics/updates"):
        np.testing.assert_array_equal(left.pop(name), right.pop(name))
    assert distance(left, right) < 1e-3
    assert distance({name: value - 1e-3 * np.abs(value).max() for name, value in left.items()}, right) > 1e-4
    began.load_state(other.state())
    assert_same_arrays(began.state(), other.state())


@pytest.mark.parametrize("what", ["parameters", "state"])
def test_what_does_not_fit_is_refused_in_one_sentence_and_nothing_is_loaded(what: str) -> None:
    learner = native(optimizer="adam")
    before = learner.state()
    given = {name: value + 1 for name, value in getattr(learner, what)().items()}
    load = learner.load_parameters if what == "parameters" else learner.load_state
    name = next(name for name in given if name.endswith("bias"))
    for changed, says in (
        ({other: value for other, value in given.items() if other != name}, "is missing"),
        ({**given, "other": given[name]}, "'other' is not known here"),
        ({**given, name: np.zeros((8, 9))}, "has shape"),
        ({**given, name: np.full(given[name].shape, "x")}, "holds <U1, and "),
    ):
        with pytest.raises(ValueError, match=says) as refused:
            load(changed)
        assert "\n" not in str(refused.value)
    assert_equal_states(learner.state(), before)


def test_what_is_handed_out_outlives_the_learner() -> None:
    learner = native(noisy=True, optimizer="adam")
    views = {name: getattr(learner._native, name) for name in ("online", "gradient", "first_moment")}
    learner.update(random_batch(), 0.1)
    copies = {name: view.copy() for name, view in views.items()}
    del learner
    gc.collect()
    for name, view in views.items():
        np.testing.assert_array_equal(view, copies[name])


def test_a_memory_outlives_its_owner_for_as_long_as_it_is_bound() -> None:
    learner, undisturbed = native(), native()
    batch = random_batch()
    learner._bind(batch.transition)
    learner._native.bind(
        *[np.array(each) for each in (batch.columns.obs, batch.columns.next_obs, *batch.columns[1:4])], None, None
    )
    gc.collect()
    np.full((16, 4), np.nan, np.float32)  # where freed memory would be used again
    assert learner._native.update(np.arange(16), None, 0.1, None)
    undisturbed.update(batch, 0.1)
    assert_equal_states(learner.state(), undisturbed.state())


# --- the same bits


def trained(learner: NativeLearner, updates: int = 40) -> dict[str, np.ndarray]:
    for update in range(updates):
        learner.q_values(random_batch(3, seed=update).transition.obs, explore=True)
        learner.update(random_batch(100, seed=update % 5), 1e-2)
        if update % 7 == 0:
            learner.update_target()
    return learner.state()


@each_set
@pytest.mark.parametrize("kind", NATIVE_EVERYTHING)
def test_the_seed_decides_every_bit(instruction_set: str, kind: str) -> None:
    make = functools.partial(native, instruction_set, optimizer="adam", net_arch=(30, 20), **NATIVE_EVERYTHING[kind])
    first = trained(make(seed=3))
    threads = torch.get_num_threads()
    torch.rand(5)
    torch.set_num_threads(threads + 1)
    try:
        assert_equal_states(trained(make(seed=3)), first)
    finally:
        torch.set_num_threads(threads)
    other = trained(make(seed=4))
    assert all((other[name] != value).any() for name, value in first.items() if name.startswith("online/"))


def test_the_number_of_threads_changes_nothing() -> None:
    script = (
        "import hashlib, numpy as np, test_native\n"
        "state = test_native.trained(test_native.native(optimizer='adam', noisy=True))\n"
        "print(hashlib.sha256(b''.join(value.tobytes() for value in state.values())).hexdigest())"
    )
    state = trained(native(optimizer="adam", noisy=True))
    expected = hashlib.sha256(b"".join(value.tobytes() for value in state.values())).hexdigest()
    environment = {**os.environ, "OMP_NUM_THREADS": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr


@each_set
def test_learners_in_two_threads_do_not_disturb_each_other(instruction_set: str) -> None:
    make = lambda seed: native(instruction_set, seed=seed, optimizer="adam", net_arch=(64, 64), noisy=True)
    expected = [trained(make(seed), 100) for seed in range(2)]
    ended: dict[int, dict[str, np.ndarray]] = {}
    together = threading.Barrier(2)

    def work(seed: int) -> None:
        learner = make(seed)
        together.wait()
        ended[seed] = trained(learner, 100)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(2):
        assert_equal_states(ended[seed], expected[seed])


def test_one_learner_in_two_threads_is_refused_or_waits_and_nothing_breaks() -> None:
    big, small = random_batch(20_000), random_batch(3)
    learner, undisturbed = (native(net_arch=(64, 64)) for _ in range(2))
    undisturbed.update(big, 0.1)
    expected = undisturbed.state()
    thread = threading.Thread(target=learner.update, args=(big, 0.1))
    thread.start()
    refused = []
    while thread.is_alive():
        try:
            learner.q_values(small.transition.obs)
        except RuntimeError as error:
            refused.append(str(error))
    thread.join()
    assert set(refused) <= {"the learner is at work in another thread"}
    assert_equal_states(learner.state(), expected)


# --- what does not fit


def made(changed: dict[str, Any] | None = None, **settings: Any) -> Any:
    """The extension's own learner: 4 inputs, 3 actions, one layer of 8; with some of what it is made from changed."""
    config = plain(**{"loss": QLearning(), "optimizer": "adam", **settings})
    learner = _native.Learner({**described(config, PROBLEM), **(changed or {})})
    for network in (learner.online, learner.target):
        network[:] = np.random.default_rng(0).standard_normal(len(network), np.float32)
    return learner


def layer(stream: str, inputs: Any, outputs: Any, **changed: Any) -> dict[str, Any]:
    given = {"stream": stream, "kind": "linear", "inputs": inputs, "outputs": outputs, "norm": False}
    return {**given, "activation": None, **changed}


def chain(*sizes: Any, **changed: Any) -> list[dict[str, Any]]:
    """The layers of the advantage, from the inputs to the outputs; `changed` are the last one's."""
    *hidden, last = itertools.pairwise(sizes)
    layers = [layer("advantage", *shape, activation="relu") for shape in hidden]
    return [*layers, layer("advantage", *last, **changed)]


def loss_of(loss: Any, **changed: Any) -> dict[str, Any]:
    return {**plain(loss=loss).to_dict()["loss"], **changed}


def columns(size: int = 20, **changed: Any) -> dict[str, Any]:
    named = random_batch(size).columns._asdict()
    return {**named, **changed}


def bound(**settings: Any) -> Any:
    learner = made(**settings)
    learner.bind(**columns())
    return learner


PLACE = np.arange(6)
REFUSED = (ValueError, TypeError, IndexError, MemoryError, OverflowError, RuntimeError)


@pytest.mark.parametrize(
    "changed",
    [
        *[{"layers": chain(inputs, 8, 3)} for inputs in (0, -4, 2**40, 2**62, 2**70, 4.5, None, "4")],
        *[{"actions": n, "layers": chain(4, 8, n)} for n in (0, -1, 2**31, 2**33, 2**62)],
        {"actions": 2**30, "loss": loss_of(Categorical(), atoms=2**30)},
        *[{"layers": chain(4, *[2**31 - 1] * depth, 3)} for depth in (1, 9)],
        *[
            {"layers": chain(4, *widths, 3)}
            for widths in (
                [0], [8, -1], [2**40], [2**62], [2**63 - 1], [2**64], [2**40, 2**40], [2**25, 2**25], ["8"],
            )
        ],
        {"layers": 8}, {"layers": None}, {"layers": ["8"]}, {"layers": []}, {"layers": [{}]},
        {"layers": [*chain(4, 8, 3), layer("tail", 3, 3)]}, {"layers": chain(4, 8, 3, kind="convolution")},
        {"layers": chain(4, 8, 3, activation="relu")}, {"layers": chain(4, 8, 3, norm=True)},
        {"layers": chain(4, 8, 3, activation="gelu")}, {"layers": chain(4, 8, 3, activation=1)},
        {"layers": chain(4, 8, 3, bias=False)}, {"layers": chain(4, 8, 4)}, {"layers": chain(4, 8, 3)[:1]},
        {"layers": [layer("advantage", 4, 8), layer("advantage", 8, 3)]},
        {"layers": [layer("advantage", 4, 7, activation="relu"), layer("advantage", 8, 3)]},
        {"layers": [layer("torso", 4, 8), *chain(8, 3)]},
        {"layers": [layer("torso", 4, 7, activation="relu"), *chain(8, 3)]},
        {"layers": [layer("torso", 4, 8, activation="relu", kind="noisy"), *chain(8, 3)]},
        {"layers": [layer("torso", 4, 8, activation="relu")]},
        {"layers": [*chain(4, 8, 3), layer("value", 4, 2)]}, {"layers": [*chain(4, 8, 3), layer("value", 5, 1)]},
        {"layers": [*chain(4, 8, 3), layer("embedding", 7, 4)]},
        {"loss": "q_learning"}, {"loss": None}, {"loss": {}}, {"loss": loss_of(QLearning(), kind="other")},
        {"loss": loss_of(QLearning(), error="cubic")}, {"loss": loss_of(QLearning(), surprise=1)},
        {"loss": loss_of(ImplicitQuantile())}, {"loss": loss_of(Categorical(), atoms=1)},
        *[{"loss": loss_of(Quantile(), quantiles=n), "layers": chain(4, 8, 3 * n)} for n in (0, -5, 2**62)],
        {"loss": loss_of(Quantile(), quantiles=5)},
        {"optimizer": "lion"}, {"munchausen": (1.0, 2.0, 3.0)}, {"munchausen": 1.0}, {"munchausen": {"alpha": 1.0}},
        {"optimizer_eps": "small"}, {"max_grad_norm": "none"}, {"surprise": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_before_memory_is_taken(changed: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, MemoryError)):
        made(changed)


@pytest.mark.parametrize("missing", described(plain(), PROBLEM))
def test_a_setting_that_is_missing_is_refused(missing: str) -> None:
    given = described(plain(), PROBLEM)
    del given[missing]
    for use in (_native.Learner, _native.obstacle):
        with pytest.raises(TypeError, match=f"{missing} is missing"):
            use(given)


@pytest.mark.parametrize("instruction_set", ["avx1024", ""])
def test_instructions_that_there_are_not_are_refused(instruction_set: str) -> None:
    with pytest.raises(ValueError, match="this machine has no instruction set"):
        native(instruction_set)


def test_a_network_too_large_for_the_machine_is_refused_in_one_sentence() -> None:
    with pytest.raises(UprightError, match=r"^The network needs more memory than this machine has: lower net_arch\.$"):
        native(net_arch=(65_536,) * 256)


def test_what_was_never_made_is_refused() -> None:
    with pytest.raises(TypeError):
        _native.Learner.__new__(_native.Learner).update(PLACE, None, 0.1, None)
    with pytest.raises(TypeError):
        _native.SumTree.__new__(_native.SumTree).find(np.zeros(1))


def test_learning_before_a_memory_is_bound_is_refused() -> None:
    for learner in (made(), made(noisy=True)):
        with pytest.raises(IndexError, match="a place is outside the memory"):
            learner.update(PLACE, None, 0.1, None)
    learner = made()
    learner.bind(**columns(0))
    with pytest.raises(IndexError):
        learner.update(PLACE, None, 0.1, None)


def apart(array: np.ndarray) -> np.ndarray:
    """The same numbers with gaps between them."""
    return np.repeat(array, 2, axis=0)[::2]


def askew(array: np.ndarray) -> np.ndarray:
    """The same numbers, one byte past where numbers begin."""
    return np.frombuffer(b"." + array.tobytes(), array.dtype, offset=1).reshape(array.shape)


FORBIDDEN = np.ones((20, 3), bool)


@pytest.mark.parametrize(
    "changed",
    [
        {"obs": np.zeros((19, 4), F32)}, {"obs": np.zeros((20, 5), F32)}, {"obs": np.zeros(80, F32)},
        {"obs": np.zeros((20, 4), F64)}, {"obs": np.zeros((20, 4), U8)}, {"obs": np.zeros((20, 4), bool)},
        {"obs": np.zeros((20, 4), ">f4")}, {"obs": np.zeros((20, 4), object)}, {"obs": np.zeros((20, 4), "M8[s]")},
        {"obs": np.float32(0)}, {"obs": None}, {"obs": "observations"}, {"obs": [[0.0] * 4] * 20},
        {"obs": apart(np.zeros((20, 4), F32))}, {"obs": askew(np.zeros((20, 4), F32))},
        {"obs": np.asfortranarray(np.zeros((20, 4), F32))}, {"obs": np.broadcast_to(F32(0), (20, 4))},
        {"next_obs": np.zeros((20, 4), U8)}, {"next_obs": np.zeros((20, 3), F32)},
        {"action": np.zeros(20, np.int32)}, {"action": np.zeros(20)}, {"action": np.zeros((20, 1), I64)},
        {"action": apart(np.zeros(20, I64))}, {"action": askew(np.zeros(20, I64))}, {"action": np.zeros(0, I64)},
        {"reward": np.zeros(20, F32)}, {"reward": np.zeros(19)}, {"reward": np.zeros(20, complex)},
        {"discount": np.zeros(21)}, {"discount": None}, {"discount": askew(np.zeros(20))},
        {"mask": FORBIDDEN}, {"next_mask": FORBIDDEN}, {"mask": FORBIDDEN[:, :2], "next_mask": FORBIDDEN},
        {"mask": FORBIDDEN.astype(U8), "next_mask": FORBIDDEN}, {"mask": FORBIDDEN[:5], "next_mask": FORBIDDEN},
    ],
    ids=lambda changed: "-".join(f"{name}-{getattr(value, 'dtype', value)}-{np.shape(value)}" for name, value in changed.items()),
)  # fmt: skip
def test_columns_that_do_not_fit_are_refused_and_the_ones_before_stay(changed: dict[str, Any]) -> None:
    learner, undisturbed = bound(), bound()
    with pytest.raises((ValueError, TypeError)):
        learner.bind(**columns(**changed))
    for each in (learner, undisturbed):
        assert each.update(PLACE, None, 0.1, None)
    np.testing.assert_array_equal(learner.online, undisturbed.online)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((np.zeros(0, I64), None, 0.1, None), ValueError),
        ((np.array([20]), None, 0.1, None), IndexError),
        ((np.array([0, -1]), None, 0.1, None), IndexError),
        ((np.array([2**62]), None, 0.1, None), IndexError),
        ((np.array([-(2**63)]), None, 0.1, None), IndexError),
        ((np.array([0.5, 1.5]), None, 0.1, None), ValueError),
        ((np.array([True, False]), None, 0.1, None), ValueError),
        ((np.array([1, 2], np.int32), None, 0.1, None), ValueError),
        ((np.array([1, 2], np.uint64), None, 0.1, None), ValueError),
        ((np.array([1, 2], ">i8"), None, 0.1, None), TypeError),
        ((np.array([[1, 2]]), None, 0.1, None), ValueError),
        ((np.array(1), None, 0.1, None), ValueError),
        ((askew(PLACE), None, 0.1, None), ValueError),
        (([1, 2], None, 0.1, None), TypeError),
        ((None, None, 0.1, None), TypeError),
        ((PLACE, np.ones(5), 0.1, None), ValueError),
        ((PLACE, np.ones((6, 1)), 0.1, None), TypeError),
        ((PLACE, np.ones(6, complex), 0.1, None), TypeError),
        ((PLACE, askew(np.ones(6)), 0.1, None), ValueError),
        ((PLACE, None, np.nan, None), ValueError),
        ((PLACE, None, np.inf, None), ValueError),
        ((PLACE, None, None, None), TypeError),
        ((PLACE, None, 0.1, np.empty(5, F32)), ValueError),
        ((PLACE, None, 0.1, np.empty(6, F64)), TypeError),
        ((PLACE, None, 0.1, apart(np.empty(6, F32))), TypeError),
        ((PLACE, None, 0.1, askew(np.empty(6, F32))), (TypeError, ValueError)),  # it is read-only too
        ((PLACE, None, 0.1, np.broadcast_to(F32(0), 6)), TypeError),
    ],
)
def test_batches_that_do_not_fit_are_refused_and_nothing_is_learned(words: tuple[Any, ...], error: type) -> None:
    learner, undisturbed = bound(), bound()
    with pytest.raises(error):
        learner.update(*words)
    np.testing.assert_array_equal(learner.online, undisturbed.online)
    assert learner.steps == 0
    for each in (learner, undisturbed):
        assert each.update(apart(PLACE), None, 0.1, None)
    np.testing.assert_array_equal(learner.online, undisturbed.online)


@pytest.mark.parametrize("action", [-1, 3, 2**31, 2**32, 2**62, -(2**63)])
def test_an_action_that_there_is_not_is_refused(action: int) -> None:
    learner = made()
    actions = np.zeros(20, I64)
    actions[4] = action
    learner.bind(**columns(action=actions))
    before = learner.online.copy()
    with pytest.raises(IndexError, match="an action is out of range"):
        learner.update(PLACE, None, 0.1, None)
    np.testing.assert_array_equal(learner.online, before)
    assert learner.update(PLACE[:4], None, 0.1, None)


@pytest.mark.parametrize("question", ["q_values", "outputs"])
@pytest.mark.parametrize(
    ("obs", "q"),
    [
        (np.zeros((5, 4), F32), np.empty((5, 2), F32)), (np.zeros((5, 4), F32), np.empty((4, 3), F32)),
        (np.zeros((5, 4), F32), np.empty((6, 3), F32)), (np.zeros((5, 4), F32), np.empty((5, 3), F64)),
        (np.zeros((5, 4), F32), np.empty(15, F32)), (np.zeros((5, 4), F32), np.empty((3, 5), F32).T),
        (np.zeros((5, 4), F32), np.broadcast_to(F32(0), (5, 3))), (np.zeros((5, 4), F32), None),
        (np.zeros((5, 4), F32), askew(np.empty((5, 3), F32))),
        (np.zeros((5, 3), F32), np.empty((5, 3), F32)), (np.zeros((5, 4), F64), np.empty((5, 3), F32)),
        (np.zeros((5, 4), np.int8), np.empty((5, 3), F32)), (np.zeros(4, F32), np.empty((1, 3), F32)),
        (np.float32(0), np.empty((1, 3), F32)), (None, np.empty((1, 3), F32)), ([[0.0] * 4], np.empty((1, 3), F32)),
        (askew(np.zeros((5, 4), F32)), np.empty((5, 3), F32)),
    ],
)  # fmt: skip
def test_questions_that_do_not_fit_are_refused(obs: Any, q: Any, question: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        getattr(made(), question)(obs, q, *[False] * (question == "q_values"))


def test_noise_that_does_not_fit_is_refused() -> None:
    learner = made(noisy=True)
    assert learner.noise_size == 4 + 8 + 8 + 3
    for drawn in (np.zeros(22, F32), np.zeros(24, F32), np.zeros(0, F32), np.zeros((23, 1), F32), None, "noise"):
        with pytest.raises((ValueError, TypeError)):
            learner.set_noise(False, drawn)
    for of_target in (False, True):
        with pytest.raises(ValueError, match="there are no noisy layers"):
            made().set_noise(of_target, np.zeros(0, F32))


def test_counters_and_shares_that_cannot_be_are_refused() -> None:
    learner = bound()
    for steps in (-1, 2**63 - 1):
        with pytest.raises(ValueError, match="steps is out of range"):
            learner.steps = steps
    for updates in (-1, 2**63 - 1):
        with pytest.raises(ValueError, match="updates is out of range"):
            learner.updates = updates
    for names in ([], [*learner.measured, "surprise"], [*list(learner.measured)[1:], "surprise"]):
        with pytest.raises(ValueError, match="measures|is missing"):
            learner.measured = dict.fromkeys(names, 1.0)
    for share in (np.nan, np.inf):
        with pytest.raises(ValueError, match="the share is not finite"):
            learner.update_target(share)
    for name in ("online", "noise_size", "outputs_asked", "instruction_set", "last"):
        with pytest.raises(AttributeError):
            setattr(learner, name, 1)
    assert learner.steps == learner.updates == 0 and set(learner.measured.values()) == {0.0}


@each_set
@pytest.mark.parametrize("kind", NATIVE_EVERYTHING)
@pytest.mark.parametrize("where", ["obs", "next_obs", "reward", "discount", "weight", "large reward"])
def test_what_is_no_number_ends_in_diverged_and_changes_nothing(instruction_set: str, kind: str, where: str) -> None:
    config = {"optimizer": "adam", "replay": Prioritised(), "net_arch": (20, 9), **NATIVE_EVERYTHING[kind]}
    if where == "large reward" and kind == "categorical":
        config["loss"] = Categorical(atoms=7, v_min=-1e30, v_max=1e30)
    for size in (1, 2, 15, 65):
        learner, undisturbed = (native(instruction_set, **config) for _ in range(2))
        for each in (learner, undisturbed):
            each.update(random_batch(70), 1e-2)
        drawn, weight = random_batch(size, discount=np.ones(size)).columns, np.ones(size)
        before = learner.state()
        for value in (np.nan, np.inf) if where == "next_obs" and kind == "q_learning" else (np.nan,):
            spoilt = drawn._replace(
                **{name: getattr(drawn, name).copy() for name in ("obs", "next_obs", "reward", "discount")}
            )
            if where == "weight":
                weight[-1] = value
            elif where == "large reward":
                spoilt.reward[-1] = np.nan if kind == "categorical" else 1e300
            else:
                getattr(spoilt, where)[-1] = value
            with pytest.raises(Diverged, match=r"(The loss|The gradient's norm) is (nan|inf), so nothing more"):
                learner.update(Batch(spoilt, np.arange(size), weight), 1e-2)
        after = learner.state()
        set_generator_state(undisturbed._random, after["random"])  # noise was drawn, and nothing else happened
        assert_equal_states(after, {**before, "random": after["random"]})
        for each in (learner, undisturbed):
            # The smaller one leaves the rows of the panel that it does not fill to what was there before.
            each.update(random_batch(1 + size // 3, seed=4), 1e-2)
            each.update(random_batch(size, seed=5), 1e-2)
        assert_equal_states(learner.state(), undisturbed.state())
        assert all(np.isfinite(value).all() for value in learner.state().values())


@each_set
def test_what_is_no_number_is_worth_no_number(instruction_set: str) -> None:
    learner = native(instruction_set, net_arch=(20,), layer_norm=True)
    obs = random_batch(20).transition.obs
    clean = learner.q_values(obs)
    for value in (np.nan, np.inf, -np.inf):
        spoilt = obs.copy()
        spoilt[7, 2] = value
        q = learner.q_values(spoilt)
        assert np.isnan(q[7]).all()
        np.testing.assert_array_equal(np.delete(q, 7, axis=0), np.delete(clean, 7, axis=0))
        assert np.isnan(learner.q_values(spoilt[7:8])).all()
    np.testing.assert_array_equal(learner.q_values(obs), clean)


GARBAGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-3, 30), max_size=4),
    arrays.arrays(
        arrays.scalar_dtypes() | st.sampled_from([F32, F64, I64, U8, np.bool_]).map(np.dtype),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=21),
    ),
)


IMPLICIT = {"loss": ImplicitQuantile(quantiles=5, target_quantiles=6, policy_quantiles=4, cosines=7)}
FRACTIONS = {"fractions": np.full((6, 5), 0.3, F32), "target_fractions": np.full((6, 6), 0.7, F32)}


@pytest.mark.parametrize(
    "changed",
    [
        *[
            loss_of(IMPLICIT["loss"], **{name: value})
            for name in ("quantiles", "target_quantiles", "policy_quantiles")
            for value in (65, 0, -1, 2**62)
        ],
        *[loss_of(IMPLICIT["loss"], cosines=value) for value in (0, -1, 8, 2**31, 2**62)],
        loss_of(Quantile(quantiles=5)), loss_of(QLearning()),
    ],
    ids=repr,
)  # fmt: skip
def test_fractions_that_cannot_be_asked_for_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises((ValueError, MemoryError)):
        made({"loss": changed}, **IMPLICIT)


def test_an_embedding_that_does_not_fit_is_refused() -> None:
    cosines = 2**31 - 1
    wide = [layer("torso", 4, cosines, activation="relu"), *chain(cosines, 8, 3), layer("embedding", cosines, cosines)]
    embedding = layer("embedding", 7, 4)
    for layers in (
        wide,
        chain(4, 8, 3),
        [*chain(4, 8, 3), embedding, embedding],
        [*chain(4, 8, 3), {**embedding, "outputs": 5}],
        [*chain(4, 8, 3), {**embedding, "kind": "noisy"}],
        [*chain(4, 8, 3), {**embedding, "activation": "relu"}],
    ):
        loss = loss_of(IMPLICIT["loss"], cosines=cosines) if layers is wide else loss_of(IMPLICIT["loss"])
        with pytest.raises((ValueError, MemoryError)):
            made({"layers": layers, "loss": loss})
    made({"layers": [*chain(4, 8, 3), embedding], "loss": loss_of(IMPLICIT["loss"])})


@pytest.mark.parametrize("name", FRACTIONS)
def test_fractions_that_do_not_fit_are_refused_and_nothing_is_learned(name: str) -> None:
    learner = bound(**IMPLICIT)
    before, good = learner.online.copy(), FRACTIONS[name]
    for wrong in (
        None,
        good[:5],
        good[:, :4],
        good.ravel(),
        good[0, 0],
        askew(good),
        np.zeros((0, 0), F32),
        "half",
        1j * good,
    ):
        with pytest.raises((ValueError, TypeError)):
            learner.update(PLACE, None, 0.1, None, **{**FRACTIONS, name: wrong})
        np.testing.assert_array_equal(learner.online, before)
    with pytest.raises(ValueError, match="implicit quantiles, and only they"):
        bound().update(PLACE, None, 0.1, None, **FRACTIONS)
    assert learner.update(PLACE, None, 0.1, None, **FRACTIONS)


def good_arguments(fractions: dict[str, np.ndarray], asked: int) -> dict[str, dict[str, Any]]:
    update = {"place": PLACE, "weight": np.ones(6), "learning_rate": 1e-3, "priority": np.empty(6, F32)}
    return {
        "bind": columns(),
        "update": {**update, **fractions},
        "q_values": {"obs": np.zeros((5, 4), F32), "q": np.empty((5, 3), F32), "noisy": False},
        "outputs": {"obs": np.zeros((5, 4), F32), "output": np.empty((5, 3 * asked), F32)},
        "update_target": {"share": 0.5},
    }


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::numpy.exceptions.ComplexWarning")
@settings(max_examples=100 * EXAMPLES)
@given(data=st.data())
def test_garbage_is_refused_or_taken_but_breaks_nothing(data: Any) -> None:
    kind, fractions = data.draw(st.sampled_from([({}, {}), (IMPLICIT, FRACTIONS)]))
    learner = bound(noisy=True, **kind)
    noise = np.ones(learner.noise_size, F32)
    for _ in range(data.draw(st.integers(1, 4))):
        given = good_arguments(fractions, learner.outputs_asked) | {"set_noise": {"of_target": False, "drawn": noise}}
        method = data.draw(st.sampled_from(sorted(given)))
        arguments = given[method]
        for name in data.draw(st.lists(st.sampled_from(sorted(arguments)), max_size=2)):
            arguments[name] = data.draw(GARBAGE)
        with contextlib.suppress(*REFUSED):
            getattr(learner, method)(**arguments)
    # Another memory may have been bound, and numbers been learned that are none; from good ones all goes on.
    learner.bind(**columns())
    learner.online[:] = learner.target[:] = 0.1
    for moments_of in (learner.first_moment, learner.second_moment):
        moments_of[:] = 0
    for of_target in (False, True):
        learner.set_noise(of_target, noise)
    assert learner.update(PLACE, None, 1e-3, None, **fractions)
    assert np.isfinite(learner.online).all()


# --- without PyTorch


def test_a_run_imports_no_torch(tmp_path) -> None:
    script = (
        "import sys, upright\n"
        "agent = upright.DQN('CartPole-v1', engine='native', total_timesteps=2_000, learning_starts=200,"
        " net_arch=(16,), batch_size=16, replay='prioritised', noisy=True).learn()\n"
        "assert agent.run.updates == 900, agent.run.updates\n"
        "mean = agent.evaluate(5).mean\n"
        f"loaded = upright.load(agent.save({str(tmp_path)!r}))\n"
        "assert loaded.evaluate(5).mean == mean\n"
        "assert loaded.predict([0.0, 0.1, 0.0, 0.1])[0] in (0, 1)\n"
        "assert loaded.learner.engine == 'native'\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
