"""The policy of any checkpoint of a run, to be looked at while the run trains on."""

from __future__ import annotations

from pathlib import Path

from upright.agent import Agent
from upright.environments.environment import EVALUATION_INDEX, make_environment
from upright.environments.trust import allowed_source
from upright.errors import RunError
from upright.runs.checkpoint import Checkpoints
from upright.runs.resume import described


def policy_at(folder: Path, step: int, trust: bool = False) -> Agent:
    """Return the policy of a run's checkpoint at a step, which computes on the CPU: training may need the accelerator.

    No lock is taken. trust: import the modules that the file names for the environment and its wrappers, and so run
    their code. Raises RunError when there is no such checkpoint, or it does not hold everything that the policy needs.
    """
    about, parameters = Checkpoints(folder, 1).policy(step)
    if about.get("own_network"):
        raise RunError("This run has a network of its maker's, which no file holds: it cannot be shown here.")
    settings, _, named = described(folder, about)
    config = settings.override(engine="auto", device="cpu")
    source = allowed_source(None, named, config, trust)
    environment = make_environment(source, config, 0, EVALUATION_INDEX)  # a checkpoint does not hold the spaces
    environment.close()
    agent = Agent(config, environment.observations, environment.actions, source)
    agent.trusted = trust
    try:
        agent.learner.load_parameters(parameters)
    except ValueError as error:
        raise RunError(f"The checkpoint at step {step:,} does not fit its run: {error}.") from error
    return agent
