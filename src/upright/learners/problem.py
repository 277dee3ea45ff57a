"""The problem that a network is built for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """The shape of an encoded observation, True if it is an image, and the number of actions."""

    observation_shape: tuple[int, ...]
    is_image: bool
    num_actions: int
