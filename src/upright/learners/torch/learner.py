"""The reference learner: autograd, any module, any device."""

from __future__ import annotations

import copy
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from upright.errors import Diverged, SettingError
from upright.learners.contract import NetworkSource, moments, with_every_measure
from upright.learners.initialisation import initial_parameters
from upright.learners.problem import Problem
from upright.learners.torch.losses import Predictions, Transitions, action_values, midpoints, temporal_difference
from upright.learners.torch.networks import Network
from upright.learners.torch.optimizer import make_optimizer
from upright.learners.torch.own_network import built, parts
from upright.messages import first_line
from upright.replay import Batch
from upright.settings.config import Config
from upright.state import check_counts, check_fit, generator_state, noise_generator, set_generator_state

ENOUGH_FOR_THREADS = 1_000_000

# Measures of the last update alone, of the online network's Q(s, a) for each allowed action of the batch.
LATEST: dict[str, Callable[[Tensor], Tensor]] = {"mean_q": torch.mean}


class TorchLearner:
    """Learns with PyTorch (see `Learner`).

    `network` is an `nn.Module`, or a factory called with the Problem that returns one, which maps observations
    `[B, *shape]` (images scaled to [0, 1]) to `[B, A]`, or to `[B, A, N]` for atoms or quantiles. Of a Dict or Tuple it
    is given the parts: a dict or tuple of `[B, *shape of the part]`, a Discrete as a one-hot; or, if it cannot take
    those, their vector `[B, D]`. Without a network the settings decide. It computes in the dtype of its own parameters.
    Layers of its own that draw at random, such as Dropout, draw from PyTorch's global generator, which `state` leaves
    out.

    A network of fewer than a million parameters on vectors loses more on the CPU by handing work between threads than
    it gains, above all on a busy machine: unless OMP_NUM_THREADS says otherwise, it computes with one thread, and sets
    PyTorch's number back after each call.
    """

    engine = "torch"

    def __init__(
        self,
        config: Config,
        problem: Problem,
        seed: int,
        network: NetworkSource | None = None,
    ) -> None:
        self.config, self.problem = config, problem
        self._device = _device(config.device)
        self.device = str(self._device)
        self._is_own = network is not None
        self._scale: Tensor | None = None
        self._takes_parts = False
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.online = self._build(network, seed).to(self._device).eval()
            if network is not None:
                self._check_output()
        # upright's own layers know no modes but the noisy ones; a user's may.
        self._has_modes = config.noisy or network is not None
        # Only noise is left on while learning: a target network's own statistics and masks are not to move.
        self.target = copy.deepcopy(self.online).requires_grad_(False).train(config.noisy)
        self._trainable = {name: each for name, each in self.online.named_parameters() if each.requires_grad}
        trainable = list(self._trainable.values())
        self._dtype = trainable[0].dtype
        if problem.scale is not None:
            self._scale = torch.tensor(problem.scale, dtype=torch.float32, device=self._device).to(self._dtype)
        # All parameters live in one vector, of which each layer's are views: the optimiser, the clipping and the
        # target update are then a few operations on one tensor, not a few on each layer.
        self._parameters = nn.Parameter(_flatten(trainable))
        self._parameters.grad = torch.zeros_like(self._parameters)
        for each, gradient in zip(trainable, _views(self._parameters.grad, trainable), strict=True):
            each.grad = gradient
        targets = dict(self.target.named_parameters())
        self._target_parameters = _flatten([targets[name] for name in self._trainable])
        # upright's own buffers hold noise, which each network draws for itself, or constants.
        pairs = zip(self.target.buffers(), self.online.buffers(), strict=True)
        self._buffers = [] if network is None else list(pairs)
        self._optimizer = make_optimizer(config, self._parameters)
        self._updates = 0
        self._random = noise_generator(seed)
        self._lock = threading.Lock()  # a policy may be asked by another thread than the one that trains it
        self._ones = torch.ones(1, dtype=self._dtype, device=self._device)
        # Of the updates since the metrics were asked for: their number, and sums.
        self._measured = 0
        self._sums = {"loss": 0.0, "grad_norm": 0.0}
        self._latest = dict.fromkeys(LATEST, 0.0)
        self._to_measure: tuple[Tensor, Tensor | None] | None = None  # the last update's online output, and its mask
        small = self._parameters.numel() < ENOUGH_FOR_THREADS and not problem.is_image
        on_cpu = self._device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ
        self._threads = 1 if small and on_cpu else None

    def q_values(self, obs: np.ndarray, explore: bool = False) -> np.ndarray:
        with self._lock, torch.inference_mode(), _threads(self._threads):
            if explore and self.config.noisy:
                self.online.resample(self._random)
            self._set_training(explore and self.config.noisy)
            q = self._action_values(self.online, self._observations(obs))
        return q.cpu().numpy()

    def outputs(self, obs: np.ndarray) -> np.ndarray:
        with self._lock, torch.inference_mode(), _threads(self._threads):
            self._set_training(False)
            output = self._output(self.online, self._observations(obs))
        return (output[:, :, None] if output.ndim == 2 else output).cpu().numpy()

    def update(self, batch: Batch, learning_rate: float) -> np.ndarray:
        with self._lock, _threads(self._threads):
            return self._update(batch, learning_rate)

    def _update(self, batch: Batch, learning_rate: float) -> np.ndarray:
        config, transition = self.config, batch.transition
        self._set_training(True)
        if config.noisy:
            self.online.resample(self._random)
            self.target.resample(self._random)
        predictions = self._predict(self._observations(transition.obs), self._observations(transition.next_obs))
        transitions = Transitions(
            self._tensor(transition.action),
            self._numbers(transition.reward),
            self._numbers(transition.discount),
            None if transition.mask is None else self._tensor(transition.mask),
            None if transition.next_mask is None else self._tensor(transition.next_mask),
        )
        per_sample, priority = temporal_difference(config.loss, config.munchausen, predictions, transitions)
        if batch.weight is not None:
            per_sample = per_sample * self._numbers(batch.weight)
        loss = per_sample.mean()

        gradient = self._parameters.grad
        assert gradient is not None
        gradient.zero_()
        loss.backward()
        with torch.no_grad():
            norm = torch.linalg.vector_norm(gradient)
            if config.max_grad_norm is not None:
                gradient.mul_((config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
            elif config.max_grad_value is not None:
                gradient.clamp_(-config.max_grad_value, config.max_grad_value)
        measured = torch.stack([loss.detach(), norm]).tolist()
        for what, value in zip(("The loss", "The gradient's norm"), measured, strict=True):
            if not math.isfinite(value):
                raise Diverged(what, value)
        self._sums = {name: total + value for (name, total), value in zip(self._sums.items(), measured, strict=True)}
        priorities = priority.cpu().numpy()  # before the step, for which a GPU need not be waited for
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()
        self._to_measure = predictions.online.detach(), transitions.mask
        self._updates += 1
        self._measured += 1
        return priorities

    @torch.no_grad()
    def update_target(self) -> None:
        with self._lock, _threads(self._threads):
            if self.config.tau == 1.0:
                self._target_parameters.copy_(self._parameters)
            else:
                self._target_parameters.lerp_(self._parameters, self.config.tau)
            for target, online in self._buffers:
                target.copy_(online)

    def metrics(self) -> dict[str, float]:
        if not self._measured:
            return {}
        means = {name: total / self._measured for name, total in self._sums.items()}
        self._sums = dict.fromkeys(self._sums, 0.0)
        self._measured = 0
        return {f"train/{name}": value for name, value in {**means, **self._measure_latest()}.items()}

    def own_network(self) -> nn.Module | None:
        return self.online if self._is_own else None

    def parameters(self) -> dict[str, np.ndarray]:
        return {name: value.cpu().numpy().copy() for name, value in self.online.state_dict().items()}

    def load_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        check_fit(parameters, self.parameters())
        for network in (self.online, self.target):
            network.load_state_dict(_tensors(parameters))

    def state(self) -> dict[str, np.ndarray]:
        measured = {**self._sums, **self._measure_latest()}
        return {
            **{name: tensor.cpu().numpy().copy() for name, tensor in self._stored().items()},
            "optimizer/step": np.array(self._updates, np.int64),
            "random": generator_state(self._random),
            "metrics/updates": np.array(self._measured, np.int64),
            **{f"metrics/{name}": np.array(value) for name, value in measured.items()},
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        state = with_every_measure(state, [*self._sums, *LATEST])
        check_fit(state, self.state())
        for name in ("optimizer/step", "metrics/updates"):
            check_counts(name, state[name])
        for name, tensor in self._stored().items():
            tensor.copy_(_copied(state[name]))
        self._updates = int(state["optimizer/step"])
        self._optimizer.state[self._parameters]["step"].fill_(self._updates)
        set_generator_state(self._random, state["random"])
        self._measured = int(state["metrics/updates"])
        self._sums = {name: float(state[f"metrics/{name}"]) for name in self._sums}
        self._latest = {name: float(state[f"metrics/{name}"]) for name in LATEST}
        self._to_measure = None

    def _stored(self) -> dict[str, Tensor]:
        """The tensors that `state` is made of, by its names."""
        stored: dict[str, Tensor] = {}
        for network, module in (("online", self.online), ("target", self.target)):
            tensors = list(module.named_parameters(remove_duplicate=False))
            if self._buffers:
                tensors += module.named_buffers(remove_duplicate=False)
            stored |= {f"{network}/{name}": tensor.detach() for name, tensor in tensors}
        like = list(self._trainable.values())
        for moment in moments(self.config):
            vector = self._optimizer.state[self._parameters][moment]
            views = zip(self._trainable, _views(vector, like), strict=True)
            stored |= {f"optimizer/{moment}/{name}": view for name, view in views}
        return stored

    def _measure_latest(self) -> dict[str, float]:
        # Computed when they are asked for, not at each update.
        if self._to_measure is not None:
            output, mask = self._to_measure
            q = action_values(self.config.loss, output)
            allowed = q if mask is None else q[mask]
            self._latest = {name: float(measure(allowed)) for name, measure in LATEST.items()}
            self._to_measure = None
        return self._latest

    def _set_training(self, training: bool) -> None:
        if self._has_modes and self.online.training != training:
            self.online.train(training)

    def _predict(self, obs: Tensor, next_obs: Tensor) -> Predictions:
        config, loss = self.config, self.config.loss
        q: Tensor | None = None
        fractions: Tensor | None = None
        if loss.fractions is not None:
            fractions = self._draw(len(obs), loss.fractions.online)
            online = self.online(obs, fractions)
            with torch.no_grad():
                features = self.target.torso(next_obs)
                target_next = self.target.head(features, self._draw(len(obs), loss.fractions.target))
                if loss.double:
                    q_next = self._action_values(self.online, next_obs)
                else:
                    q_next = action_values(loss, self.target.head(features, self._policy_fractions(len(obs))))
                if config.munchausen is not None:
                    q = self._action_values(self.target, obs)
        else:
            online = self._ask(self.online, obs)
            with torch.no_grad():
                if config.munchausen is not None:  # the target network is asked about both states in one pass
                    target, target_next = self._ask(self.target, torch.cat([obs, next_obs])).chunk(2)
                    q = action_values(loss, target)
                else:
                    target_next = self._ask(self.target, next_obs)
                q_next = self._action_values(self.online, next_obs) if loss.double else action_values(loss, target_next)
        return Predictions(online, fractions, target_next, q_next, q)

    def _output(self, network: Any, obs: Tensor) -> Tensor:
        """Return the output by which actions are chosen, `[B, A]` or `[B, A, N]`."""
        fractions = () if self.config.loss.fractions is None else (self._policy_fractions(len(obs)),)
        return self._ask(network, obs, *fractions)

    def _ask(self, network: Any, obs: Tensor, *fractions: Tensor) -> Tensor:
        """Return what a network gives for observations `[B, *shape]`, or for the parts that they are made of."""
        output: Tensor = network(parts(obs, self.problem.structure) if self._takes_parts else obs, *fractions)
        return output

    def _action_values(self, network: Any, obs: Tensor) -> Tensor:
        return action_values(self.config.loss, self._output(network, obs))

    def _policy_fractions(self, batch: int) -> Tensor:
        fractions = self.config.loss.fractions
        assert fractions is not None
        return midpoints(fractions.policy, self._ones).expand(batch, -1)

    def _draw(self, batch: int, count: int) -> Tensor:
        return self._numbers(self._random.random((batch, count), dtype=np.float32))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _numbers(self, array: np.ndarray) -> Tensor:
        # Converted before it moves, because mps has no float64.
        return torch.from_numpy(array).to(self._dtype).to(self._device)

    def _observations(self, obs: np.ndarray) -> Tensor:
        tensor = self._tensor(obs).to(self._dtype)
        if self.problem.is_image:
            return tensor / self.problem.largest
        return tensor if self._scale is None else tensor * self._scale

    def _build(self, network: NetworkSource | None, seed: int) -> Any:
        config, problem = self.config, self.problem
        if network is None:
            own = Network(config, problem.observation_shape, problem.is_image, problem.num_actions)
            own.load_state_dict(_tensors(initial_parameters(config, problem, seed)))
            return own
        for name in ("dueling", "noisy"):
            if getattr(config, name):
                raise SettingError(f"{name} shapes upright's own network and cannot reach into yours; leave it off.")
        if config.loss.fractions is not None:
            raise SettingError(
                "implicit quantiles need upright's own network, which takes the fractions τ; "
                "leave network out, or choose loss 'quantile'."
            )
        module = built(network, problem)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise SettingError("network has no parameters to train; give it some.")
        return copy.deepcopy(module)

    def _check_output(self) -> None:
        """Refuse a user's network whose output the loss could not read, before anything is learned.

        Of an observation with parts it is given these, or else their vector.
        """
        outputs, problem = self.config.loss.outputs, self.problem
        expected = (2, problem.num_actions, *(() if outputs is None else (outputs,)))
        dtype = next(self.online.parameters()).dtype
        probe = torch.zeros(2, *problem.observation_shape, dtype=dtype, device=self._device)
        what, refusals = f"observations of shape {tuple(probe.shape)}", []
        if problem.structure is not None:
            kind = "Dict" if isinstance(problem.structure, dict) else "Tuple"
            what = f"the parts of a {kind} observation, whose shapes are {problem.structure}"
        for self._takes_parts in (False,) if problem.structure is None else (True, False):
            try:
                with torch.no_grad():
                    output = self._ask(self.online, probe)
                break
            except Exception as error:
                refusals.append(error)
        else:
            raise SettingError(f"network cannot take {what}: {first_line(refusals[0])}.") from refusals[0]
        if not isinstance(output, Tensor):
            raise SettingError(f"network returns a {type(output).__name__}, but the loss needs a tensor {expected}.")
        if tuple(output.shape) != expected:
            raise SettingError(f"network maps {what} to {tuple(output.shape)}, but the loss needs {expected}.")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let PyTorch compute with that many threads within the block; None changes nothing."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # of "meta" there is nothing to be had back
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise SettingError(
            f"device is {name!r}, which PyTorch cannot use here ({str(error).splitlines()[0]}); choose cpu or auto."
        ) from error
    return device


def _copied(array: np.ndarray) -> Tensor:
    """As a tensor of its own: an array may be read-only, or its owner's to change."""
    return torch.from_numpy(np.array(array))


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: _copied(array) for name, array in arrays.items()}


def _flatten(tensors: Sequence[Tensor]) -> Tensor:
    """One vector with the tensors' values, of which the tensors become views."""
    flat = torch.cat([each.detach().reshape(-1) for each in tensors])
    for each, view in zip(tensors, _views(flat, tensors), strict=True):
        each.data = view
    return flat


def _views(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = flat.detach().split([each.numel() for each in like])
    return [part.view(each.shape) for part, each in zip(parts, like, strict=True)]
