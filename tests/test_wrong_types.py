"""Whatever a user calls with a value of the wrong type, for any of its arguments, answers with an UprightError.

Each call is made once for each argument and each value in VALUES, among which some fit; then it simply works. Python's
own TypeError is left to calls whose arguments have the wrong names or number.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import upright
from configurations import SHORT
from toy_environments import Noisy
from upright.errors import UprightError
from upright.settings.kinds import KINDS


class Thing:
    """An object of a class that nothing here knows."""


def function(*arguments: Any, **named: Any) -> None:
    """A function that takes everything and returns nothing."""


VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "zero": 0,
    "negative": -1,
    "three": 3,
    "fraction": 2.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "huge": 10**400,
    "complex": 1j,
    "text": "text",
    "empty text": "",
    "null byte": "a\0b",
    "bytes": b"bytes",
    "list": [],
    "ragged list": [1, [2, 3]],
    "tuple": (1, "two"),
    "observation and info": (np.zeros(3, np.float32), {}),
    "dict": {},
    "dict of int": {1: 2},
    "set": {1},
    "object": Thing(),
    "class": Thing,
    "function": function,
    "generator": (number for number in range(3)),
    "module": types,
    "array": np.zeros(3, np.float32),
    "array of objects": np.array([Thing()], object),
    "array of text": np.array(["a", "b"]),
    "large array": np.zeros((2, 3, 4, 5)),
    "path": Path("nowhere"),
    "space": spaces.Discrete(2),
    "config": upright.Config(),
    "loss": upright.Quantile(),
    "exception": ValueError("a value"),
}
RESULT = {"env": "CartPole-v1", "seed": 0, "steps": 100, "seconds": 1.0, "final_mean": 9.5, "threshold": 475.0}
HUGE = {"capacity": ("huge",)}  # values that an argument is not given, because they would ask for all there is


def call_with(make: Callable[..., Any], good: Mapping[str, Any], name: str, value: Any) -> None:
    """Call with one argument replaced. Anything raised but an UprightError is a failure of the test."""
    try:
        made = make(**{**good, name: value})
        if isinstance(made, types.GeneratorType):
            for _ in made:
                break
    except UprightError as error:
        text = str(error)
        assert text and "\n" not in text and "Traceback" not in text
    else:
        if hasattr(made, "close"):
            made.close()


@pytest.fixture(scope="module")
def agent() -> upright.DQN:
    return upright.DQN(Noisy, **SHORT).learn(100)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@functools.cache
def memory(prioritised: bool) -> upright.ReplayMemory:
    filled = upright.ReplayMemory(8, replay=upright.Prioritised() if prioritised else upright.Uniform())
    for number in range(8):
        filled.push(np.zeros(3, np.float32), number % 2, 1.0, 0.9, np.zeros(3, np.float32))
    return filled


# What a user calls: the callable, and arguments with which it works.
def calls(agent: upright.DQN) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    observation = np.zeros(3, np.float32)
    batch = memory(False).sample(4)
    transition = {"obs": observation, "action": 1, "reward": 0.5, "discount": 0.9, "next_obs": observation}
    fresh = lambda: upright.DQN(Noisy, **SHORT)
    short = upright.Config(**SHORT)
    return {
        "DQN": (
            lambda **named: upright.DQN(**{**SHORT, **named}),
            {"env": Noisy, "preset": "default", "seed": 0, "network": None, "folder": None, "start_from": None},
        ),
        "learn": (lambda **named: fresh().learn(**named), {"total_timesteps": 20, "progress_bar": False, "plot": False}),
        "Run": (
            upright.Run,
            {"source": Noisy, "config": short, "seed": 0, "folder": None, "network": None, "parameters": None},
        ),
        "Run.open": (
            upright.Run.open,
            {"folder": "x", "total_timesteps": None, "source": Noisy, "network": None, "trust": False, "config": None},
        ),
        "Run.extend": (lambda **named: fresh().run.extend(**named), {"total_timesteps": 400}),
        "Run.evaluate": (agent.run.evaluate, {"episodes": 1, "seed": 0}),
        "make": (upright.make, {"source": Noisy, "config": short, "render_mode": None, "notify": print}),
        "inspect": (upright.inspect, {"name": "CartPole-v1"}),
        "load": (
            upright.load,
            {"folder": "policy", "network": None, "device": "cpu", "engine": "auto", "trust": False},
        ),
        "train": (upright.train, {"run": agent.run, "steps": 1}),
        "experiment": (
            upright.experiment,
            {
                "env": "CartPole-v1", "config": short, "seeds": range(1), "folder": "experiment", "jobs": 1,
                "cluster": None, "storage_url": None, "preset": None, "tensorboard": False,
            },
        ),
        "exploration_rate": (upright.exploration_rate, {"config": short, "step": 3}),
        "live": (upright.live, {"progresses": [], "title": ""}),
        "summarise": (upright.summarise, {"results": [RESULT]}),
        "predict": (
            agent.predict,
            {
                "observation": observation, "state": None, "episode_start": None, "deterministic": True,
                "action_masks": None,
            },
        ),
        "q_values": (agent.q_values, {"observation": observation}),
        "evaluate": (agent.evaluate, {"episodes": 1, "seed": 0, "env": None}),
        "Agent.predict": (agent.agent.predict, {"observation": observation, "action_masks": np.ones(4, bool)}),
        "Agent.q_values": (agent.agent.q_values, {"observation": observation}),
        "Agent.evaluate": (agent.agent.evaluate, {"episodes": 1, "seed": 0, "env": Noisy}),
        "save": (agent.save, {"folder": "kept"}),
        "ReplayMemory": (upright.ReplayMemory, {"capacity": 4, "forms": None, "seed": 0, "replay": upright.Uniform()}),
        "push": (lambda **named: memory(False).push(**named), transition),
        "push, prioritised": (lambda **named: memory(True).push(**named), transition),
        "first push": (lambda **named: upright.ReplayMemory(4).push(**named), transition),
        "sample": (lambda **named: memory(False).sample(**named), {"batch_size": 4, "progress": 1.0}),
        "sample, prioritised": (lambda **named: memory(True).sample(**named), {"batch_size": 4, "progress": 1.0}),
        "reprioritise": (
            lambda **named: memory(True).reprioritise(**named), {"batch": batch, "priority": np.ones(4)}
        ),
        "override": (short.override, {"gamma": 0.9, "loss": "quantile", "replay": "uniform", "munchausen": True}),
        "Config.from_dict": (upright.Config.from_dict, {"values": {}}),
    }  # fmt: skip


NAMES = list(calls(upright.DQN(Noisy, **SHORT)))


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_the_wrong_type_is_refused_in_a_sentence(name: str, agent: upright.DQN) -> None:
    if name == "load":
        agent.save("policy")
    make, good = calls(agent)[name]
    make(**good) if name not in ("Run.open", "experiment") else None
    faults = []
    for argument in good:
        for kind, value in VALUES.items():
            if kind in HUGE.get(argument, ()):
                continue
            try:
                call_with(make, good, argument, value)
            except Exception as error:
                faults.append(f"{argument}={kind}: {type(error).__name__}: {str(error)[:100]}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "cls", [upright.Config, upright.Munchausen, *KINDS["loss"].values(), *KINDS["replay"].values()]
)
def test_a_setting_of_the_wrong_type_is_refused_in_a_sentence(cls: type) -> None:
    faults = []
    for field in dataclasses.fields(cls):
        for kind, value in VALUES.items():
            try:
                call_with(cls, {}, field.name, value)
            except Exception as error:
                faults.append(f"{field.name}={kind}: {type(error).__name__}: {str(error)[:100]}")
    assert not faults, "\n".join(faults)


def test_every_public_callable_is_walked(agent: upright.DQN) -> None:
    """A new public function, or a new argument of one, has to be added above."""
    walked = calls(agent)
    values = {
        "Config",
        "Categorical",
        "ImplicitQuantile",
        "Munchausen",
        "Prioritised",
        "QLearning",
        "Quantile",
        "Uniform",
    }
    given = {"Agent", "Evaluation", "Failed", "Finished", "Progress", "Reported", "UprightError", "Warned", "PRESETS"}
    assert {name for name in upright.__all__ if name not in values | given} <= set(walked)
    for name in ("Run", "make", "load", "train", "experiment", "exploration_rate", "live", "summarise", "ReplayMemory"):
        assert set(inspect.signature(getattr(upright, name)).parameters) == set(walked[name][1]), name


@pytest.mark.parametrize(
    "call",
    [
        lambda: upright.train(),
        lambda: upright.make("CartPole-v1", nonsense=1),
        lambda: upright.load(),
        lambda: upright.Run(),
        lambda: upright.Config(gama=1),
    ],
)
def test_a_wrong_signature_is_pythons_to_refuse(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError):
        call()
