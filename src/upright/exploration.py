"""Random actions that are repeated: temporally extended ε-greedy exploration, εz-greedy.

Dabney, Ostrovski, Barreto: "Temporally-Extended ε-Greedy Exploration", ICLR 2021, arXiv:2006.01782.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from upright.environments.vectors import Outcome
from upright.state import check_counts

LONGEST = 10_000  # steps; Dabney 2021, section 4


class Repeats:
    """The random actions that E environments repeat   (Dabney 2021, algorithm 1).

    A random action is taken for n steps in a row, n drawn from the zeta distribution P(n) = n^−μ / ζ(μ); a few in a
    thousand last for a hundred steps at μ = 2. It ends early with its episode, or where a mask forbids it.
    """

    def __init__(self, exponent: float | None, num_envs: int, num_actions: int) -> None:
        """`exponent`: μ above, or None: every random action is taken once."""
        self.exponent, self._num_actions = exponent, num_actions
        self._action, self._left = [0] * num_envs, [0] * num_envs

    def apply(
        self, action: np.ndarray, explored: list[bool], mask: np.ndarray | None, random: np.random.Generator
    ) -> None:
        """Put the repeated actions in place of the ε-greedy `action [E]`, and draw how long new ones are repeated.

        explored `[E]`: which of the actions are random ones, before and after
        """
        if self.exponent is None:
            return
        for i, left in enumerate(self._left):
            if left and (mask is None or mask[i, self._action[i]]):
                action[i], explored[i], self._left[i] = self._action[i], True, left - 1
            elif explored[i]:
                self._action[i], self._left[i] = int(action[i]), min(int(random.zipf(self.exponent)), LONGEST) - 1
            else:
                self._left[i] = 0

    def end(self, outcome: Outcome) -> None:
        """Let the actions end whose episodes did."""
        if True in outcome.terminated or True in outcome.truncated:
            for i, (terminated, truncated) in enumerate(zip(outcome.terminated, outcome.truncated, strict=True)):
                if terminated or truncated:
                    self.forget(i)

    def forget(self, env: int) -> None:
        """Let one environment's action end."""
        self._left[env] = 0

    def state(self) -> dict[str, np.ndarray]:
        """Return the repeated actions `[E]` and the steps left of each `[E]`; nothing if none is ever repeated."""
        if self.exponent is None:
            return {}
        return {"action": np.array(self._action, np.int64), "left": np.array(self._left, np.int64)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from what `state` returned. Raises ValueError for what it cannot have returned."""
        if self.exponent is None:
            return
        check_counts("action", state["action"], (len(self._left),), below=self._num_actions)
        check_counts("left", state["left"], (len(self._left),))
        self._action, self._left = state["action"].tolist(), state["left"].tolist()
