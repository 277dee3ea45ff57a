"""The class for a notebook: an environment and settings in, a trained agent out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from upright.environments.sources import EnvironmentSource
from upright.errors import Diverged, RunError, SettingError
from upright.evaluation import Evaluation
from upright.learners import NetworkSource
from upright.loop import train
from upright.messages import logger
from upright.runs.folders import seed_folder
from upright.runs.run import Run
from upright.settings.config import Config
from upright.settings.foreign_names import unknown_argument
from upright.settings.presets import preset as find_preset
from upright.views.terminal import Terminal


class DQN:
    """An agent of the DQN family on one environment.

        agent = upright.DQN("CartPole-v1").learn(50_000)
        agent.evaluate(episodes=100).mean
        action, _ = agent.predict(observation)

    env: a Gymnasium id, "module:Id", "module:Class", or a callable that returns an environment
    preset: a name in `upright.PRESETS`, or a Config · settings: any field of `upright.Config`, over the preset's
    network: an `nn.Module`, or a factory of one, instead of the settings' (see `TorchLearner`)
    folder: the experiment's, where this run takes seed-<seed> for its metrics and policy; None keeps nothing
    Raises SettingError, SpaceError or EnvironmentFault, each with a message that says how to fix it.
    """

    def __init__(
        self,
        env: EnvironmentSource,
        *unexpected: Any,
        preset: str | Config = "default",
        seed: int = 0,
        network: NetworkSource | None = None,
        folder: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        if unexpected or env in ("MlpPolicy", "CnnPolicy", "MultiInputPolicy"):
            raise SettingError(
                "DQN takes one environment and then settings by name, DQN(env, net_arch=(64, 64)): it chooses the "
                "network by the observations and needs no policy class."
            )
        config = preset if isinstance(preset, Config) else find_preset(preset)
        place = None if folder is None else seed_folder(Path(folder), seed)
        config = config.override(**settings)
        self.run = Run(env, config, seed, place, network)
        self.agent = self.run.agent
        self._total_timesteps = config.total_timesteps  # of a call of `learn` without a number

    @property
    def config(self) -> Config:
        """Every setting, resolved."""
        return self.run.config

    def learn(
        self, total_timesteps: int | None = None, progress_bar: bool = False, plot: bool = False, **unexpected: Any
    ) -> DQN:
        """Train for that many steps, or for the setting's; called again, for that many more.

        progress_bar: show a panel in the terminal · plot: draw the returns while it learns, as `upright.live` does
        """
        for name in unexpected:
            arguments = ("total_timesteps", "progress_bar", "plot")
            raise SettingError(unknown_argument("learn", name, arguments, self.config.to_dict()))
        more = self._total_timesteps if total_timesteps is None else total_timesteps
        self.run.extend(self.run.step + more)
        reports = train(self.run)
        if plot:
            from upright.views.plot import live

            reports = live(reports, self.run.name)
        terminal = None
        if progress_bar:
            from rich.console import Console

            total = self.config.total_timesteps
            terminal = Terminal(Console(), total, self.run.name, self.agent.engine, self.run.step)
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

    def evaluate(self, episodes: int = 100, seed: int = 0) -> Evaluation:
        """Greedy episodes on fresh environments; see `Agent.evaluate`."""
        return self.agent.evaluate(episodes, seed)

    def close(self) -> None:
        """Close the environments, with their workers, and the metrics file."""
        self.run.close()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the policy for `upright.load`; see `Agent.save`."""
        return self.agent.save(folder)
