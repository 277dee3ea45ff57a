"""Whether an episode succeeded, from info["is_success"] through every vector."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from toy_environments import Scripted
from upright.environments.environment import Environment
from upright.environments.vectors import InProcess, Vectorised
from upright.settings.config import Config


@pytest.mark.parametrize(
    ("value", "kept"),
    [(True, True), (np.False_, False), (1, True), (0.0, False), (np.float32(1), True), (np.array([0]), False)]
    + [(value, None) for value in (None, "yes", np.ones(2), float("nan"), {"agent": True})],
)
def test_success_is_a_bool_at_the_end_of_an_episode_and_nowhere_else(value, kept: bool | None) -> None:
    environment = Environment(Scripted([([0.0] * 3, True)], successes=[value]), "Scripted", 0, 0, Config())
    _, info = environment.reset()
    infos = [info, *(environment.step(0)[-1] for _ in range(3))]
    assert infos == [{}, {}, {}, {} if kept is None else {"is_success": kept}]
    assert kept is None or type(infos[-1]["is_success"]) is bool


def test_success_passes_every_vector_and_autoreset_mode() -> None:
    """In the order of the episodes, and None at every other step."""

    def thunk(first: int) -> Environment:
        successes = [*[True, None, False, 1.0][first:], 0]
        script = [([0.0] * 2, True), ([0.0], False), ([0.0] * 3, True)]
        return Environment(Scripted(script, masks=True, successes=successes), "Scripted", 0, first, Config())

    def succeeded(vector: InProcess | Vectorised) -> list[list[bool | None]]:
        vector.reset()
        found: list[list[bool | None]] = [[] for _ in range(vector.num_envs)]
        while min(map(len, found)) < 24:
            outcome = vector.step(np.zeros(vector.num_envs, int))
            for i in np.flatnonzero(outcome.valid).tolist():
                found[i].append(outcome.success[i])
        vector.close()
        return [steps[:24] for steps in found]

    reference = succeeded(InProcess([thunk(first) for first in range(3)]))
    assert reference[0][:8] == [None, True, None, None, None, False, None, True]
    probe = thunk(0)
    for cls, mode in itertools.product((SyncVectorEnv, AsyncVectorEnv), AutoresetMode):
        makers = [functools.partial(thunk, first) for first in range(3)]
        vector = Vectorised(cls(makers, autoreset_mode=mode), probe.observations, probe.actions)
        assert succeeded(vector) == reference, (cls.__name__, mode)
