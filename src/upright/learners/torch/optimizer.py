"""The optimisers of PyTorch by the names that the settings give them."""

from __future__ import annotations

import torch
from torch import nn

from upright.learners.contract import moments
from upright.settings.config import Config

RMSPROP_DECAY = 0.95  # of both moments: Mnih 2015, extended data table 1


def make_optimizer(config: Config, parameters: nn.Parameter) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name, with all its moments at 0."""
    optimizer = _named_optimizer(config, parameters)
    # PyTorch makes the moments at the first update; a learner's state has them before that too.
    initial = {"step": torch.zeros(()), **{name: torch.zeros_like(parameters) for name in moments(config)}}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: initial}})
    return optimizer


def _named_optimizer(config: Config, parameters: nn.Parameter) -> torch.optim.Optimizer:
    rate, eps, decay = config.learning_rate, config.optimizer_eps, config.weight_decay
    match config.optimizer:
        case "adam":
            return torch.optim.Adam([parameters], rate, eps=eps, weight_decay=decay, amsgrad=config.amsgrad, fused=True)
        case "adamw":
            return torch.optim.AdamW(
                [parameters], rate, eps=eps, weight_decay=decay, amsgrad=config.amsgrad, fused=True
            )
        case "rmsprop":
            return torch.optim.RMSprop(
                [parameters], rate, alpha=RMSPROP_DECAY, eps=eps, weight_decay=decay, centered=True
            )
        case "sgd":
            return torch.optim.SGD([parameters], rate, weight_decay=decay)
