"""Which engine a run takes, what it says about it, and that files know no engine."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import upright
from configurations import EVERYTHING, NATIVE_ACTIVATIONS, NATIVE_LOSSES, SHORT, VARIANTS, native_can
from engines import AUTO, ENGINES, HAS_NATIVE, needs_native
from learner_properties import random_batch
from toy_environments import Image, Noisy
from upright import machine
from upright.errors import Diverged, MissingExtra, SettingError
from upright.learners import engine as choice
from upright.learners import make_learner, obstacle_to_native
from upright.learners.problem import Problem
from upright.learners.torch.losses import EQUATIONS, action_values
from upright.replay.prioritised import SumTree, sum_tree
from upright.settings.config import Config
from upright.settings.kinds import KINDS, ImplicitQuantile, QLearning

VECTOR = Problem((4,), False, 3)
IMAGE = Problem((4, 36, 36), True, 3)
TINY = {**SHORT, "total_timesteps": 200}
COMPILER = (
    "upright was installed without a C++ compiler (get one by apt install g++, xcode-select --install or "
    "conda install gxx, and install upright again)"
)
OBSTACLES: dict[str, tuple[dict[str, Any], Problem, nn.Module | None, str]] = {
    "images": ({}, IMAGE, None, "the observations are images"),
    "network": ({}, VECTOR, nn.Linear(4, 3), "the network is your own"),
    "many fractions": (
        {"loss": ImplicitQuantile(quantiles=65)},
        VECTOR,
        None,
        "loss has more than 64 quantiles, target_quantiles or policy_quantiles",
    ),
    "device": ({"device": "cpu:0"}, VECTOR, None, "device is cpu:0"),
}


@pytest.fixture
def without_extension(monkeypatch) -> None:
    """As where upright was installed without a compiler."""
    monkeypatch.setitem(sys.modules, "upright._native", None)
    monkeypatch.delitem(sys.modules, "upright.learners.native", raising=False)


def config(**settings: Any) -> Config:
    return Config(**{"net_arch": (8,), "munchausen": None, "device": "cpu", **settings})


@needs_native
@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("kind", NATIVE_LOSSES)
def test_auto_takes_native_for_a_perceptron_and_says_nothing(kind: str, device: str, caplog) -> None:
    with caplog.at_level(logging.INFO, "upright"):
        learner = make_learner(config(device=device, **EVERYTHING[kind]), VECTOR, 0)
    assert learner.engine == "native" and learner.device.startswith("cpu, ")
    assert caplog.messages == []


@needs_native
def test_native_can_do_the_losses_and_activations_that_it_has() -> None:
    assert {"q_learning", "categorical", "quantile", "implicit_quantile"} <= set(NATIVE_LOSSES)
    assert {"relu", "tanh", "silu"} <= set(NATIVE_ACTIVATIONS)


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("settings", [*VARIANTS.values()], ids=[*VARIANTS])
def test_every_loss_has_an_engine_that_learns_it(settings, engine: str) -> None:
    learner = make_learner(config(engine=engine, loss=settings), VECTOR, 0)
    learner.update(random_batch(), 1e-3)
    assert all(np.isfinite(value).all() for value in learner.parameters().values())


@needs_native
@pytest.mark.parametrize("case", OBSTACLES)
def test_auto_takes_torch_for_the_rest_and_says_why_in_one_line(case: str, caplog) -> None:
    settings, problem, network, because = OBSTACLES[case]
    with caplog.at_level(logging.INFO, "upright"):
        learner = make_learner(config(**settings), problem, 0, network)
    assert learner.engine == "torch"
    assert caplog.messages == [f"The engine is torch, because {because}."]


@needs_native
@pytest.mark.parametrize("case", OBSTACLES)
def test_native_refuses_the_rest_in_one_sentence(case: str) -> None:
    settings, problem, network, because = OBSTACLES[case]
    with pytest.raises(SettingError) as refused:
        make_learner(config(engine="native", **settings), problem, 0, network)
    assert str(refused.value) == (f"engine is native, which cannot do this: {because}; choose --engine torch or auto.")


@dataclass(frozen=True)
class Tempered(QLearning):
    """A loss of which nobody told the native engine."""

    temperature: float = 1.0


@needs_native
@pytest.mark.parametrize(
    ("name", "because"),
    [("tempered", "loss is tempered"), ("q_learning", "loss.temperature is not known to the native engine")],
)
def test_a_loss_or_a_number_of_one_that_native_does_not_know_goes_to_torch(monkeypatch, caplog, name, because) -> None:
    monkeypatch.setitem(KINDS, "loss", {name: Tempered})
    monkeypatch.setitem(EQUATIONS, Tempered, EQUATIONS[QLearning])
    with caplog.at_level(logging.INFO, "upright"):
        learner = make_learner(config(loss=Tempered()), VECTOR, 0)
    learner.update(random_batch(), 1e-3)
    assert learner.engine == "torch" and caplog.messages == [f"The engine is torch, because {because}."]
    with pytest.raises(SettingError, match=f"engine is native, which cannot do this: {because}; choose"):
        make_learner(config(loss=Tempered(), engine="native"), VECTOR, 0)


@needs_native
@pytest.mark.parametrize(("name", "value"), [("activation", "gelu"), ("optimizer", "lion")])
def test_what_native_has_no_name_for_is_an_obstacle(name: str, value: str) -> None:
    asked = config()
    object.__setattr__(asked, name, value)  # as if the settings allowed it
    assert obstacle_to_native(asked, VECTOR, has_own_network=False) == f"{name} is {value}"


@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        *(("torch", kind) for kind in VARIANTS),
        *(("native", kind) for kind in VARIANTS if native_can(loss=VARIANTS[kind])),
    ],
)
def test_outputs_are_what_q_is_computed_from(engine: str, kind: str) -> None:
    loss = VARIANTS[kind]
    learner = make_learner(config(engine=engine, loss=loss, noisy=True, dueling=True), VECTOR, 0)
    learner.update(random_batch(), 1e-3)
    obs = random_batch().transition.obs
    learner.q_values(obs, explore=True)  # draws noise, which outputs leave out
    outputs = learner.outputs(obs)
    count = 1 if loss.outputs is None else loss.outputs if loss.fractions is None else loss.fractions.policy
    assert outputs.shape == (16, 3, count)
    q = action_values(loss, torch.from_numpy(outputs[:, :, 0] if loss.outputs is None else outputs)).numpy()
    np.testing.assert_allclose(q, learner.q_values(obs), rtol=0, atol=1e-5 * np.abs(q).max())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("mask", "expected"), [(None, 3.0), ([[True, False, True], [False, True, False]], 8 / 3), ([[True] * 3] * 2, 3.0)]
)
def test_mean_q_is_over_the_actions_that_are_allowed(engine: str, mask, expected: float) -> None:
    problem = Problem((1,), False, 3)
    learner = make_learner(config(engine=engine, net_arch=(), loss=QLearning()), problem, 0)
    # Q(1, ·) = 1, 2, 3 and Q(2, ·) = 2, 4, 6
    weight = np.array([[1], [2], [3]], np.float32)
    learner.load_parameters({"advantage.0.weight": weight, "advantage.0.bias": np.zeros(3, np.float32)})
    masks = {} if mask is None else {"mask": np.array(mask), "next_mask": np.ones((2, 3), bool)}
    obs, action = np.array([[1], [2]], np.float32), np.array([0, 1])
    learner.update(random_batch(2, problem=problem, obs=obs, action=action, **masks), 0.0)
    assert learner.state()["metrics/mean_q"] == pytest.approx(expected, rel=1e-6)
    assert learner.metrics()["train/mean_q"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_from_before_a_measure_was_added_loads(engine: str) -> None:
    learner, other = (make_learner(config(engine=engine), VECTOR, seed) for seed in (0, 1))
    for update in (learner.update, other.update):
        update(random_batch(), 1e-3)
    state = learner.state()
    del state["metrics/mean_q"]
    other.load_state(state)
    assert other.state().pop("metrics/mean_q") == 0
    for name, value in state.items():
        np.testing.assert_array_equal(other.state()[name], value)


class Watched(nn.Linear):
    """Records with how many threads it is asked."""

    threads: int | None = None

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        self.threads = torch.get_num_threads()
        return super().forward(obs)


@pytest.mark.parametrize(
    ("width", "variable", "expected"), [(4, None, 1), (4, "3", 3), (400_000, None, 3)], ids=["small", "set", "large"]
)
def test_a_torch_learner_leaves_the_number_of_threads_as_it_was(monkeypatch, width, variable, expected) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    problem = Problem((width,), False, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        learner = make_learner(config(engine="torch"), problem, 0, Watched(width, 3))
        batch = random_batch(2, problem=problem)
        for use in (learner.q_values, learner.outputs, lambda obs: learner.update(batch, 1e-3)):
            learner.online.threads = None
            use(batch.transition.obs)
            assert learner.online.threads == expected
            assert torch.get_num_threads() == 3
        learner.update_target()
        with pytest.raises(Diverged):
            learner.update(random_batch(2, problem=problem, reward=np.full(2, np.nan)), 1e-3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("case", [None, *OBSTACLES])
def test_torch_takes_everything_and_says_nothing(case: str | None, caplog) -> None:
    settings, problem, network, _ = OBSTACLES[case] if case else ({}, VECTOR, None, "")
    with caplog.at_level(logging.INFO, "upright"):
        assert make_learner(config(engine="torch", **settings), problem, 0, network).engine == "torch"
    assert caplog.messages == []


def test_without_the_extension_all_is_done_by_torch(without_extension, caplog) -> None:
    with caplog.at_level(logging.INFO, "upright"):
        agent = upright.DQN(Noisy, replay="prioritised", **TINY).learn()
    assert agent.agent.learner.engine == "torch" and agent.run.updates > 0
    assert [text for text in caplog.messages if "engine" in text] == [f"The engine is torch, because {COMPILER}."]
    assert isinstance(sum_tree(3), SumTree)
    with pytest.raises(SettingError, match="engine is native, which cannot do this: upright was installed without a C"):
        make_learner(config(engine="native"), VECTOR, 0)


def test_an_engine_that_there_is_not_is_refused() -> None:
    with pytest.raises(SettingError, match="engine is 'jax'"):
        config(engine="jax")


def test_an_image_environment_takes_torch(caplog) -> None:
    with caplog.at_level(logging.INFO, "upright"):
        agent = upright.DQN(Image, **TINY)
    assert agent.agent.learner.engine == "torch"
    assert sum("The engine is torch" in text for text in caplog.messages) == HAS_NATIVE or not HAS_NATIVE
    agent.close()


@pytest.mark.parametrize("saved", ENGINES)
def test_a_policy_loads_into_either_engine_whichever_saved_it(saved: str, tmp_path) -> None:
    agent = upright.DQN("CartPole-v1", engine=saved, dueling=True, noisy=True, **TINY).learn()
    assert agent.agent.learner.engine == saved
    agent.save(tmp_path)
    observations = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    expected = agent.agent.q_values(observations)
    engines = ["auto", "torch", *(["native"] if HAS_NATIVE else [])]
    for engine in engines:
        loaded = upright.load(tmp_path, engine=engine)
        assert loaded.learner.engine == (AUTO if engine == "auto" else engine)
        q = loaded.q_values(observations)
        if loaded.learner.engine == saved:
            np.testing.assert_array_equal(q, expected)
        np.testing.assert_allclose(q, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        for name, value in agent.agent.learner.parameters().items():
            np.testing.assert_array_equal(loaded.learner.parameters()[name], value)


@needs_native
def test_a_policy_that_native_saved_loads_where_there_is_no_extension(tmp_path, monkeypatch) -> None:
    agent = upright.DQN("CartPole-v1", engine="native", **TINY).learn()
    agent.save(tmp_path)
    observation = np.array([0.01, 0.02, 0.03, 0.04], np.float32)
    expected = agent.agent.q_values(observation)
    monkeypatch.setitem(sys.modules, "upright._native", None)
    loaded = upright.load(tmp_path)
    assert loaded.learner.engine == "torch"
    np.testing.assert_allclose(loaded.q_values(observation), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(SettingError, match="engine is native, which cannot do this"):
        upright.load(tmp_path, engine="native")


@needs_native
def test_a_policy_that_native_saved_loads_onto_a_device_that_native_lacks(tmp_path) -> None:
    upright.DQN("CartPole-v1", engine="native", **TINY).save(tmp_path)
    assert upright.load(tmp_path, device="cpu").learner.engine == "native"
    assert upright.load(tmp_path, device="cpu:0").learner.engine == "torch"


# --- PyTorch, where it is needed and missing, or is not the one that would help


@pytest.fixture
def without_torch(monkeypatch) -> None:
    """As where PyTorch is not installed."""
    monkeypatch.setitem(sys.modules, "torch", None)


@needs_native
@pytest.mark.parametrize("case", OBSTACLES)
def test_where_torch_is_missing_what_needs_it_is_refused_with_the_line_that_installs_it(case, without_torch) -> None:
    settings, problem, network, because = OBSTACLES[case]
    with pytest.raises(MissingExtra) as refused:
        make_learner(config(**settings), problem, 0, network)
    assert str(refused.value) == (
        f"PyTorch is needed, because {because}, and it is not installed: pip install 'upright[torch]'"
    )


def test_where_torch_is_missing_the_engine_that_was_chosen_is_named(without_torch) -> None:
    with pytest.raises(MissingExtra, match="PyTorch is needed, because engine is torch, and it is not installed: pip "):
        make_learner(config(engine="torch"), VECTOR, 0)


@needs_native
def test_where_torch_is_missing_the_native_engine_needs_none(without_torch) -> None:
    assert make_learner(config(), VECTOR, 0).engine == "native"


def test_where_no_engine_is_installed_both_ways_out_are_offered(without_torch, without_extension) -> None:
    with pytest.raises(MissingExtra, match=r"get a compiler \(apt install g\+\+, .*\) and install upright again, or "):
        make_learner(config(), VECTOR, 0)


@pytest.fixture
def card(monkeypatch) -> Iterator[None]:
    """As where there is an NVIDIA card, and a PyTorch without CUDA."""
    monkeypatch.setattr(choice, "has_nvidia_card", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    choice.mention_unused_card.cache_clear()
    yield
    choice.mention_unused_card.cache_clear()


def mentions(caplog, **settings: Any) -> list[str]:
    """What is logged of a card while learners of images, and of vectors, are made."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "upright"), contextlib.suppress(MissingExtra):
        make_learner(config(**settings), VECTOR, 0)
        for _ in range(2):
            make_learner(config(**settings), IMAGE, 0)
    return [text for text in caplog.messages if "NVIDIA" in text]


def test_a_card_that_torch_cannot_use_is_mentioned_once_and_for_images(card, caplog, monkeypatch) -> None:
    assert mentions(caplog) == []  # the CPU was asked for
    assert mentions(caplog, device="auto") == [
        "This machine has an NVIDIA card, which would help with images but needs PyTorch with CUDA: "
        "pip install --force-reinstall 'torch<3'"
    ]
    assert mentions(caplog, device="auto") == []


def test_a_card_is_mentioned_where_torch_is_missing(card, without_torch, caplog) -> None:
    [text] = mentions(caplog, device="auto")
    assert text.endswith("needs PyTorch with CUDA: pip install 'upright[torch]'")


@pytest.mark.parametrize("there", [False, True])
def test_no_card_is_mentioned_where_there_is_none_or_torch_can_use_it(there, card, caplog, monkeypatch) -> None:
    monkeypatch.setattr(choice, "has_nvidia_card", lambda: there)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert mentions(caplog, device="auto") == []


def test_a_card_is_found_by_what_its_driver_shows(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / path.lstrip("/"))
    assert not machine.has_nvidia_card()
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    assert machine.has_nvidia_card()
