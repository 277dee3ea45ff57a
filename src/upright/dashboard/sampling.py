"""Many points as few, so that a page need not draw what no screen can show."""

from __future__ import annotations

import numpy as np


def downsample(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most about `most` of the points: the lowest and the highest of each of `most`/2 stretches, in their order.

    x: ascending `[n]` · y: `[n]`, finite. A single peak among a million points stays.
    """
    if len(x) <= most:
        return x, y
    stretches = max(1, most // 2 - 1)
    edges = np.linspace(0, len(x), stretches + 1).astype(np.int64)
    starts, sizes = edges[:-1], np.diff(edges)
    lowest = np.minimum.reduceat(y, starts)
    highest = np.maximum.reduceat(y, starts)
    stretch = np.repeat(np.arange(stretches), sizes)
    kept = np.zeros(len(x), bool)
    for extreme in (lowest, highest):
        places = np.flatnonzero(y == extreme[stretch])
        kept[places[np.unique(stretch[places], return_index=True)[1]]] = True  # the first of each stretch
    kept[[0, -1]] = True
    return x[kept], y[kept]


def within(x: np.ndarray, low: float | None, high: float | None) -> slice:
    """Where ascending x lies within [low, high], with one more point on either side, for the lines that leave it."""
    begin = 0 if low is None else max(0, int(np.searchsorted(x, low)) - 1)
    end = len(x) if high is None else min(len(x), int(np.searchsorted(x, high, side="right")) + 1)
    return slice(begin, end)
