"""A saved policy's greedy episode, with its pictures and everything that the policy computed at each step.

The worker process of `upright.dashboard.player` imports this module, the server does not.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from upright.agent import Agent, load
from upright.dashboard.player import Wish
from upright.environments.environment import EVALUATION_INDEX, Environment, make_environment
from upright.errors import EnvironmentFault
from upright.evaluation import check_spaces
from upright.runs.policy import policy_at
from upright.settings.kinds import Loss
from upright.views.episodes import is_picture
from upright.views.episodes import play as moments

MOST_STEPS = 2_000  # of an episode that are shown
MOST_BYTES = 192 * 2**20  # of its pictures
WIDEST = 640  # pixels of a picture
STEPS_BETWEEN_SIGNS = 25
BINS = 48  # of a return distribution's histogram

# What the numbers of some well-known actions mean.
ACTION_NAMES = {
    "CartPole": ("left", "right"),
    "MountainCar": ("left", "none", "right"),
    "Acrobot": ("torque −1", "torque 0", "torque +1"),
    "LunarLander": ("nothing", "left engine", "main engine", "right engine"),
    "FrozenLake": ("left", "down", "right", "up"),
    "CliffWalking": ("up", "right", "down", "left"),
    "Taxi": ("south", "north", "east", "west", "pick up", "drop off"),
    "Blackjack": ("stick", "hit"),
}


def play(wish: Wish, report: Callable[[int], None] = lambda steps: None) -> tuple[dict[str, Any], list[bytes]]:
    """Play one greedy episode: what was seen and thought at each step, and a JPEG of each.

    The episode is that of the same number in `upright evaluate` with seed 0. Raises UprightError.
    """
    agent, step = _agent(wish)
    source, why = agent.where_to_act(), ""
    try:
        environment = make_environment(source, agent.config, 0, EVALUATION_INDEX, render_mode="rgb_array")
    except EnvironmentFault as error:
        why = str(error)
        environment = make_environment(source, agent.config, 0, EVALUATION_INDEX)
    try:
        check_spaces(environment, agent.spaces)
        shown, pictures = _episode(agent, environment, wish.episode, report)
    finally:
        environment.close()
    shown["pictures"] = [len(each) for each in pictures]
    shown["why_no_pictures"] = "" if pictures else why or "The environment draws no picture (render_mode='rgb_array')."
    shown["step"], shown["gamma"], shown["actions"] = step, agent.config.gamma, _names(environment)
    return shown, pictures


def _episode(
    agent: Agent, environment: Environment, episode: int, report: Callable[[int], None]
) -> tuple[dict[str, Any], list[bytes]]:
    q: list[list[float | None]] = []
    actions: list[int] = []
    rewards: list[float] = []
    outputs: list[np.ndarray] = []
    pictures: list[bytes] = []
    size = 0
    for moment in moments(agent, environment, episode):
        if moment.step:
            rewards.append(float(moment.reward))
            if moment.step % STEPS_BETWEEN_SIGNS == 0:
                report(moment.step)
        if moment.action is None or moment.step >= MOST_STEPS or size >= MOST_BYTES:
            break
        picture = _picture(environment)
        if picture is not None:
            pictures.append(picture)
            size += len(picture)
        if agent.config.loss.outputs is not None:
            outputs.append(agent.learner.outputs(moment.obs[None])[0])
        allowed = [True] * len(moment.q) if moment.mask is None else moment.mask
        q.append([_round(value) if may else None for value, may in zip(moment.q, allowed, strict=True)])
        actions.append(moment.action)
    if pictures and len(pictures) < len(actions):
        pictures = []  # an environment that stops drawing half-way
    reached, following = [0.0] * len(rewards), 0.0
    for k in reversed(range(len(rewards))):
        following = reached[k] = rewards[k] + agent.config.gamma * following
    return {
        "q": q,
        "chosen": actions,
        "rewards": [_round(each) for each in rewards],
        "reached": [_round(each) for each in reached],
        "total": sum(rewards),
        "ended": moment.ended or "cut",
        "distribution": _histograms(agent.config.loss, np.stack(outputs)) if outputs else None,
    }, pictures


def _agent(wish: Wish) -> tuple[Agent, float | None]:
    """The policy of that moment, and the step that it is of, where its file says so."""
    if wish.moment.startswith("step-"):
        step = int(wish.moment.removeprefix("step-"))
        return policy_at(wish.folder, step, wish.trust), step
    return load(wish.folder / wish.moment, device="cpu", trust=wish.trust), None


def _histograms(loss: Loss, outputs: np.ndarray) -> dict[str, Any]:
    """Each step's distribution over the same bins: outputs `[T, A, N]` → probabilities `[T][A][bins]` between edges."""
    outputs = outputs.astype(np.float64)
    steps, actions, count = outputs.shape
    if loss.support is not None:
        weights = np.exp(outputs - outputs.max(axis=2, keepdims=True))
        probability = weights / weights.sum(axis=2, keepdims=True)
        low, high = loss.support
        half = (high - low) / (count - 1) / 2
        edges = np.linspace(low - half, high + half, count + 1)
        merged = max(1, math.ceil(count / 64))
        starts = np.arange(0, count, merged)
        probability = np.add.reduceat(probability, starts, axis=2)
        edges = np.append(edges[starts], edges[-1])
        kind = f"probability of {count} atoms"
    else:
        low, high = float(outputs.min()), float(outputs.max())
        edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
        place = np.clip(np.searchsorted(edges, outputs, side="right") - 1, 0, BINS - 1)
        row = np.arange(steps * actions).repeat(count)
        counted = np.bincount(row * BINS + place.reshape(-1), minlength=steps * actions * BINS)
        probability = counted.reshape(steps, actions, BINS) / count
        kind = f"share of {count} quantiles"
    return {
        "edges": [_round(each) for each in edges],
        "probability": np.round(probability, 4).tolist(),
        "kind": kind,
    }


def _picture(environment: Environment) -> bytes | None:
    frame = environment.env.render() if environment.env.render_mode == "rgb_array" else None
    if not is_picture(frame):
        return None
    image = Image.fromarray(frame)
    if image.width > WIDEST:
        image = image.resize((WIDEST, max(1, image.height * WIDEST // image.width)))
    elif image.width < 320:  # a small picture's pixels are meant to be seen
        scale = 320 // image.width + 1
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=88, subsampling=0)
    return content.getvalue()


def _names(environment: Environment) -> list[str]:
    spec = getattr(environment.unwrapped, "spec", None)
    known = ACTION_NAMES.get("" if spec is None else spec.id.rpartition("-")[0], ())
    count = environment.actions.n
    if len(known) == count:
        return list(known)
    names = [str(environment.actions.decode(each)) for each in range(count)]
    return [f"action {each}" if each.isdigit() else each for each in names]


def _round(value: float) -> float:
    """Six digits: more than any chart shows."""
    return float(f"{value:.6g}")
