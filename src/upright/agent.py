"""The trained agent, as a user has it: act, predict, evaluate, save and load."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

import upright
from upright import evaluation, files
from upright.environments.actions import Actions
from upright.environments.environment import encoding
from upright.environments.saved_spaces import from_dict, to_dict
from upright.environments.sources import EnvironmentSource, portable_name
from upright.environments.spaces import Observations
from upright.environments.trust import allowed_source, named_environment
from upright.errors import Misfit, RunError, UprightError, wrong
from upright.learners import Learner, NetworkSource, make_learner, parameter_forms, why_engine
from upright.learners.problem import Problem
from upright.messages import first_line
from upright.settings.config import Config
from upright.state import check_fit, generator_state, set_generator_state

POLICY_SCHEMA = 2
DESCRIPTION, PARAMETERS, NEXT_PARAMETERS = "policy.json", "policy.safetensors", "next.safetensors"


class Agent:
    """A policy: a learner with the spaces that it sees and acts in.

    config: the settings it learns or learned with · learner: holds the parameters
    observations, actions: how the environment's spaces become the learner's arrays
    source: the environment's id or callable; None for a loaded policy whose environment only its maker can name
    trusted: whether the environment and wrappers that the settings name may be imported; False for what a file says
    """

    def __init__(
        self,
        config: Config,
        observations: Observations,
        actions: Actions,
        source: EnvironmentSource | None,
        seed: int = 0,
        network: NetworkSource | None = None,
        parameters: Mapping[str, np.ndarray] | None = None,
        trusted: bool = True,
    ) -> None:
        """`parameters`: those to be loaded. Raises Misfit, before a network is made, where they do not fit it."""
        self.config, self.observations, self.actions, self.source = config, observations, actions, source
        self.problem = Problem(
            observations.shape,
            observations.is_image,
            actions.n,
            observations.scale,
            observations.largest,
            observations.structure,
        )
        if parameters is not None and network is None:
            _check_parameters(parameters, config, self.problem)
        self.learner: Learner = make_learner(config, self.problem, seed, network)
        self.random = np.random.default_rng([seed, 1])  # for predict; a stream of its own
        self.has_own_network, self.trusted = network is not None, trusted

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """The environment's observation space, as `predict` takes it."""
        return self.observations.space

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The environment's action space, after its wrappers (`discretize` is one), as `predict` answers in it."""
        return self.actions.space

    @property
    def spaces(self) -> evaluation.Spaces:
        """Both, as an environment has to have them."""
        return self.observation_space, self.action_space

    @property
    def engine(self) -> str:
        """The engine, its device and the reason for it, as a human-readable line."""
        why = why_engine(self.config, self.problem, self.has_own_network)
        return f"engine {self.learner.engine} on {self.learner.device}: {why}"

    def reads_differently(self, other: Agent) -> str | None:
        """Why parameters of another agent would mean something else here, though they may have the same shapes."""
        mine, others = self.config, other.config
        if others.activation != mine.activation:
            return f"its activation is {others.activation}, and here it is {mine.activation}"
        if type(others.loss) is not type(mine.loss) or others.loss.support != mine.loss.support:
            return f"its loss is {others.loss}, and here it is {mine.loss}"
        if other.observation_space == self.observation_space and not self.observations.encodes_as(other.observations):
            return "it scales observations otherwise (stretch_observations, scale_integers), or sees other entries"
        return None

    def act(
        self, obs: np.ndarray, mask: np.ndarray | None, epsilon: float, random: np.random.Generator
    ) -> tuple[np.ndarray, list[bool]]:
        """ε-greedy actions `[E]` for encoded observations `[E, *shape]`, among those that mask `[E, A]` allows.

        Also which of them were drawn at random, `[E]`.
        """
        if len(obs) == 1:  # the same draws as below, with less ado
            if random.random() < epsilon:
                return self._random_actions(mask, 1, random), [True]
            return greedy_actions(self.learner.q_values(obs, explore=True), mask), [False]
        explored = random.random(len(obs)) < epsilon
        if explored.all():
            return self._random_actions(mask, len(obs), random), explored.tolist()
        actions = greedy_actions(self.learner.q_values(obs, explore=True), mask)
        if explored.any():
            actions = np.where(explored, self._random_actions(mask, len(obs), random), actions)
        return actions, explored.tolist()

    def greedy(self, obs: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """argmax_a Q(s, a) over the allowed actions: encoded observations `[E, *shape]` → action numbers `[E]`."""
        return greedy_actions(self.learner.q_values(obs), mask)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """The action for one observation, or the actions for a batch, with SB3's signature.

        observation: of the environment's own space, single or batched as Gymnasium's and SB3's vectors do
        state, episode_start: taken for compatibility; a policy without memory returns the state as it came
        deterministic: False explores as at the end of training: with exploration_final_eps, or noisy layers
        action_masks: allowed actions, `[A]` or `[B, A]` (sb3-contrib's name); where the observation holds a mask that
        the policy was trained with, it is read if none is given here

        Returns (action, state), the action in the environment's own action space. Raises Misfit, which is a
        ValueError, for an observation or a mask that does not fit.
        """
        if not isinstance(deterministic, (bool, np.bool_)):
            raise wrong("deterministic", deterministic, "True or False")
        obs, single = self._encode(observation)
        if action_masks is None and self.observations.mask_key is not None:
            try:
                action_masks = self.observations.mask(observation)
            except ValueError as error:
                raise Misfit(f"{first_line(error)}: give the whole observation, or action_masks=….") from error
        mask = None if action_masks is None else self._masks(action_masks, len(obs), single)
        if deterministic:
            number = self.greedy(obs, mask)
        else:
            number, _ = self.act(obs, mask, self.config.exploration_final_eps, self.random)
        action = self.actions.decode_batch(number)
        return (action[0] if single else action), state

    def q_values(self, observation: Any) -> np.ndarray:
        """Q(s, ·) of one observation `[A]`, or of a batch `[B, A]`. Raises Misfit for what does not fit."""
        obs, single = self._encode(observation)
        q = self.learner.q_values(obs)
        return q[0] if single else q

    def _encode(self, observation: Any) -> tuple[np.ndarray, bool]:
        try:
            return self.observations.encode_any(observation)
        except (ValueError, TypeError, KeyError) as error:
            hint = f"observations of this policy are of {self.observation_space}"
            if isinstance(observation, tuple) and len(observation) in (2, 5) and isinstance(observation[-1], dict):
                method = "reset" if len(observation) == 2 else "step"
                rest = "info" if len(observation) == 2 else "reward, terminated, truncated, info"
                hint = f"it is the tuple that {method}() returned, whose first part to give: observation, {rest} = …"
            raise Misfit(f"{first_line(error)}; {hint}.") from error

    def _masks(self, action_masks: Any, count: int, single: bool) -> np.ndarray:
        """The actions `[B, A]` that masks for so many observations allow."""
        try:
            rows = [action_masks] if single else list(action_masks)
            if len(rows) != count:
                raise ValueError(f"has {len(rows)} rows for {count} observations")
            by_dimension = self.observations.mask_key is not None  # as the environment's own masks are read
            masks = [self.actions.mask(row, by_dimension) for row in rows]
            mask = np.stack(masks) if masks else np.empty((0, self.actions.n), bool)
            if not mask.any(axis=1).all():
                raise ValueError("forbids every action of an observation")
        except (ValueError, TypeError) as error:
            raise Misfit(f"action_masks {first_line(error)}.") from error
        return mask

    def evaluate(
        self, episodes: int = 100, seed: int = 0, env: EnvironmentSource | None = None
    ) -> evaluation.Evaluation:
        """Run that many greedy episodes in `n_eval_envs` fresh environments; time limits hold as in training.

        Episode k has a seed that depends on (seed, k) alone, so two policies with the same seed meet the same episodes.
        env: the environment, instead of the policy's own. Raises EnvironmentFault where it has other spaces.
        """
        return evaluation.evaluate(self.greedy, self.where_to_act(env), self.config, episodes, seed, self.spaces)

    def where_to_act(self, env: EnvironmentSource | None = None) -> EnvironmentSource:
        """The environment to evaluate on or show: the given one, else the policy's own.

        Raises EnvironmentFault when there is none, or when it stands in a file that is not trusted and would have a
        module imported or a file opened.
        """
        return allowed_source(env, self.source, self.config, self.trusted)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write policy.json and policy.safetensors, all that `load` needs, and return the folder."""
        folder = files.as_path(folder)
        content = files.tensors(self.learner.parameters())
        description = {
            "schema": POLICY_SCHEMA,
            "upright": upright.__version__,
            "env": None if self.source is None else portable_name(self.source),
            "observation_space": to_dict(self.observation_space),
            "action_space": to_dict(self.action_space),
            "own_network": self.has_own_network,
            "config": self.config.to_dict(),
            "parameters": {"size": len(content), "sha256": files.digest(content)},
        }
        self._finish_save(folder)
        # The new parameters stand beside the old until policy.json names them: it never names what is not there.
        files.write(folder / NEXT_PARAMETERS, content)
        files.write_sealed(folder / DESCRIPTION, description)
        files.rename(folder / NEXT_PARAMETERS, folder / PARAMETERS)
        return folder

    def _finish_save(self, folder: Path) -> None:
        """Put the parameters that policy.json names in their place, if a crash or a full disk left them beside it."""
        try:
            named = files.read_sealed(folder / DESCRIPTION).get("parameters")
            content = files.read(folder / NEXT_PARAMETERS)
        except RunError:
            return
        if named == {"size": len(content), "sha256": files.digest(content)}:
            files.rename(folder / NEXT_PARAMETERS, folder / PARAMETERS)

    def __deepcopy__(self, memo: dict[int, Any]) -> Agent:
        """A copy that acts and learns by itself, with the same parameters, moments and random numbers to come."""
        made, arguments = self.__reduce__()
        copied = copy.deepcopy(arguments, memo)
        twin: Agent = made(*copied)
        twin.source = self.source
        return twin

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        # What the spaces' encoding and the engine's arrays are made from. A source that cannot be pickled, such as a
        # lambda, is left out, as `save` leaves it out: a policy acts without it.
        return _copied, (
            self.config,
            self.observation_space,
            self.action_space,
            self.source if is_importable(self.source) else None,
            self.learner.own_network(),
            self.learner.state(),
            generator_state(self.random),
            self.trusted,
        )

    def _random_actions(self, mask: np.ndarray | None, count: int, random: np.random.Generator) -> np.ndarray:
        if mask is None:
            return random.integers(self.actions.n, size=count)
        # The k-th allowed action, k uniform: the first place where the running count of allowed ones passes k.
        chosen = random.integers(mask.sum(axis=1))
        allowed: np.ndarray = (mask.cumsum(axis=1) > chosen[:, None]).argmax(axis=1)
        return allowed


def greedy_actions(q: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return argmax_a Q(s, a) over the allowed actions: values `[E, A]` → action numbers `[E]`."""
    best: np.ndarray = (q if mask is None else np.where(mask, q, -np.inf)).argmax(axis=1)
    return best


def _check_parameters(parameters: Any, config: Config, problem: Problem) -> None:
    if not isinstance(parameters, Mapping):
        raise wrong("parameters", parameters, "arrays by name")
    try:
        check_fit(parameters, parameter_forms(config, problem))
    except ValueError as error:
        raise Misfit(error) from error


def is_importable(source: EnvironmentSource | None) -> bool:
    """True if another process can be sent this environment's source: a name, or what a module has under its name."""
    if not callable(source):
        return True
    found: Any = sys.modules.get(getattr(source, "__module__", ""))
    for name in getattr(source, "__qualname__", "<lambda>").split("."):
        found = getattr(found, name, None)
    return found is source


def _copied(
    config: Config,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    source: EnvironmentSource | None,
    network: NetworkSource | None,
    state: Mapping[str, np.ndarray],
    random: np.ndarray,
    trusted: bool,
) -> Agent:
    """The agent that `Agent.__reduce__` took apart."""
    observations, actions = encoding(observation_space, action_space, config)
    agent = Agent(config, observations, actions, source, network=network, trusted=trusted)
    agent.learner.load_state(state)
    set_generator_state(agent.random, random)
    return agent


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
    folder = files.as_path(given)
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
