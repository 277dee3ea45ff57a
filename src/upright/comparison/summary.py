"""What the final policies of an experiment's seeds have reached, with the interval of each figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from upright import files
from upright.comparison.statistics import CONFIDENCE, Statistic, bootstrap_interval, interquartile_mean, wilson_interval

STATISTICS: dict[str, Statistic] = {
    "interquartile_mean": interquartile_mean,
    "mean": np.mean,
    "median": np.median,
    "worst": np.min,
}


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the final policies of an experiment's seeds come to, from their results.

    Each statistic of the final mean returns, and the share of seeds solved, has its 95 % interval [low, high]: by the
    bootstrap over seeds, and Wilson's. The worst seed's can only reach upwards: no resample holds a worse one.
    """
    results = sorted(results, key=lambda result: result["seed"])
    means = [result["final_mean"] for result in results]
    summary: dict[str, Any] = {
        "env": results[0]["env"],
        "steps": max(result["steps"] for result in results),
        "seeds": [result["seed"] for result in results],
        "final_means": means,
        "confidence": CONFIDENCE,
    }
    for name, statistic in STATISTICS.items():
        value = float(statistic(np.array(means), axis=-1))
        summary[name] = {"value": value, "interval": list(bootstrap_interval(statistic, means))}
    thresholds = {result["threshold"] for result in results}
    if None not in thresholds and len(thresholds) == 1:
        solved, count = sum(result["solved"] for result in results), len(results)
        summary["threshold"] = thresholds.pop()
        summary["solved"] = {"seeds": solved, "share": solved / count, "interval": list(wilson_interval(solved, count))}
    seconds = [result["seconds"] for result in results]
    summary["seconds"] = {"total": round(sum(seconds), 3), "mean": round(float(np.mean(seconds)), 3)}
    return summary


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json into the experiment's folder; its seeds' results hold all that it was computed from."""
    files.write(folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
