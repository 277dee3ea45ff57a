"""THE loop: deep Q-learning with experience replay (Mnih 2015, algorithm 1), as a generator."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from upright.errors import EnvironmentFault, EpisodesLost
from upright.messages import logger
from upright.runs import control
from upright.runs.metrics import Progress
from upright.runs.run import Run
from upright.settings.config import Config


def train(run: Run) -> Iterator[Progress]:
    """Train to `run.config.total_timesteps`, yielding what happened every `log_interval` steps and at the end.

    Whoever wants metrics, a plot or an early stop iterates it; it may be left and taken up again at any yield, and
    after a fault or Ctrl-C too, with new episodes. A run with a folder gets a checkpoint every `checkpoint_every` steps
    and at the end; `run.stopping` ends it after the step that it is in.
    """
    config = run.config
    started, first_step = time.perf_counter(), run.step
    if config.learning_starts >= config.total_timesteps:
        logger.warning(
            f"Nothing will be learned: learning_starts ({config.learning_starts:,}) is not below "
            f"total_timesteps ({config.total_timesteps:,})."
        )
    if run.interrupted:
        run.restart()
    run.interrupted = True
    try:
        while run.step < config.total_timesteps and not run.stopping:
            epsilon = exploration_rate(config, run.step)
            action, explored = run.agent.act(run.obs, run.mask, epsilon, run.random)
            run.repeats.apply(action, explored, run.mask, run.random)
            try:
                outcome = run.vector.step(action)
            except EpisodesLost:
                run.retake_episodes()
                continue
            except EnvironmentFault:
                run.checkpoint()  # nothing of this step has been learned yet
                raise
            for transition in run.nstep.push(run.obs, action, run.mask, outcome, explored):
                run.replay.push(*transition)
            run.repeats.end(outcome)
            run.obs, run.mask = outcome.obs, outcome.mask
            before, run.step = run.step, run.step + sum(outcome.valid)
            run.episodes.add(run.step, outcome)
            learn(run, range(before + 1, run.step + 1))

            evaluating = _crosses(config.eval_freq, before, run.step)
            if evaluating or run.step >= config.total_timesteps or _crosses(config.log_interval, before, run.step):
                metrics = {
                    **run.episodes.means(),
                    "rollout/exploration_rate": epsilon,
                    **run.agent.learner.metrics(),
                    "train/learning_rate": learning_rate(config, run.step),
                    "train/n_updates": run.updates,
                    "time/episodes": run.episodes.count,
                    "time/total_timesteps": run.step,
                    "time/time_elapsed": time.perf_counter() - run.started,
                    "time/fps": (run.step - first_step) / (time.perf_counter() - started),
                }
                if evaluating:
                    try:
                        evaluation = run.agent.evaluate(config.n_eval_episodes)
                    except EnvironmentFault:
                        run.report(metrics)  # the step itself is done
                        run.checkpoint()
                        raise
                    metrics["eval/mean_reward"] = evaluation.mean
                    metrics["eval/mean_ep_length"] = float(evaluation.lengths.mean())
                    run.keep_best(evaluation.mean)
                progress = run.report(metrics)
                control.answer(run)
            else:
                progress = None
            if run.step >= config.total_timesteps or _crosses(config.checkpoint_every, before, run.step):
                run.checkpoint()
            if progress is not None:
                run.interrupted = False
                yield progress
                run.interrupted = True
        run.interrupted = False
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


def exploration_rate(config: Config, step: int) -> float:
    """ε: linear over exploration_fraction of the run, or final + (initial − final)·exp(−step/time constant)."""
    initial, final = config.exploration_initial_eps, config.exploration_final_eps
    if config.exploration_time_constant is not None:
        return final + (initial - final) * math.exp(-step / config.exploration_time_constant)
    span = config.exploration_fraction * config.total_timesteps
    return final + (initial - final) * max(0.0, 1.0 - step / span) if span else final


def learning_rate(config: Config, step: int) -> float:
    """The optimiser's step size: constant, or falling linearly to 0 at the end of the run."""
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    return config.learning_rate * max(0.0, 1.0 - step / config.total_timesteps)


def _crosses(interval: int, before: int, now: int) -> bool:
    return interval > 0 and now // interval > before // interval
