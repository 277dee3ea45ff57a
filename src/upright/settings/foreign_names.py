"""Other libraries' names for settings and arguments, and the message for a name that does not exist here."""

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
    "n_timesteps": "total_timesteps",
    "max_timesteps": "total_timesteps",
    "step_per_collect": "train_freq",
    "update_per_step": "gradient_steps",
    "utd_ratio": "gradient_steps",
    "training_num": "num_envs",
    "train_num": "num_envs",
    "num_workers": "num_envs",
    "num_rollout_workers": "num_envs",
    "num_env_runners": "num_envs",
    "vec_env_cls": "vectorization_mode",
    "eval_episodes": "n_eval_episodes",
    "num_eval_episodes": "n_eval_episodes",
    "evaluation_interval": "eval_freq",
    "save_freq": "checkpoint_every",
    "checkpoint_freq": "checkpoint_every",
    "optimizer_class": "optimizer",
    "adam_epsilon": "optimizer_eps",
    "adam_eps": "optimizer_eps",
    "lr_schedule": "learning_rate_schedule",
    "lr_scheduler": "learning_rate_schedule",
    "activation_fn": "activation",
    "fcnet_activation": "activation",
    "hiddens": "net_arch",
    "hidden_dim": "net_arch",
    "orthogonal_init": "initialisation",
    "ortho_init": "initialisation",
    "num_steps_sampled_before_learning_starts": "learning_starts",
    "learning_start": "learning_starts",
    "warmup": "learning_starts",
    "initial_epsilon": "exploration_initial_eps",
    "final_epsilon": "exploration_final_eps",
    "epsilon_timesteps": "exploration_fraction",
    "cuda": "device",
    "gpu": "device",
    "use_cuda": "device",
    "framework": "engine",
    "is_double": "loss.double",
    "clip_loss_grad": "loss.error",
    "loss_fn": "loss",
    "prioritized_replay_alpha": "replay.alpha",
    "prioritized_replay_beta": "replay.beta_initial",
    "prioritized_replay_eps": "replay.epsilon",
}

# What to do instead of settings and arguments that other libraries have, and nothing here is another name for.
_FOLDER = "a run's folder names and keeps it: DQN(…, folder='runs/mine'), or --out runs/mine"
_LOGGED = (
    "the metrics are in metrics.jsonl of the run's folder (DQN(…, folder='runs/mine')), and `upright train "
    "--tensorboard` also writes event files"
)
_REPORTS = (
    "iterate over upright.train(upright.Run(env, config)), which yields a report every log_interval steps; eval_freq "
    "evaluates and checkpoint_every saves on the way"
)
_NETWORK = "the network follows from the observations and from net_arch, and DQN(…, network=…) takes one of your own"
_DRAWS = "replay chooses how a batch is drawn: replay=Prioritised(alpha=0.6), or --replay prioritised"
_ENVIRONMENT = "the environment comes first: DQN('CartPole-v1'), or upright train CartPole-v1"
_EPISODES = "episodes are counted without a Monitor: their returns and lengths are in every report"
_SEED = "the seed belongs to a run: DQN(…, seed=3), or --seed 3"
_GREEDY = "evaluations are greedy"
_VIDEO = "`upright record RUN -o episode.mp4` makes a video of a run's policy"
_CLIPPED = "a wrapper does it: wrapper=('ClipReward(min_reward=-1, max_reward=1)',)"
_STACKED = "a wrapper does it: wrapper=('FrameStackObservation(stack_size=4)',)"
_OF_LEARN = "it is an argument of learn: DQN(…).learn({}=True)"
_EPSILON = (
    "ε falls linearly from exploration_initial_eps to exploration_final_eps over exploration_fraction of the steps, or "
    "exponentially with exploration_time_constant"
)
INSTEAD = {
    # SB3, and its zoo
    "policy": _NETWORK,
    "policy_kwargs": "its entries are settings: net_arch=(64, 64), activation='tanh', optimizer='adam'",
    "features_extractor_class": _NETWORK,
    "features_extractor_kwargs": _NETWORK,
    "verbose": "learn(progress_bar=True) shows a panel, and the logger 'upright' has the messages; --quiet hides both",
    "tensorboard_log": _LOGGED,
    "tb_log_name": _FOLDER,
    "callback": _REPORTS,
    "callbacks": _REPORTS,
    "eval_env": "evaluations make environments of their own: eval_freq=5000 evaluates every 5,000 steps",
    "eval_log_path": _FOLDER,
    "reset_num_timesteps": "learn continues where it stopped, and a new DQN(…) begins at step 0",
    "progress_bar": _OF_LEARN.format("progress_bar"),
    "plot": _OF_LEARN.format("plot"),
    "optimize_memory_usage": "every transition holds both of its observations: lower buffer_size where memory is short",
    "replay_buffer_class": _DRAWS,
    "replay_buffer_kwargs": _DRAWS,
    "replay_buffer_config": _DRAWS,
    "stats_window_size": "rollout/ep_rew_mean is over the last 100 episodes",
    "monitor_wrapper": _EPISODES,
    "monitor": _EPISODES,
    "support_multi_env": "num_envs says how many environments are stepped side by side",
    "action_noise": "ε-greedy actions explore (exploration_final_eps), or noisy=True",
    "use_sde": "ε-greedy actions explore (exploration_final_eps), or noisy=True",
    "_init_setup_model": "the networks are made with the agent",
    "log_interval": "it is a setting, in steps: DQN(…, log_interval=500)",  # of `learn`
    "seed": _SEED,
    "env": _ENVIRONMENT,
    "env_id": _ENVIRONMENT,
    "env_name": _ENVIRONMENT,
    "task": _ENVIRONMENT,
    "algo": "the members of the family are presets: preset='rainbow', or --preset rainbow",
    "clip_reward": _CLIPPED,
    "clip_rewards": _CLIPPED,
    "reward_clip": _CLIPPED,
    "reward_clipping": _CLIPPED,
    "frame_stack": _STACKED,
    "framestack": _STACKED,
    "frames_stack": _STACKED,
    "n_stack": _STACKED,
    "stack_num": _STACKED,
    # CleanRL
    "exp_name": _FOLDER,
    "run_name": _FOLDER,
    "logdir": _FOLDER,
    "log_dir": _FOLDER,
    "log_path": _FOLDER,
    "track": _LOGGED,
    "logger": _LOGGED,
    "wandb_project_name": _LOGGED,
    "wandb_entity": _LOGGED,
    "torch_deterministic": f"a run repeats itself with the same seed; {_SEED}",
    "capture_video": _VIDEO,
    "save_model": _FOLDER,
    # Tianshou and RLlib
    "epoch": "total_timesteps counts all steps of a run",
    "max_epoch": "total_timesteps counts all steps of a run",
    "step_per_epoch": "total_timesteps counts all steps of a run",
    "episode_per_collect": "train_freq counts steps: train_freq=4 updates every fourth step",
    "test_num": "n_eval_episodes says how many episodes an evaluation has",
    "eps_train": _EPSILON,
    "eps_test": _GREEDY,
    "epsilon_eval": _GREEDY,
    "exploration_config": _EPSILON,
    "model": _NETWORK,
    "optim": "optimizer='adam' and learning_rate=1e-3 choose it",
}

# What changes while training, and so is no function of its progress.
SCHEDULES = {
    "learning_rate": "learning_rate_schedule='linear' lets it fall to 0 by the last step, and 'constant' keeps it",
    "exploration_initial_eps": _EPSILON,
    "exploration_final_eps": _EPSILON,
    "exploration_fraction": _EPSILON,
    "beta_initial": "β rises linearly from beta_initial to beta_final",
    "beta_final": "β rises linearly from beta_initial to beta_final",
}
_EXAMPLES = {
    "loss": "loss=QLearning(double=True) or loss=Categorical(atoms=51)",
    "replay": "replay=Prioritised(alpha=0.6)",
}


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """Return the message for a setting that does not exist, with the name that it has here, or what to do instead."""
    if name in INSTEAD:
        return f"There is no setting {name!r}: {INSTEAD[name]}."
    setting, _, inner = FOREIGN_NAMES.get(name, "").partition(".")
    if inner:
        hint = f" Did you mean {inner!r} in {setting!r}, as in {_EXAMPLES[setting]}?"
    elif setting:
        hint = f" Did you mean {setting!r}?"
    else:
        hint = did_you_mean(name, known)
    return f"There is no setting {name!r}.{hint}"


def unknown_argument(method: str, name: str, arguments: Iterable[str], settings: Iterable[str]) -> str:
    """Return the message for an argument that a method of DQN does not have: what to do instead, or where it belongs.

    arguments: those that the method has · settings: those that DQN takes
    """
    own = FOREIGN_NAMES.get(name, name)
    if own in (known := tuple(arguments)):
        return f"{method} has no argument {name!r}. Did you mean {own!r}?"
    if name in INSTEAD:
        return f"{method} has no argument {name!r}: {INSTEAD[name]}."
    setting, _, inner = own.partition(".")
    if setting in settings:
        example = f", as in {_EXAMPLES[setting]}" if inner else ""
        return f"{method} has no argument {name!r}: it is a setting of the agent, DQN(…, {setting}=…){example}."
    return f"{method} has no argument {name!r}.{did_you_mean(name, known)}"
