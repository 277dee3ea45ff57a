"""The reference learner: autograd, any module, any device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from upright.config import Config, ImplicitQuantile, Quantile, Uniform
from upright.errors import SettingError
from upright.learners import Problem
from upright.losses import Predictions, Transitions, action_values, midpoints, temporal_difference
from upright.networks import Network, outputs_per_action
from upright.replay import Batch

RMSPROP_DECAY = 0.95  # of both moments: Mnih 2015, extended data table 1


class TorchLearner:
    """Learns with PyTorch (see `Learner`).

    `network` is an `nn.Module`, or a factory called with the Problem that returns one, which maps observations
    `[B, *shape]` (images scaled to [0, 1]) to `[B, A]`, or to `[B, A, N]` for atoms or quantiles. Without it the
    settings decide. It computes in the dtype of its own parameters.
    """

    engine = "torch"

    def __init__(
        self,
        config: Config,
        problem: Problem,
        seed: int,
        network: nn.Module | Callable[[Problem], nn.Module] | None = None,
    ) -> None:
        self.config, self.problem = config, problem
        self._device = _device(config.device)
        self.device = str(self._device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.online = self._build(network).to(self._device)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.online.train()
        self.target.train()
        self._parameters = [each for each in self.online.parameters() if each.requires_grad]
        if not self._parameters:
            raise SettingError("network has no parameters, so there is nothing to learn; give it some.")
        self._dtype = self._parameters[0].dtype
        self._pairs = [
            (target, online)
            for target, online in zip(_state(self.target), _state(self.online), strict=True)
            if online.is_floating_point()
        ]
        self._optimizer = _optimizer(config, self._parameters)
        self._random = torch.Generator(self._device).manual_seed(seed)
        self._ones = torch.ones(config.batch_size, dtype=self._dtype, device=self._device)
        self._sums = torch.zeros(3, dtype=self._dtype, device=self._device)
        self._updates = 0
        self._check_output()

    def q_values(self, obs: np.ndarray, explore: bool = False) -> np.ndarray:
        with torch.inference_mode():
            if explore and self.config.noisy:
                self.online.resample(self._random)
            self.online.train(explore)
            q = self._action_values(self.online, self._observations(obs))
        return q.cpu().numpy()

    def update(self, batch: Batch, learning_rate: float) -> np.ndarray | None:
        config, transition = self.config, batch.transition
        self.online.train()
        if config.noisy:
            self.online.resample(self._random)
            self.target.resample(self._random)
        predictions = self._predict(self._observations(transition.obs), self._observations(transition.next_obs))
        per_sample, priority = temporal_difference(
            config.loss,
            config.munchausen,
            predictions,
            Transitions(
                self._tensor(transition.action),
                self._tensor(transition.reward).to(self._dtype),
                self._tensor(transition.discount).to(self._dtype),
                None if transition.mask is None else self._tensor(transition.mask),
                None if transition.next_mask is None else self._tensor(transition.next_mask),
            ),
        )
        if batch.weight is not None:
            per_sample = per_sample * self._tensor(batch.weight).to(self._dtype)
        loss = per_sample.mean()

        self._optimizer.zero_grad()
        loss.backward()
        norm: Tensor | None = None
        if config.max_grad_norm is not None:
            norm = nn.utils.clip_grad_norm_(self._parameters, config.max_grad_norm, foreach=True)
        elif config.max_grad_value is not None:
            nn.utils.clip_grad_value_(self._parameters, config.max_grad_value, foreach=True)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()

        # Summed where it was computed: reading a number back each update would wait for the device.
        self._sums[0] += loss.detach()
        if norm is not None:
            self._sums[2] += norm
        self._q_of = predictions.online.detach()
        self._updates += 1
        return None if isinstance(config.replay, Uniform) else priority.cpu().numpy()

    @torch.no_grad()
    def update_target(self) -> None:
        targets, onlines = [list(side) for side in zip(*self._pairs, strict=True)]
        if self.config.tau == 1.0:
            torch._foreach_copy_(targets, onlines)
        else:
            torch._foreach_lerp_(targets, onlines, self.config.tau)

    def metrics(self) -> dict[str, float]:
        if not self._updates:
            return {}
        loss, _, norm = (self._sums / self._updates).tolist()
        values = {"train/loss": loss}
        values["train/mean_q"] = float(action_values(self.config.loss, self._q_of).mean())
        if self.config.max_grad_norm is not None:
            values["train/grad_norm"] = norm
        self._sums.zero_()
        self._updates = 0
        return values

    def parameters(self) -> dict[str, np.ndarray]:
        return {name: value.cpu().numpy().copy() for name, value in self.online.state_dict().items()}

    def load_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        state = {name: torch.from_numpy(np.array(value)) for name, value in parameters.items()}
        self.online.load_state_dict(state)
        self.target.load_state_dict(state)

    def _predict(self, obs: Tensor, next_obs: Tensor) -> Predictions:
        loss, double = self.config.loss, self.config.loss.double
        if isinstance(loss, ImplicitQuantile):
            fractions = self._draw(len(obs), loss.quantiles)
            online = self.online(obs, fractions)
            with torch.no_grad():
                features = self.target.torso(next_obs)
                target_next = self.target.head(features, self._draw(len(obs), loss.target_quantiles))
                if double:
                    q_next = self._action_values(self.online, next_obs)
                else:
                    q_next = self.target.head(features, self._policy_fractions(len(obs))).mean(dim=2)
        else:
            fractions = midpoints(loss.quantiles, self._ones) if isinstance(loss, Quantile) else None
            online = self.online(obs)
            with torch.no_grad():
                target_next = self.target(next_obs)
                q_next = self._action_values(self.online, next_obs) if double else action_values(loss, target_next)
        q = None
        if self.config.munchausen is not None:
            with torch.no_grad():
                q = self._action_values(self.target, obs)
        return Predictions(online, fractions, target_next, q_next, q)

    def _action_values(self, network: Any, obs: Tensor) -> Tensor:
        if isinstance(self.config.loss, ImplicitQuantile):
            return network(obs, self._policy_fractions(len(obs))).mean(dim=2)
        return action_values(self.config.loss, network(obs))

    def _policy_fractions(self, batch: int) -> Tensor:
        loss = self.config.loss
        assert isinstance(loss, ImplicitQuantile)
        return midpoints(loss.policy_quantiles, self._ones).expand(batch, -1)

    def _draw(self, batch: int, count: int) -> Tensor:
        return torch.rand(batch, count, generator=self._random, dtype=self._dtype, device=self._device)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _observations(self, obs: np.ndarray) -> Tensor:
        tensor = self._tensor(obs).to(self._dtype)
        return tensor / 255 if self.problem.is_image else tensor

    def _build(self, network: Any) -> Any:
        config, problem = self.config, self.problem
        if network is None:
            return Network(config, problem.observation_shape, problem.is_image, problem.num_actions)
        for name, off in (("dueling", not config.dueling), ("noisy", not config.noisy)):
            if not off:
                raise SettingError(f"{name} shapes upright's own network and cannot reach into yours; leave it off.")
        if isinstance(config.loss, ImplicitQuantile):
            raise SettingError(
                "implicit quantiles need upright's own network, which takes the fractions τ; "
                "leave network out, or choose loss 'quantile'."
            )
        built = network if isinstance(network, nn.Module) else network(problem)
        if not isinstance(built, nn.Module):
            raise SettingError(f"network gave a {type(built).__name__}, not a torch.nn.Module.")
        return copy.deepcopy(built)

    def _check_output(self) -> None:
        """Refuse a network whose output the loss could not read, before anything is learned."""
        outputs = outputs_per_action(self.config.loss)
        expected = (2, self.problem.num_actions, *(() if outputs is None else (outputs,)))
        if isinstance(self.online, Network):
            return
        probe = torch.zeros(2, *self.problem.observation_shape, dtype=self._dtype, device=self._device)
        try:
            with torch.no_grad():
                shape = tuple(self.online(probe).shape)
        except Exception as error:
            raise SettingError(
                f"network cannot take observations of shape {tuple(probe.shape)}: {str(error).splitlines()[0]}"
            ) from error
        if shape != expected:
            raise SettingError(
                f"network maps observations {tuple(probe.shape)} to {shape}, but the loss needs {expected}."
            )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingError(
            f"device is {name!r}, which PyTorch cannot use here ({str(error).splitlines()[0]}); choose cpu or auto."
        ) from error
    return device


def _state(module: nn.Module) -> Iterable[Tensor]:
    return module.state_dict(keep_vars=True).values()


def _optimizer(config: Config, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(
                parameters, rate, eps=config.optimizer_eps, weight_decay=decay, amsgrad=config.amsgrad, fused=True
            )
        case "adamw":
            return torch.optim.AdamW(
                parameters, rate, eps=config.optimizer_eps, weight_decay=decay, amsgrad=config.amsgrad, fused=True
            )
        case "rmsprop":
            return torch.optim.RMSprop(
                parameters,
                rate,
                alpha=RMSPROP_DECAY,
                eps=config.optimizer_eps,
                weight_decay=decay,
                centered=True,
                foreach=True,
            )
        case "sgd":
            return torch.optim.SGD(parameters, rate, weight_decay=decay, foreach=True)
