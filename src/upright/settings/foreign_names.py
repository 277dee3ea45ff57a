"""Other libraries' names for settings, and the message for a name that does not exist here."""

from __future__ import annotations

from collections.abc import Iterable

from upright.errors import did_you_mean

# SB3, CleanRL, Tianshou, RLlib and the PyTorch tutorial. A point leads into a setting that has settings of its own.
FOREIGN_NAMES = {
    "lr": "learning_rate",
    "start_e": "exploration_initial_eps",
    "eps_start": "exploration_initial_eps",
    "end_e": "exploration_final_eps",
    "eps_end": "exploration_final_eps",
    "eps_decay": "exploration_time_constant",
    "exploration_decay": "exploration_time_constant",
    "target_network_frequency": "target_update_interval",
    "target_update_freq": "target_update_interval",
    "target_update_frequency": "target_update_interval",
    "target_network_update_freq": "target_update_interval",
    "train_frequency": "train_freq",
    "n_step": "n_steps",
    "estimation_step": "n_steps",
    "discount": "gamma",
    "discount_factor": "gamma",
    "hidden_sizes": "net_arch",
    "hidden_size": "net_arch",
    "fcnet_hiddens": "net_arch",
    "policy_kwargs": "net_arch",
    "memory_size": "buffer_size",
    "replay_size": "buffer_size",
    "replay_buffer_size": "buffer_size",
    "timesteps": "total_timesteps",
    "total_steps": "total_timesteps",
    "train_batch_size": "batch_size",
    "warmup_steps": "learning_starts",
    "prioritized": "replay",
    "prioritized_replay": "replay",
    "per": "replay",
    "double_dqn": "loss.double",
    "double_q": "loss.double",
    "double": "loss.double",
    "num_atoms": "loss.atoms",
    "n_atoms": "loss.atoms",
    "atoms": "loss.atoms",
    "v_min": "loss.v_min",
    "v_max": "loss.v_max",
    "n_quantiles": "loss.quantiles",
    "num_quantiles": "loss.quantiles",
    "quantiles": "loss.quantiles",
    "grad_clip": "max_grad_norm",
    "clip_grad_norm": "max_grad_norm",
    "max_episode_length": "max_episode_steps",
    "n_envs": "num_envs",
    "env_wrapper": "wrapper",
    "num_timesteps": "total_timesteps",
}


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """Return the message for a setting that does not exist, with the name that it has here."""
    setting, _, inner = FOREIGN_NAMES.get(name, "").partition(".")
    if inner:
        hint = (
            f" Did you mean {inner!r} in {setting!r}, as in loss=QLearning(double=True) or loss=Categorical(atoms=51)?"
        )
    elif setting:
        hint = f" Did you mean {setting!r}?"
    else:
        hint = did_you_mean(name, known)
    return f"There is no setting {name!r}.{hint}"
