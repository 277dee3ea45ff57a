"""Named values of `Config`.

`default` is what `upright train` uses. `tutorial` is the PyTorch tutorial's configuration and `dqn` is
Nature's for Atari, number for number. The other members of the family each add their paper's ingredient
to one plain DQN of the size of classic control, so that they learn in seconds and differ in nothing else. The
constants are the paper's, except what is said below: fewer quantiles and fractions, and atoms that fit CartPole's
returns. On Atari, compose them with Nature's numbers instead:

    replace(PRESETS["dqn"], loss=Categorical())        or        --preset dqn --loss categorical
"""

from __future__ import annotations

from dataclasses import replace

from upright.errors import SettingError, did_you_mean, wrong
from upright.settings.config import Config
from upright.settings.kinds import Categorical, ImplicitQuantile, Munchausen, Prioritised, QLearning, Quantile

_default = Config()

# The PyTorch tutorial "Reinforcement Learning (DQN)", number for number: ε falls as exp(−steps/1000), the first update
# follows the step at which the memory holds one batch, and AdamW decays weights by 0.01, PyTorch's own default. This is
# the edition with a learning rate of 1e-4; a later one has 3e-4, ε to 0.01, and exp(−steps/2500).
_tutorial = Config(
    stretch_observations=False,
    scale_integers=False,
    net_arch=(128, 128),
    loss=QLearning(error="huber"),
    gamma=0.99,
    n_steps=1,
    cut_n_steps=False,
    buffer_size=10_000,
    learning_starts=127,
    batch_size=128,
    train_freq=1,
    optimizer="adamw",
    learning_rate=1e-4,
    learning_rate_schedule="constant",
    weight_decay=0.01,
    amsgrad=True,
    max_grad_norm=None,
    max_grad_value=100.0,
    tau=0.005,
    target_update_interval=1,
    exploration_initial_eps=0.9,
    exploration_final_eps=0.05,
    exploration_time_constant=1_000.0,
    exploration_after_learning_starts=False,
    exploration_repeat=None,
)

# Mnih 2015, extended data table 1, in steps of the agent, which are the frames that it sees: one of every 4 of the
# emulator's. Where the paper's code differs from the table, the numbers are the code's: the target network's 10,000 are
# steps, and 0.01 stands under RMSprop's root with the sum of a batch's gradients, so that √0.01/32 stands beside the
# root with their mean.
_dqn = Config(
    total_timesteps=50_000_000,
    stretch_observations=False,
    net_arch=(512,),
    loss=QLearning(error="huber"),
    gamma=0.99,
    n_steps=1,
    cut_n_steps=False,
    buffer_size=1_000_000,
    learning_starts=50_000,
    batch_size=32,
    train_freq=4,
    optimizer="rmsprop",
    learning_rate=2.5e-4,
    learning_rate_schedule="constant",
    optimizer_eps=0.1 / 32,
    max_grad_norm=None,
    tau=1.0,
    target_update_interval=10_000,
    exploration_initial_eps=1.0,
    exploration_final_eps=0.1,
    exploration_fraction=0.02,
    exploration_repeat=None,
    log_interval=10_000,
)

# The plain DQN of the size of classic control to which each of the following adds its ingredient; dueling and
# prioritised replay go with double, as in their papers.
_plain = replace(
    _default,
    stretch_observations=False,
    loss=QLearning(error="huber"),
    n_steps=1,
    cut_n_steps=False,
    buffer_size=10_000,
    learning_rate=1e-3,
    max_grad_norm=10.0,
    exploration_final_eps=0.05,
    exploration_after_learning_starts=False,
    exploration_repeat=None,
)

# Noisy layers explore by themselves: ε is 0 from the start (Fortunato 2018, section 3.2).
_noisy = replace(_plain, noisy=True, exploration_initial_eps=0.0, exploration_final_eps=0.0)

# Fewer than the papers' 200 quantiles and 64 fractions, whose N² errors a sample are sized for a GPU. Eight
# fractions already come close to 64 in Dabney 2018b, figure 3.
_quantiles = Quantile(quantiles=50)
_implicit = ImplicitQuantile(quantiles=8, target_quantiles=8)

# Rewards of at most 1 discounted by 0.99 sum to at most 100; Atari's clipped ones fit the paper's ±10.
_c51 = Categorical(v_min=-100.0, v_max=100.0)

PRESETS: dict[str, Config] = {
    "default": _default,
    "tutorial": _tutorial,
    "dqn": _dqn,
    "double": replace(_plain, loss=QLearning(double=True)),
    "dueling": replace(_plain, loss=QLearning(double=True), dueling=True),
    "per": replace(_plain, loss=QLearning(double=True), replay=Prioritised()),
    "noisy": _noisy,
    "c51": replace(_plain, loss=_c51),
    "qrdqn": replace(_plain, loss=_quantiles),
    "iqn": replace(_plain, loss=_implicit),
    "munchausen": replace(_plain, munchausen=Munchausen()),
    "rainbow": replace(
        _noisy,
        loss=replace(_c51, double=True),
        dueling=True,
        n_steps=3,
        replay=Prioritised(alpha=0.5),
    ),
}


def preset(name: str) -> Config:
    """The preset of that name, or the sentence that lists them."""
    if not isinstance(name, str):
        raise wrong("preset", name, "the name of one, or a Config")
    if name not in PRESETS:
        raise SettingError(
            f"There is no preset {name!r}.{did_you_mean(name, PRESETS)} The presets are {', '.join(PRESETS)}."
        )
    return PRESETS[name]
