"""How far a run is: the part of its state that no other part keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from upright.state import Form, check_counts, check_form, generator_state, set_generator_state

if TYPE_CHECKING:
    from upright.runs.run import Run


class Position:
    """The part of a run that is its own: how far it is, and what the next actions answer."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def state(self) -> dict[str, np.ndarray]:
        run = self._run
        return {
            "step": np.array(run.step),
            "updates": np.array(run.updates),
            "best": np.array(run.best),
            "random": generator_state(run.random),
            "obs": run.obs,
            **({} if run.mask is None else {"mask": run.mask}),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        run = self._run
        check_counts("step", state["step"])
        check_counts("updates", state["updates"])
        check_form("obs", state["obs"], Form(run.obs.shape, run.obs.dtype))
        if run.mask is not None:
            check_form("mask", state["mask"], Form(run.mask.shape, run.mask.dtype))
            run.mask = state["mask"]
        run.step, run.updates, run.best = int(state["step"]), int(state["updates"]), float(state["best"])
        run.obs = state["obs"]
        set_generator_state(run.random, state["random"])
