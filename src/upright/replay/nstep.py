"""n-step returns, folded into transitions before they are stored (Sutton & Barto 2018, eq. 7.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from upright.environments.vectors import Outcome
from upright.replay.ring import Transition
from upright.state import Form, check_counts, check_form


class NStep:
    """Folds the steps of E environments into n-step transitions that never cross an episode's end.

    After n steps the oldest one leaves as
        (sₜ, aₜ, Σ_{k<n} γᵏ rₜ₊ₖ, γⁿ, sₜ₊ₙ)
    and at an episode's end all that wait leave with the k < n steps that they have: with discount 0 when it
    terminated, and γᵏ, bootstrapping on its last observation, when it was truncated.

    With cut, all that wait leave before a random action, too, bootstrapping on the observation that it answers: what
    it leads to says nothing about the greedy policy (Watkins 1989, who so ends the traces of Q(λ)).
    """

    def __init__(
        self, n: int, gamma: float, num_envs: int, forms: Mapping[str, Form], num_actions: int, cut: bool = False
    ) -> None:
        """`forms`: those of the transitions, by which arrays out of a file are checked."""
        self.n, self.gamma, self.cut = n, gamma, cut
        self._forms, self._num_actions = forms, num_actions
        self._waiting: list[deque[tuple[Any, Any, float, Any]]] = [deque() for _ in range(num_envs)]

    def push(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        mask: np.ndarray | None,
        outcome: Outcome,
        explored: Sequence[bool],
    ) -> Iterator[Transition]:
        """Take one step of every environment; yield the transitions that it completes.

        explored `[E]`: whether the action was drawn at random
        """
        for i, waiting in enumerate(self._waiting):
            if not outcome.valid[i]:
                continue
            allowed = None if mask is None else mask[i]
            if self.cut and explored[i]:
                while waiting:
                    yield self._fold(waiting, 1.0, obs[i], allowed)
                    waiting.popleft()
            waiting.append((obs[i], action[i], outcome.reward[i], allowed))
            terminated = outcome.terminated[i]
            ended = terminated or outcome.truncated[i]
            while waiting and (ended or len(waiting) == self.n):
                next_mask = None if outcome.next_mask is None else outcome.next_mask[i]
                yield self._fold(waiting, 0.0 if terminated else 1.0, outcome.next_obs[i], next_mask)
                waiting.popleft()

    def _fold(
        self, waiting: deque[tuple[Any, Any, float, Any]], goes_on: float, next_obs: Any, next_mask: Any
    ) -> Transition:
        reward, discount = 0.0, 1.0
        for step in waiting:
            reward += discount * step[2]
            discount *= self.gamma
        first_obs, first_action, _, first_mask = waiting[0]
        return Transition(first_obs, first_action, reward, goes_on * discount, next_obs, first_mask, next_mask)

    def forget(self, env: int) -> None:
        """Drop the steps of one environment that wait for more."""
        self._waiting[env].clear()

    def state(self) -> dict[str, np.ndarray]:
        """The steps that wait for more, environment by environment, the oldest first."""
        steps = [(i, *step) for i, waiting in enumerate(self._waiting) for step in waiting]
        state = {"env": np.array([step[0] for step in steps], np.int64)}
        if steps:
            _, obs, action, reward, mask = zip(*steps, strict=True)
            state |= {"obs": np.stack(obs), "action": np.array(action, np.int64), "reward": np.array(reward)}
            if mask[0] is not None:
                state["mask"] = np.stack(mask)
        return state

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from what `state` returned. Raises ValueError for what it cannot have returned."""
        count = len(state["env"])
        check_counts("env", state["env"], (count,), below=len(self._waiting))
        if count:
            check_counts("action", state["action"], (count,), below=self._num_actions)
            check_form("reward", state["reward"], Form((count,), np.dtype(np.float64)))
            if not np.isfinite(state["reward"]).all():
                raise ValueError("its unfinished steps have a reward that is not finite")
            if ("mask" in state) != ("mask" in self._forms):
                raise ValueError("its unfinished steps have masks where the environment has none, or none where it has")
            for name in state.keys() & {"obs", "mask"}:
                form = self._forms[name]
                check_form(name, state[name], Form((count, *form.shape), form.dtype))
        if (np.bincount(state["env"]) >= self.n).any():
            raise ValueError("more steps wait in an environment than can")
        for waiting in self._waiting:
            waiting.clear()
        for k, env in enumerate(state["env"].tolist()):
            mask = state["mask"][k] if "mask" in state else None
            self._waiting[env].append((state["obs"][k], int(state["action"][k]), float(state["reward"][k]), mask))
