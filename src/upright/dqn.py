"""The class for a notebook: an environment and settings in, a trained agent out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from upright import files
from upright.agent import Agent
from upright.environments.sources import EnvironmentSource
from upright.errors import Diverged, RunError, SettingError, wrong
from upright.evaluation import Evaluation, check_seed
from upright.learners import NetworkSource
from upright.loop import checked_steps, train
from upright.messages import logger
from upright.runs.description import planned_steps
from upright.runs.folders import RunFolder, seed_folder
from upright.runs.run import Run
from upright.settings.config import Config
from upright.settings.foreign_names import unknown_argument
from upright.settings.presets import preset as find_preset
from upright.views.terminal import Terminal

POLICIES = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")  # SB3's names for networks


class DQN:
    """An agent of the DQN family on one environment.

        agent = upright.DQN("CartPole-v1").learn(50_000)
        agent.evaluate(episodes=100).mean
        action, _ = agent.predict(observation)

    env: a Gymnasium id, "module:Id", "module:Class", or a callable that returns an environment
    preset: a name in `upright.PRESETS`, or a Config · settings: any field of `upright.Config`, over the preset's
    network: an `nn.Module`, or a factory of one, instead of the settings' (see `TorchLearner`)
    folder: the experiment's, where this run takes seed-<seed> for its metrics and policy; None keeps nothing
    start_from: the folder of a saved policy, or of its run, with whose parameters the network begins
    A copy, by `copy.deepcopy` or `pickle`, continues on environments of its own, and in no folder.
    Raises SettingError, SpaceError or EnvironmentFault, each with a message that says how to fix it.
    """

    def __init__(
        self,
        env: EnvironmentSource | None = None,
        /,
        *unexpected: Any,
        preset: str | Config = "default",
        seed: int = 0,
        network: NetworkSource | None = None,
        folder: str | os.PathLike[str] | None = None,
        start_from: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        by_name = settings.pop("env", None)
        if unexpected or (env is not None and by_name is not None) or (isinstance(env, str) and env in POLICIES):
            raise SettingError(
                "DQN takes one environment and then settings by name, DQN(env, net_arch=(64, 64)): it chooses the "
                "network by the observations and needs no policy class such as 'MlpPolicy'."
            )
        env = by_name if env is None else env
        if env is None:
            raise SettingError("DQN needs an environment: DQN('CartPole-v1'), or DQN(MyEnv).")
        config = preset if isinstance(preset, Config) else find_preset(preset)
        place = None if folder is None else seed_folder(files.as_path(folder), check_seed(seed))
        if start_from is not None:
            settings["start_from"] = str(files.as_path(start_from, "start_from"))
        # A total that is given spans all calls of `learn`; without one each call trains for as long as it says.
        self._has_total = "total_timesteps" in settings or (
            isinstance(preset, Config) and preset.total_timesteps != Config().total_timesteps
        )
        config = config.override(**settings)
        if place is not None and not self._has_total:
            planned = planned_steps(RunFolder(place).experiment.config, config.total_timesteps)
            config = config.override(total_timesteps=planned)
        self.run = Run(env, config, seed, place, network)
        self._said_of_schedules, self._end = False, 0
        self._steps = config.total_timesteps  # of a call of `learn` without a number

    @property
    def agent(self) -> Agent:
        """The policy as it is now."""
        return self.run.agent

    @property
    def config(self) -> Config:
        """Every setting, resolved."""
        return self.run.config

    def learn(
        self, total_timesteps: int | None = None, progress_bar: bool = False, plot: bool = False, **unexpected: Any
    ) -> DQN:
        """Train for that many steps, or for the setting's; called again, for that many more.

        Where `DQN` was given total_timesteps, the schedules of ε and the learning rate span that many steps, over all
        calls; a call that goes beyond extends them. Without it, they span what was asked for so far.
        progress_bar: show a panel in the terminal · plot: draw the returns while it learns, as `upright.live` does
        """
        for name in unexpected:
            arguments = ("total_timesteps", "progress_bar", "plot")
            raise SettingError(unknown_argument("learn", name, arguments, self.config.to_dict()))
        for name, value in (("progress_bar", progress_bar), ("plot", plot)):
            if not isinstance(value, bool):
                raise wrong(name, value, "True or False")
        more = self._steps if total_timesteps is None else checked_steps(total_timesteps)
        # From where the last call was to end, if it came so far: several environments may have passed that by steps.
        self._end = end = (self._end if self.run.step >= self._end else self.run.step) + more
        if not self._has_total or end > self.config.total_timesteps:
            if self.run.step and not self._said_of_schedules:
                self._said_of_schedules = True
                why = "goes beyond total_timesteps" if self._has_total else "is called again"
                logger.warning(
                    f"learn() {why}, so the schedules of exploration and of the learning rate stretch to {end:,} steps "
                    "and step back: DQN(…, total_timesteps=…) gives them one length for all calls."
                )
            self.run.extend(max(end, self.run.step))
        self.run.stopping = False  # also after a stop
        if end <= self.run.step:
            return self
        reports = train(self.run, end - self.run.step)
        if plot:
            from upright.views.plot import live

            reports = live(reports, self.run.name)
        terminal = None
        if progress_bar:
            from rich.console import Console

            terminal = Terminal(Console(), end, self.run.name, self.agent.engine, self.run.step)
        try:
            for progress in reports:
                if terminal is not None:
                    terminal.write(progress)
        except Diverged:
            raise  # without saving: a policy kept earlier is worth more than one that is no longer a number
        except BaseException:
            try:
                self.run.save()
            except RunError as error:  # the fault that came first says more
                logger.warning(f"The policy is not saved: {error}")
            raise
        finally:
            if terminal is not None:
                terminal.close()
        self.run.save()
        return self

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """See `Agent.predict`."""
        return self.agent.predict(observation, state, episode_start, deterministic, action_masks)

    def q_values(self, observation: Any) -> np.ndarray:
        """See `Agent.q_values`."""
        return self.agent.q_values(observation)

    def evaluate(self, episodes: int = 100, seed: int = 0, env: EnvironmentSource | None = None) -> Evaluation:
        """Greedy episodes on fresh environments, those of `env` if it is given; see `Agent.evaluate`."""
        return self.run.evaluate(episodes, seed) if env is None else self.agent.evaluate(episodes, seed, env)

    def close(self) -> None:
        """Close the environments, with their workers, and the metrics file."""
        self.run.close()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the policy for `upright.load`; see `Agent.save`."""
        return self.agent.save(folder)
