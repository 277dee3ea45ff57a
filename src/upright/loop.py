"""THE loop: deep Q-learning with experience replay (Mnih 2015, algorithm 1), as a generator."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from upright.errors import EnvironmentFault, RunError, wrong
from upright.messages import logger
from upright.runs.metrics import Progress
from upright.runs.run import Run
from upright.settings.config import Config


def train(run: Run, steps: int | None = None) -> Iterator[Progress]:
    """Train to `run.config.total_timesteps`, yielding what happened every `log_interval` steps and at the end.

    steps: stop after that many steps of this call, if that is before the run's end; schedules span the whole run
    Iterate it for metrics, a plot or an early stop; it may be left and begun again at any yield, and after a fault or
    Ctrl-C too, with new episodes. A run with a folder gets a checkpoint every `checkpoint_every` steps and at the end;
    `run.stop()` ends it after the step that it is in.
    """
    if not isinstance(run, Run):
        raise wrong("run", run, "an upright.Run, as in train(upright.Run(env, config))")
    if run.is_closed:
        raise RunError("The run is closed: open it again with upright.Run.open, or make a new one.")
    config, began = run.config, (time.perf_counter(), run.step)
    end = config.total_timesteps if steps is None else min(config.total_timesteps, run.step + checked_steps(steps))
    if run.step == 0:
        warn_of_settings(config)
    if run.interrupted:
        run.restart()
    try:
        while run.step < end and not run.stopping:
            run.interrupted = True  # until the end of this step
            epsilon = exploration_rate(config, run.step)
            action, explored = run.agent.act(run.obs, run.mask, epsilon, run.random)
            run.repeats.apply(action, explored, run.mask, run.random)
            outcome = run.take_step(action)
            if outcome is None:
                continue
            for transition in run.nstep.push(run.obs, action, run.mask, outcome, explored):
                run.replay.push(*transition)
            taken = run.advance(outcome)
            learn(run, taken)
            progress = report(run, taken, epsilon, began, end)
            if is_due(config.checkpoint_every, taken) or run.step >= end:
                run.checkpoint()
            run.interrupted = False
            if progress is not None:
                yield progress
        if run.updates == 0 and run.step >= config.total_timesteps >= first_update(config):
            logger.warning(
                f"Nothing was learned in {run.step:,} steps: the memory never held a batch when one was due."
            )
    finally:
        run.flush()  # the episodes since the last report, where a fault or Ctrl-C came before the next


def learn(run: Run, steps: range) -> None:
    """Do the updates that fall due at each of these steps, as if they had been taken one by one."""
    config, learner = run.config, run.agent.learner
    for step in steps:
        if step > config.learning_starts and step % config.train_freq == 0 and len(run.replay) >= config.batch_size:
            for _ in range(config.gradient_steps):
                batch = run.replay.sample(config.batch_size, min(1.0, step / config.total_timesteps))
                run.replay.reprioritise(batch, learner.update(batch, learning_rate(config, step)))
                run.updates += 1
        if step % config.target_update_interval == 0:
            learner.update_target()


def report(run: Run, steps: range, epsilon: float, began: tuple[float, int], end: int) -> Progress | None:
    """Evaluate and report where one of these steps is due for it, and answer other processes; None where none is.

    began, end: when this call of `train` began, in seconds, at which step, and at which it ends
    """
    config = run.config
    evaluating = is_due(config.eval_freq, steps)
    if not (evaluating or is_due(config.log_interval, steps) or run.step >= end):
        return None
    now, (since, first_step) = time.perf_counter(), began
    metrics = {
        **run.episodes.means(),
        "rollout/exploration_rate": epsilon,
        **run.agent.learner.metrics(),
        "train/learning_rate": learning_rate(config, run.step),
        "train/n_updates": run.updates,
        "time/episodes": run.episodes.count,
        "time/total_timesteps": run.step,
        "time/time_elapsed": now - run.started,
        "time/fps": (run.step - first_step) / (now - since),
    }
    if evaluating:
        try:
            evaluation = run.evaluate(config.n_eval_episodes)
        except EnvironmentFault:
            run.report(metrics)  # the step itself is done
            run.checkpoint()
            raise
        metrics["eval/mean_reward"] = evaluation.mean
        metrics["eval/mean_ep_length"] = float(evaluation.lengths.mean())
        if evaluation.success_rate is not None:
            metrics["eval/success_rate"] = evaluation.success_rate
        run.keep_best(evaluation.mean)
    progress = run.report(metrics)
    run.answer()
    return progress


def warn_of_settings(config: Config) -> None:
    """Log where these settings leave no update to be made, or little time for it."""
    total, starts = config.total_timesteps, config.learning_starts
    first = first_update(config)
    if starts >= total:
        logger.warning(
            f"Nothing will be learned: learning_starts ({starts:,}) is not below total_timesteps ({total:,})."
        )
    elif first > total:
        logger.warning(
            f"Nothing will be learned: with learning_starts {starts:,}, batch_size {config.batch_size:,} and "
            f"train_freq {config.train_freq:,} the first update would come at step {first:,}, after total_timesteps "
            f"({total:,})."
        )
    elif config.exploration_time_constant is None and 0 < (span := config.exploration_fraction * total) <= starts:
        if config.exploration_after_learning_starts:
            short = f"exploration falls from step {starts:,} to {starts + span:,.0f} only, after random play"
        else:
            short = f"exploration has fallen by step {span:,.0f}, before the first update"
        logger.warning(
            f"learning_starts ({starts:,}) is long for total_timesteps ({total:,}): {short}; lower learning_starts, or "
            "train for longer."
        )


def first_update(config: Config) -> int:
    """The step of the first update, if every step so far has put a transition into the memory."""
    enough = max(config.learning_starts + 1, config.batch_size)
    return math.ceil(enough / config.train_freq) * config.train_freq


def checked_steps(steps: Any) -> int:
    """A number of steps to train for, which may be written 1e5. Raises SettingError for anything else."""
    is_number = isinstance(steps, (numbers.Integral, float)) and not isinstance(steps, bool)
    if is_number and 1 <= steps < 2**63 and float(steps).is_integer():
        return int(steps)
    raise wrong("The number of steps", steps, "a whole number, 1 or more")


def exploration_rate(config: Config, step: int) -> float:
    """ε: linear over exploration_fraction of the run, or final + (initial − final)·exp(−step/time constant).

    With `exploration_after_learning_starts`, step counts from `learning_starts`, and ε is the initial one before it:
    random play fills the memory, and what is learned is explored with (NeuralQLearner.lua of Mnih 2015).
    """
    if not isinstance(config, Config):
        raise wrong("config", config, "an upright.Config")
    if not isinstance(step, (int, float, np.integer)) or not 0 <= step < 2**63:
        raise wrong("step", step, "a number of steps, 0 or more")
    initial, final = config.exploration_initial_eps, config.exploration_final_eps
    if config.exploration_after_learning_starts:
        step = max(0, step - config.learning_starts)
    if config.exploration_time_constant is not None:
        return final + (initial - final) * math.exp(-step / config.exploration_time_constant)
    span = config.exploration_fraction * config.total_timesteps
    return final + (initial - final) * max(0.0, 1.0 - step / span) if span else final


def learning_rate(config: Config, step: int) -> float:
    """The optimiser's step size: constant, or falling linearly to 0 at the end of the run."""
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    return config.learning_rate * max(0.0, 1.0 - step / config.total_timesteps)


def is_due(interval: int, steps: range) -> bool:
    """Return True if what is due every `interval` steps is due at one of these; an interval of 0 never is."""
    return interval > 0 and (steps.stop - 1) // interval > (steps.start - 1) // interval
