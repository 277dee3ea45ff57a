"""Many points as few, so that a page need not draw what no screen can show."""

from __future__ import annotations

import numpy as np


def downsample(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most about `most` of the points: the lowest and the highest of each of `most`/2 stretches, in their order.

    x: ascending `[n]` · y: `[n]`, finite. A single peak among a million points stays.
    """
    if len(x) <= most:
        return x, y
    wide = -(-len(x) // max(1, most // 2 - 1))
    whole = len(x) // wide * wide
    rows = y[:whole].reshape(-1, wide)
    begins = np.arange(0, whole, wide)
    kept = np.zeros(len(x), bool)
    kept[begins + rows.argmin(axis=1)] = kept[begins + rows.argmax(axis=1)] = kept[[0, -1]] = True
    if whole < len(x):
        kept[[whole + y[whole:].argmin(), whole + y[whole:].argmax()]] = True
    return x[kept], y[kept]


def within(x: np.ndarray, low: float | None, high: float | None) -> slice:
    """Return the slice of ascending x within [low, high], with one more point on either side for the lines to it."""
    begin = 0 if low is None else max(0, int(np.searchsorted(x, low)) - 1)
    end = len(x) if high is None else min(len(x), int(np.searchsorted(x, high, side="right")) + 1)
    return slice(begin, end)
