"""What a network is built for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What a network is built for: the encoded observation's shape, whether it is an image, the number of actions."""

    observation_shape: tuple[int, ...]
    is_image: bool
    num_actions: int
