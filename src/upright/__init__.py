"""upright: the deep Q-network family for any discrete-action Gymnasium environment."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upright.agent import Agent, load
    from upright.config import (
        Categorical,
        Config,
        ImplicitQuantile,
        Munchausen,
        Prioritised,
        QLearning,
        Quantile,
        Uniform,
    )
    from upright.dqn import DQN
    from upright.errors import UprightError
    from upright.evaluate import Evaluation
    from upright.presets import PRESETS
    from upright.replay import ReplayMemory
    from upright.run import Run
    from upright.sources import make

__version__ = "0.1.0"

# Imported at first use, so that `upright --help` waits for neither NumPy nor Gymnasium.
_HOMES = {
    "Agent": "agent",
    "Categorical": "config",
    "Config": "config",
    "DQN": "dqn",
    "Evaluation": "evaluate",
    "ImplicitQuantile": "config",
    "Munchausen": "config",
    "PRESETS": "presets",
    "Prioritised": "config",
    "QLearning": "config",
    "Quantile": "config",
    "ReplayMemory": "replay",
    "Run": "run",
    "Uniform": "config",
    "UprightError": "errors",
    "load": "agent",
    "make": "sources",
}

__all__ = [
    "DQN",
    "PRESETS",
    "Agent",
    "Categorical",
    "Config",
    "Evaluation",
    "ImplicitQuantile",
    "Munchausen",
    "Prioritised",
    "QLearning",
    "Quantile",
    "ReplayMemory",
    "Run",
    "Uniform",
    "UprightError",
    "load",
    "make",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'upright' has no attribute {name!r}")
    return getattr(importlib.import_module(f"upright.{_HOMES[name]}"), name)
