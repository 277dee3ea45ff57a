"""The actions that an environment allows, in whichever of three conventions it says so.

In info["action_mask"], as Gymnasium's own environments do; by its method `action_masks()`, as sb3-contrib has it; or in
observation["action_mask"], next to the observation proper, as PettingZoo and RLlib have it.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from upright.environments.actions import Actions
from upright.errors import SpaceError

MASK, METHOD = "action_mask", "action_masks"
# Names under which other projects' environments have something of the kind that is not read: in info, as an entry of
# the observation, or as an attribute.
OTHERS = (
    "action_masks",
    "avail_actions",
    "available_actions",
    "get_action_mask",
    "get_legal_actions",
    "get_valid_actions",
    "invalid_action_mask",
    "invalid_actions",
    "legal_actions",
    "legal_actions_mask",
    "legal_moves",
    "valid_action_mask",
    "valid_actions",
    "valid_mask",
    "valid_moves",
)
IN_DATA = (*OTHERS, "legal", "mask")


def observed_mask(space: spaces.Space[Any], actions: Actions, setting: str) -> str | None:
    """The key of a Dict observation's entry that is an action mask, if masks may be read there.

    Raises SpaceError for an entry of that name that does not fit the actions: they would be restricted without effect.
    """
    if setting not in ("auto", "observation") or not isinstance(space, spaces.Dict) or len(space.spaces) < 2:
        return None
    entry = space.spaces.get(MASK)
    if entry is None:
        return None
    parts = list(entry.spaces) if isinstance(entry, spaces.Tuple) else [entry]
    sizes = [math.prod(part.shape or ()) for part in parts]
    is_binary = all(
        isinstance(part, (spaces.Box, spaces.MultiBinary))
        or (isinstance(part, spaces.MultiDiscrete) and bool((part.nvec == 2).all()))
        for part in parts
    )
    if is_binary and (sizes == list(actions.sizes) or sizes in ([actions.n], [sum(actions.sizes)])):
        return MASK
    raise SpaceError(
        f"observation['action_mask'] is {entry}, which is no mask of {actions.n} actions: give zeros and ones for "
        "them, or choose action_masks='info' (--action-masks info) to have the network see it."
    )


class Masks:
    """The masks of one environment, from the place that its first reset decides.

    place: "info", "method" or "observation"; None for an environment without masks, or before its first reset
    """

    def __init__(self, env: gymnasium.Env[Any, Any], actions: Actions, setting: str, key: str | None) -> None:
        self._actions, self._setting, self._key = actions, setting, key
        self._method = None
        if setting in ("auto", "method") and env.has_wrapper_attr(METHOD):
            method = env.get_wrapper_attr(METHOD)
            self._method = method if callable(method) else None
        self._others = [f"The environment's {name}" for name in OTHERS if name != METHOD and env.has_wrapper_attr(name)]
        if isinstance(env.observation_space, spaces.Dict):
            self._others += [f"observation[{name!r}]" for name in env.observation_space.spaces if name in IN_DATA]
        self.place: str | None = None

    def choose(self, info: dict[str, Any]) -> str | None:
        """Decide, by the first reset's info, where masks are read; what its user should know of it, or None.

        Raises ValueError where the environment has no masks in the place that the settings name.
        """
        if self._setting in ("auto", "info") and MASK in info:
            self.place = "info"
            return "Only actions that info['action_mask'] allows are taken."
        if self._key is not None:
            self.place = "observation"
            return f"Only actions that observation[{self._key!r}] allows are taken; the network does not see it."
        if self._method is not None:
            self.place = "method"
            return "Only actions that the environment's action_masks() allows are taken."
        if self._setting in ("method", "observation"):
            what = "method action_masks()" if self._setting == "method" else "entry 'action_mask' in its observation"
            raise ValueError(f"action_masks is {self._setting!r}, but the environment has no {what}")
        names = [f"info[{name!r}]" for name in IN_DATA if name in info] + self._others
        if names and self._setting == "auto":
            return (
                f"{names[0]} is not read: to restrict the actions, put zeros and ones for all {self._actions.n} into "
                "info['action_mask'] at every reset and step, or return them from a method action_masks()."
            )
        return None

    def read(self, info: dict[str, Any], observation: Any, ended: bool) -> np.ndarray | None:
        """The actions `[n]` that are allowed next, or None without masks.

        Raises ValueError for a mask that is missing, has other entries than zeros and ones, or forbids every action
        before the episode's end.
        """
        if self.place is None:
            if self._setting in ("auto", "info") and MASK in info:
                raise ValueError("info has an 'action_mask', but had none at the first reset: give one at every reset")
            return None
        if self.place == "info":
            name = "info['action_mask']"
            if MASK not in info:
                raise ValueError("info has no 'action_mask', though it had one at the first reset")
            given = info[MASK]
        elif self.place == "observation":
            name, given = f"observation[{self._key!r}]", observation[self._key]
        else:
            name, given = "action_masks()", self._ask(ended)
        try:
            mask = self._actions.mask(given, by_dimension=self.place != "info")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name} {error}") from error
        if not mask.any():
            if not ended:
                raise ValueError(f"{name} forbids every action")
            mask[:] = True  # no action follows the end, so no choice is lost, and no maximum is over nothing
        return mask

    def _ask(self, ended: bool) -> Any:
        assert self._method is not None
        try:
            return self._method()
        except Exception as error:
            if ended:  # where no action follows, it need not have an answer
                return np.ones(self._actions.n, bool)
            raise ValueError(f"action_masks() raised {type(error).__name__}: {error}") from error
