"""The problem that a network is built for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """The shape of an encoded observation, True if it is an image, and the number of actions.

    scale `[D]`: factors for the entries of a vector of bytes; None where all are 1
    largest: what the pixels of an image are divided by
    structure: the shapes of the parts of a Dict or Tuple, nested as they are, whose numbers follow each other in the
    vector; None for an observation without parts. A network of the user's own is given the parts.
    """

    observation_shape: tuple[int, ...]
    is_image: bool
    num_actions: int
    scale: tuple[float, ...] | None = None
    largest: float = 255.0
    structure: Any = field(default=None, compare=False)
