"""The values of the settings that have settings of their own: what is learned, and how a batch is drawn.

The text under each field gives its meaning, unit, range and source; `upright train --help` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from upright.errors import SettingError
from upright.settings.checked import Checked


class Fractions(NamedTuple):
    """The numbers of fractions τ of the return's distribution for which a network gives quantiles.

    online, target: drawn for an update, of the online and of the target network
    policy: evenly spaced, for a choice of action · cosines: features that each fraction enters the network as
    """

    online: int
    target: int
    policy: int
    cosines: int


class LossSettings(Checked):
    """The form of the network's output and of its bootstrap, which every loss defines.

    double: a field of the losses that can let the online network choose the next action; the others never do
    Their equations are in `learners/torch/losses.py`.
    """

    double: bool = False

    @property
    def outputs(self) -> int | None:
        """Numbers that the network gives for each action; None for the one number Q(s, a)."""
        return None

    @property
    def support(self) -> tuple[float, float] | None:
        """The lowest and the highest of as many evenly spaced atoms as `outputs`, of which they are the logits.

        None for a network that gives values: Q itself, or quantiles.
        """
        return None

    @property
    def fractions(self) -> Fractions | None:
        """For how many fractions the network gives `outputs`; None for a network that takes no fractions."""
        return None

    def check_munchausen(self) -> None:
        """Raise SettingError if the loss cannot be combined with Munchausen's bootstrap."""
        if self.double:
            raise SettingError(
                "munchausen and loss.double cannot be combined: Munchausen bootstraps on the softmax policy's "
                "expectation, where there is no argmax to hand to the online network; set one of them off "
                "(--no-munchausen, or munchausen=None)."
            )


@dataclass(frozen=True)
class QLearning(LossSettings):
    """A scalar Q(s, a), regressed on the one-step or n-step target (Mnih 2015, eq. 2)."""

    double: bool = False
    """Let the online network choose the action that the target network values (van Hasselt 2016, eq. 4)."""
    error: Literal["huber", "squared"] = "huber"
    """ℓ(δ) of the temporal-difference error δ: Huber's with threshold 1, the paper's clipping of δ, or δ²/2."""


@dataclass(frozen=True)
class Categorical(LossSettings):
    """C51: a distribution over fixed atoms, with the projected Bellman update (Bellemare 2017, alg. 1)."""

    atoms: int = 51
    """Number of atoms. [2, 4096]. Bellemare 2017: 51."""
    v_min: float = -10.0
    """Return of the lowest atom, in the environment's reward. Bellemare 2017: −10 (rewards clipped to ±1)."""
    v_max: float = 10.0
    """Return of the highest atom, in the environment's reward; above v_min. Bellemare 2017: 10."""
    double: bool = False
    """Let the online network choose the next action (Hessel 2018)."""

    _ranges: ClassVar[Mapping[str, str]] = {"atoms": "[2, 4096]"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.v_min) and math.isfinite(self.v_max) and self.v_min < self.v_max):
            raise SettingError(
                f"v_min is {self.v_min} and v_max is {self.v_max}, but v_min has to be below v_max, both finite."
            )

    @property
    def outputs(self) -> int:
        return self.atoms

    @property
    def support(self) -> tuple[float, float]:
        return self.v_min, self.v_max


@dataclass(frozen=True)
class Quantile(LossSettings):
    """QR-DQN: the quantiles of the return at fixed fractions (Dabney 2018a, alg. 1)."""

    quantiles: int = 200
    """Number of quantiles N. [1, 4096]. Dabney 2018a: 200."""
    kappa: float = 1.0
    """Threshold κ of the quantile Huber loss, in reward; 0 is pure quantile regression. [0, inf). Dabney 2018a: 1."""
    double: bool = False
    """Let the online network choose the next action."""

    _ranges: ClassVar[Mapping[str, str]] = {"quantiles": "[1, 4096]", "kappa": "[0, inf)"}

    @property
    def outputs(self) -> int:
        return self.quantiles


@dataclass(frozen=True)
class ImplicitQuantile(LossSettings):
    """IQN: the quantile function itself, at fractions τ drawn again for each update (Dabney 2018b)."""

    quantiles: int = 64
    """Fractions τ drawn for the online network, the paper's N. [1, 4096]. Dabney 2018b: 64."""
    target_quantiles: int = 64
    """Fractions τ' drawn for the target, the paper's N'. [1, 4096]. Dabney 2018b: 64."""
    policy_quantiles: int = 32
    """Evenly spaced fractions that a choice of action averages, the paper's K. [1, 4096]. Dabney 2018b: 32."""
    cosines: int = 64
    """Cosine features of τ, the paper's n. [1, 4096]. Dabney 2018b: 64."""
    kappa: float = 1.0
    """Threshold κ of the quantile Huber loss, in reward; 0 is pure quantile regression. [0, inf). Dabney 2018b: 1."""
    double: bool = False
    """Let the online network choose the next action."""

    _ranges: ClassVar[Mapping[str, str]] = {
        "quantiles": "[1, 4096]",
        "target_quantiles": "[1, 4096]",
        "policy_quantiles": "[1, 4096]",
        "cosines": "[1, 4096]",
        "kappa": "[0, inf)",
    }

    @property
    def outputs(self) -> int:
        return 1

    @property
    def fractions(self) -> Fractions:
        return Fractions(self.quantiles, self.target_quantiles, self.policy_quantiles, self.cosines)


@dataclass(frozen=True)
class Munchausen(Checked):
    """Add the scaled log-policy to the reward, and bootstrap softly (Vieillard 2020, eq. 1)."""

    alpha: float = 0.9
    """Weight α of the log-policy term. [0, 1]. Vieillard 2020: 0.9."""
    temperature: float = 0.03
    """Entropy temperature τ of the softmax policy, in reward. (0, inf). Vieillard 2020: 0.03."""
    clip: float = -1.0
    """Lower bound l₀ of τ·log π(a|s), in reward. (-inf, 0]. Vieillard 2020: −1."""

    _ranges: ClassVar[Mapping[str, str]] = {"alpha": "[0, 1]", "temperature": "(0, inf)", "clip": "(-inf, 0]"}


@dataclass(frozen=True)
class Uniform(Checked):
    """Every stored transition is equally likely in a batch."""


@dataclass(frozen=True)
class Prioritised(Checked):
    """Proportional prioritised replay with importance weights (Schaul 2016, alg. 1)."""

    alpha: float = 0.6
    """Exponent of the priority; 0 is uniform. [0, 1]. Schaul 2016: 0.6."""
    beta_initial: float = 0.4
    """Exponent of the importance weights at the first step. [0, 1]. Schaul 2016: 0.4."""
    beta_final: float = 1.0
    """Exponent of the importance weights at the last step, reached linearly. [0, 1]. Schaul 2016: 1."""
    epsilon: float = 1e-6
    """Added to every priority, so that none is zero. (0, inf). Schaul 2016, section 3.3."""

    _ranges: ClassVar[Mapping[str, str]] = {
        "alpha": "[0, 1]",
        "beta_initial": "[0, 1]",
        "beta_final": "[0, 1]",
        "epsilon": "(0, inf)",
    }


Loss = QLearning | Categorical | Quantile | ImplicitQuantile
Replay = Uniform | Prioritised

# The names by which the command line and JSON choose a value of these two settings.
KINDS: dict[str, dict[str, type]] = {
    "loss": {
        "q_learning": QLearning,
        "categorical": Categorical,
        "quantile": Quantile,
        "implicit_quantile": ImplicitQuantile,
    },
    "replay": {"uniform": Uniform, "prioritised": Prioritised},
}


def kind(setting: str, name: str) -> type:
    """The dataclass behind a kind's name: `kind("loss", "categorical")` is `Categorical`."""
    kinds = KINDS[setting]
    if name not in kinds:
        raise SettingError(f"{setting} is {name!r}, but it has to be one of {', '.join(kinds)}.")
    return kinds[name]
