"""Every setting of a run, as frozen dataclasses that refuse what cannot work.

A variant of DQN is a value of `Config`, never a class:

    rainbow = replace(config, dueling=True, noisy=True, n_steps=3,
                      replay=Prioritised(), loss=Categorical(double=True))

The text under each field gives its meaning, unit, range and source; `upright train --help` prints it.
Sources: Mnih 2015 (Nature 518), van Hasselt 2016 (AAAI, arXiv:1509.06461), Wang 2016 (arXiv:1511.06581),
Schaul 2016 (arXiv:1511.05952), Bellemare 2017 (arXiv:1707.06887), Fortunato 2018 (arXiv:1706.10295),
Dabney 2018a (QR-DQN, arXiv:1710.10044), Dabney 2018b (IQN, arXiv:1806.06923), Hessel 2018
(Rainbow, arXiv:1710.02298), Vieillard 2020 (Munchausen, arXiv:2007.14430), Dabney 2021 (εz-greedy, arXiv:2006.01782),
Watkins 1989 (Learning from delayed rewards, PhD thesis, Cambridge).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from upright.errors import SettingError
from upright.settings import arguments
from upright.settings.checked import Checked
from upright.settings.foreign_names import unknown_setting
from upright.settings.kinds import KINDS, Loss, Munchausen, QLearning, Replay, Uniform, kind

FINAL_EPISODES = 100  # greedy episodes that judge a final policy

# What runs and policies did that are older than these settings: their files name all the others.
FORMERLY: dict[str, Any] = {
    "action_masks": "info",
    "cut_n_steps": False,
    "exploration_after_learning_starts": False,
    "exploration_repeat": None,
    "scale_integers": False,
    "stretch_observations": False,
}


@dataclass(frozen=True)
class Config(Checked):
    """One configuration. Every budget and period counts environment steps unless its text says updates."""

    total_timesteps: int = 50_000
    """Environment steps to train for. [1, inf)."""

    # The environment
    env_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Arguments for the environment's constructor, each key=value: JSON, else a Python literal, else text."""
    wrapper: tuple[str, ...] = ()
    """Gymnasium wrappers, innermost first: Class of gymnasium.wrappers, module:Class, or module:Class(key=value, …)."""
    discretize: int | None = None
    """Bins for each dimension of a continuous action (Gymnasium's DiscretizeAction). [2, 4096]."""
    stretch_observations: bool = True
    """Divide each entry of a vector that is bounded within ±0.1 by its bound, so that the network sees it."""
    scale_integers: bool = True
    """Scale each bounded integer of a vector to 0 … 1 by its space's bounds, as the pixels of an image are."""
    observation_keys: tuple[str, ...] = ()
    """The entries of a Dict observation that the network sees, by their keys; none given: all."""
    action_masks: Literal["auto", "info", "method", "observation", "none"] = "auto"
    """Where allowed actions are read: info['action_mask'], env.action_masks(), observation['action_mask'], or any."""
    max_episode_steps: int | None = None
    """Truncate episodes after that many steps; none: the environment's own limit, or 1,000 if it has none. [1, inf)."""
    num_envs: int = 1
    """Environments stepped side by side; a step is one step of one of them. [1, 4096]."""
    vectorization_mode: Literal["sync", "async"] = "sync"
    """Step the environments in this process, or each in a worker process of its own (Gymnasium's AsyncVectorEnv)."""

    worker_timeout: float = 60.0
    """Seconds that a worker process may take for a step before it is replaced. (0, 86400]."""
    worker_replacements: int = 3
    """Times that lost workers are replaced before the run ends. [0, 1000]."""

    # The network
    start_from: str | None = None
    """The folder of a saved policy or run whose parameters the network begins with, to train a policy further."""
    net_arch: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers, 256 at most, which for an image follow Nature's three convolutions. [1, 65536]."""
    activation: Literal["relu", "tanh", "silu"] = "relu"
    """Nonlinearity between layers. Mnih 2015: relu."""
    layer_norm: bool = False
    """Normalise each hidden layer before its nonlinearity (Ba 2016, arXiv:1607.06450)."""
    initialisation: Literal["pytorch", "orthogonal"] = "pytorch"
    """Uniform in ±1/√inputs as PyTorch's layers, or orthogonal weights and zero biases (Saxe 2014, arXiv:1312.6120)."""
    dueling: bool = False
    """Split the head into a state value and advantages (Wang 2016, eq. 9)."""
    noisy: bool = False
    """Factorised Gaussian noise on the head's weights, σ₀ = 0.5, as exploration (Fortunato 2018, eq. 10)."""

    # What is learned
    loss: Loss = QLearning(error="squared")
    """What the network represents, and the error it descends."""
    munchausen: Munchausen | None = None
    """Munchausen's log-policy reward and soft bootstrap, or none."""
    gamma: float = 0.99
    """Discount γ per step. [0, 1]. Mnih 2015: 0.99."""
    n_steps: int = 3
    """Steps of real reward before the bootstrap. [1, 1024]. Hessel 2018: 3."""
    cut_n_steps: bool = True
    """Bootstrap earlier where a random action follows, as Q(λ) ends its traces (Watkins 1989). Hessel 2018: off."""

    # The replay memory
    replay: Replay = Uniform()
    """How a batch is drawn."""
    buffer_size: int = 25_000
    """Transitions that the memory holds. [1, inf). Mnih 2015: 1,000,000."""
    learning_starts: int = 1_000
    """Steps before the first update. [0, inf). Mnih 2015: 50,000."""
    batch_size: int = 64
    """Transitions in an update. [1, 1048576]. Mnih 2015: 32."""
    train_freq: int = 2
    """Steps between updates. [1, inf). Mnih 2015: 4."""
    gradient_steps: int = 1
    """Updates each time. [1, inf)."""

    # The learner
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    """Adam (Kingma 2015), AdamW (Loshchilov 2019), RMSprop (centred, decay 0.95; Mnih 2015), or plain SGD."""
    learning_rate: float = 2e-3
    """Step size of the optimiser at the first step. (0, inf)."""
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    """Keep the learning rate, or let it fall linearly to 0 at the last step."""
    optimizer_eps: float = 1e-8
    """Added to the optimiser's denominator. (0, inf). Mnih 2015: 0.01/32² under RMSprop's root, as 0.003125 here."""
    weight_decay: float = 0.0
    """Weight decay: decoupled in AdamW, an L2 penalty elsewhere. [0, inf)."""
    amsgrad: bool = False
    """Adam and AdamW: divide by the largest second moment so far (Reddi 2018, arXiv:1904.09237)."""
    max_grad_norm: float | None = None
    """Clip the gradient's global 2-norm at this, or none. (0, inf). Wang 2016: 10."""
    max_grad_value: float | None = None
    """Clip every entry of the gradient at ± this, or none. (0, inf)."""
    tau: float = 1.0
    """Share of the online parameters that a target update takes: 1 copies them. (0, 1]. Lillicrap 2016: 0.001."""
    target_update_interval: int = 200
    """Steps between target updates. [1, inf)."""
    engine: Literal["auto", "torch", "native"] = "auto"
    """What computes: torch (an extra) everything; native perceptrons on the CPU, and faster; auto: native if it can."""
    device: str = "auto"
    """Where the torch engine computes: auto (cuda, else mps, else cpu), or any torch device such as cuda:1."""

    # Exploration
    exploration_initial_eps: float = 1.0
    """Probability ε of a random action at the first step. [0, 1]. Mnih 2015: 1."""
    exploration_final_eps: float = 0.01
    """Probability ε of a random action in the end. [0, 1]. Mnih 2015: 0.1."""
    exploration_fraction: float = 0.2
    """Share of total_timesteps over which ε falls linearly. [0, 1]. Mnih 2015: 0.02."""
    exploration_time_constant: float | None = None
    """Let ε fall exponentially instead, with this time constant, in steps (PyTorch tutorial: 1000). (0, inf)."""
    exploration_after_learning_starts: bool = True
    """Let ε begin to fall at learning_starts, as Nature's code does, rather than at the first step."""
    exploration_repeat: float | None = 2.0
    """Take a random action n times in a row, P(n) ∝ n^−μ with this μ; none: once. (1, inf). Dabney 2021: 2."""

    # Reports, evaluations and checkpoints while training
    log_interval: int = 500
    """Steps between records of the metrics. [1, inf)."""
    eval_freq: int = 0
    """Steps between greedy evaluations while training; 0: only at the end. [0, inf)."""
    n_eval_episodes: int = 10
    """Episodes of each such evaluation. [1, 1000000]."""
    n_eval_envs: int = 10
    """Environments in which evaluations run side by side; 0: training's own, where only one may exist. [0, 4096]."""
    n_final_episodes: int = FINAL_EPISODES
    """Episodes of the evaluation that judges the final policy; 0: none. [0, 1000000]."""
    checkpoint_every: int = 25_000
    """Steps between checkpoints, from which a run that was stopped is resumed. [1, inf)."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept. [1, inf)."""

    _ranges: ClassVar[Mapping[str, str]] = {
        "total_timesteps": "[1, inf)",
        "discretize": "[2, 4096]",
        "max_episode_steps": "[1, inf)",
        "num_envs": "[1, 4096]",
        "worker_timeout": "(0, 86400]",
        "worker_replacements": "[0, 1000]",
        "net_arch": "[1, 65536]",
        "gamma": "[0, 1]",
        "n_steps": "[1, 1024]",
        "buffer_size": "[1, inf)",
        "learning_starts": "[0, inf)",
        "batch_size": "[1, 1048576]",
        "train_freq": "[1, inf)",
        "gradient_steps": "[1, inf)",
        "learning_rate": "(0, inf)",
        "optimizer_eps": "(0, inf)",
        "weight_decay": "[0, inf)",
        "max_grad_norm": "(0, inf)",
        "max_grad_value": "(0, inf)",
        "tau": "(0, 1]",
        "target_update_interval": "[1, inf)",
        "exploration_initial_eps": "[0, 1]",
        "exploration_final_eps": "[0, 1]",
        "exploration_fraction": "[0, 1]",
        "exploration_time_constant": "(0, inf)",
        "exploration_repeat": "(1, inf)",
        "log_interval": "[1, inf)",
        "eval_freq": "[0, inf)",
        "n_eval_episodes": "[1, 1000000]",
        "n_eval_envs": "[0, 4096]",
        "n_final_episodes": "[0, 1000000]",
        "checkpoint_every": "[1, inf)",
        "keep_checkpoints": "[1, inf)",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            object.__setattr__(self, "env_kwargs", arguments.checked(self.env_kwargs))
        except RecursionError as error:
            raise SettingError("env_kwargs is nested too deeply, or holds itself; give plain values.") from error
        if self.munchausen:
            self.loss.check_munchausen()
        if self.n_eval_envs == 0 and self.vectorization_mode == "async":
            raise SettingError(
                "n_eval_envs=0 evaluates in training's own environment, which vectorization_mode=async keeps in a "
                "worker process; choose --vectorization-mode sync, or --n-eval-envs 1."
            )
        if self.amsgrad and self.optimizer not in ("adam", "adamw"):
            raise SettingError(
                f"amsgrad needs Adam's second moment, and optimizer is {self.optimizer}; "
                "choose --optimizer adam or adamw, or leave amsgrad off."
            )
        if len(self.net_arch) > 256:
            raise SettingError(f"net_arch has {len(self.net_arch):,} hidden layers, but it has to have 256 at most.")
        if self.layer_norm and not self.net_arch:
            raise SettingError("layer_norm has no hidden layer to normalise: give net_arch a width, or leave it off.")
        if self.max_grad_norm is not None and self.max_grad_value is not None:
            raise SettingError(
                "max_grad_norm and max_grad_value both clip the gradient; set one of them to none "
                "(--max-grad-norm None)."
            )
        if self.batch_size > self.buffer_size:
            raise SettingError(
                f"batch_size ({self.batch_size:,}) is above buffer_size ({self.buffer_size:,}): "
                "the memory could never fill a batch; lower one or raise the other."
            )

    def override(self, **settings: Any) -> Self:
        """A copy with some settings changed; an unknown name is refused with the nearest known one.

        `loss` and `replay` also take a kind's name, and `munchausen` a bool: `override(loss="categorical")`. What
        is of that kind already keeps its numbers.
        """
        _check_names(type(self), settings)
        for name, value in settings.items():
            current = getattr(self, name)
            if name in KINDS and isinstance(value, str):
                settings[name] = current if isinstance(current, kind(name, value)) else kind(name, value)()
            if name == "munchausen" and isinstance(value, bool):
                settings[name] = (current or Munchausen()) if value else None
        return dataclasses.replace(self, **settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back to an equal Config."""
        values: dict[str, Any] = {}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if dataclasses.is_dataclass(value):
                nested = {inner.name: getattr(value, inner.name) for inner in dataclasses.fields(value)}
                names = {cls: name for name, cls in KINDS.get(each.name, {}).items()}
                value = {"kind": names[type(value)], **nested} if names else nested
            elif isinstance(value, tuple):
                value = list(value)
            elif each.name == "env_kwargs":
                value = arguments.encoded(value)
            values[each.name] = value
        return values

    @classmethod
    def from_file(cls, values: Mapping[str, Any]) -> Self:
        """The Config of a run or policy on disk, as `from_dict`; what did not exist at its time is as it was then."""
        return cls.from_dict({**FORMERLY, **values} if isinstance(values, Mapping) else values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The Config that `to_dict` wrote. Missing settings take their defaults; unknown ones are refused."""
        if not isinstance(values, Mapping):
            raise SettingError(f"The settings are a {type(values).__name__}, but they have to be a mapping by name.")
        settings = dict(values)
        if "env_kwargs" in settings:
            settings["env_kwargs"] = arguments.decoded(settings["env_kwargs"])
        for name in ("loss", "replay", "munchausen"):
            nested = settings.get(name)
            if isinstance(nested, Mapping):
                nested = dict(nested)
                of = kind(name, str(nested.pop("kind", None))) if name in KINDS else Munchausen
                _check_names(of, nested)
                settings[name] = of(**nested)
        _check_names(cls, settings)
        return cls(**settings)


def _check_names(cls: type[Any], settings: Mapping[str, Any]) -> None:
    known = [each.name for each in dataclasses.fields(cls)]
    for name in settings:
        if name not in known:
            raise SettingError(unknown_setting(str(name), known))
