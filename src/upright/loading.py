"""A saved policy, back from its folder: nothing of what it reads is run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

import upright
from upright import files
from upright.agent import DESCRIPTION, NEXT_PARAMETERS, PARAMETERS, POLICY_SCHEMA, Agent
from upright.environments.environment import encoding
from upright.environments.saved_spaces import from_dict
from upright.environments.trust import named_environment
from upright.errors import RunError, UprightError
from upright.files import as_path
from upright.learners import NetworkSource
from upright.settings.config import Config


def saved_parameters(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The parameters of the policy in its folder or its run's. Raises RunError when there is none."""
    folder, description = _described(folder)
    return _parameters(folder, description.get("parameters"))


def load(
    folder: str | os.PathLike[str],
    network: NetworkSource | None = None,
    device: str = "auto",
    engine: Literal["auto", "torch", "native"] = "auto",
    trust: bool = False,
) -> Agent:
    """The Agent that `save` wrote, from a policy's folder or from the folder of its run.

    network: the module or factory again, if the policy was trained with one of the user's own
    device, engine: where and by what to compute, wherever and by whatever it was trained
    trust: let the agent's `evaluate` import the modules that the file names for its environment and wrappers, and hand
    paths to them
    Loading itself runs nothing of what it reads. Raises RunError when the folder holds no whole policy, and
    MissingExtra when it needs PyTorch and that is not installed.
    """
    folder, description = _described(folder)
    parameters = _parameters(folder, description.get("parameters"))
    try:
        config = Config.from_file(description["config"])
        observations, actions = encoding(
            from_dict(description["observation_space"]), from_dict(description["action_space"]), config
        )
        source, own_network = named_environment(description["env"]), description["own_network"]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UprightError) as error:
        raise RunError(f"{folder / 'policy.json'} does not describe a policy: {error}.") from error
    if own_network and network is None:
        raise RunError(
            f"The policy in {folder} has a network of its maker's: give it again, load(folder, network=...)."
        )
    config = config.override(device=device, engine=engine)
    try:
        agent = Agent(config, observations, actions, source, network=network, parameters=parameters, trusted=trust)
        agent.learner.load_parameters(parameters)
    except ValueError as error:
        raise RunError(f"{folder / 'policy.safetensors'} does not fit its policy.json: {error}.") from error
    return agent


def _described(given: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """The folder of a policy, which may be within the one given, and its policy.json. Raises RunError."""
    folder = as_path(given)
    if (folder / "policy").is_dir():
        folder /= "policy"
        if folder.is_symlink():
            raise RunError(f"{folder} is a link, which is not followed out of a run's folder; give the folder itself.")
    if not (folder / DESCRIPTION).exists():
        raise RunError(f"There is no policy in {folder}: policy.json is missing; give the folder of a run.")
    description = files.read_sealed(folder / DESCRIPTION)
    if description.get("schema") != POLICY_SCHEMA:
        raise RunError(
            f"The policy in {folder} is of schema {description.get('schema')!r}, and upright {upright.__version__} "
            f"reads schema {POLICY_SCHEMA}."
        )
    return folder, description


def _parameters(folder: Path, named: Any) -> dict[str, np.ndarray]:
    """The parameters that policy.json names: a crash may have come before they took the place of the last ones."""
    size = named.get("size") if isinstance(named, Mapping) else None
    for name in (PARAMETERS, NEXT_PARAMETERS):
        if (path := folder / name).exists() and path.stat().st_size == size:
            content = files.read(path)
            if named == {"size": len(content), "sha256": files.digest(content)}:
                return files.read_tensors(path, content)
    what = "damaged: it is not the file that policy.json names" if (folder / PARAMETERS).exists() else "missing"
    raise RunError(f"{folder / PARAMETERS} is {what}.")
