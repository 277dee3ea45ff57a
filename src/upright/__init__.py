"""upright: the deep Q-network family for any discrete-action Gymnasium environment."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upright.agent import Agent, load
    from upright.comparison.summary import summarise
    from upright.dqn import DQN
    from upright.environments.registry import inspect
    from upright.environments.sources import make
    from upright.errors import UprightError
    from upright.evaluation import Evaluation
    from upright.experiments.seeds import Failed, Finished, Reported, Warned
    from upright.experiments.training import experiment
    from upright.learners.torch import losses as losses
    from upright.learners.torch.networks import Network as Network
    from upright.loop import exploration_rate, train
    from upright.replay import ReplayMemory
    from upright.runs.metrics import Progress
    from upright.runs.run import Run
    from upright.settings.config import Config
    from upright.settings.kinds import (
        Categorical,
        ImplicitQuantile,
        Munchausen,
        Prioritised,
        QLearning,
        Quantile,
        Uniform,
    )
    from upright.settings.presets import PRESETS
    from upright.views.plot import live

__version__ = "0.1.0"

# The module that defines each public name. It is imported at the name's first use, so that `upright --help` waits for
# neither NumPy nor Gymnasium.
_HOMES = {
    "Agent": "agent",
    "Categorical": "settings.kinds",
    "Config": "settings.config",
    "DQN": "dqn",
    "Evaluation": "evaluation",
    "Failed": "experiments.seeds",
    "Finished": "experiments.seeds",
    "ImplicitQuantile": "settings.kinds",
    "Munchausen": "settings.kinds",
    "Network": "learners.torch.networks",
    "PRESETS": "settings.presets",
    "Prioritised": "settings.kinds",
    "Progress": "runs.metrics",
    "QLearning": "settings.kinds",
    "Quantile": "settings.kinds",
    "ReplayMemory": "replay",
    "Reported": "experiments.seeds",
    "Run": "runs.run",
    "Uniform": "settings.kinds",
    "UprightError": "errors",
    "Warned": "experiments.seeds",
    "exploration_rate": "loop",
    "experiment": "experiments.training",
    "inspect": "environments.registry",
    "live": "views.plot",
    "load": "agent",
    "losses": "learners.torch",
    "make": "environments.sources",
    "summarise": "comparison.summary",
    "train": "loop",
}

# `Network` and `losses` are left out because they need PyTorch.
__all__ = [
    "DQN",
    "PRESETS",
    "Agent",
    "Categorical",
    "Config",
    "Evaluation",
    "Failed",
    "Finished",
    "ImplicitQuantile",
    "Munchausen",
    "Prioritised",
    "Progress",
    "QLearning",
    "Quantile",
    "ReplayMemory",
    "Reported",
    "Run",
    "Uniform",
    "UprightError",
    "Warned",
    "experiment",
    "exploration_rate",
    "inspect",
    "live",
    "load",
    "make",
    "summarise",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'upright' has no attribute {name!r}")
    home = importlib.import_module(f"upright.{_HOMES[name]}")
    value = importlib.import_module(f"upright.{_HOMES[name]}.{name}") if name == "losses" else getattr(home, name)
    globals()[name] = value
    return value


class _FormerTrain(ModuleType):
    """`upright.train` as it was a module: `from upright.train import train` is in scripts written for version 0.1."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("upright.loop"), name)


# The import system looks here first, so `upright.train` itself stays the function.
sys.modules.setdefault("upright.train", _FormerTrain("upright.train"))


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
