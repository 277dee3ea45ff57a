"""Draw the README's learning curves: the default configuration on CartPole-v1, ten seeds.

for seed in 0 1 2 3 4 5 6 7 8 9; do upright train CartPole-v1 --seed $seed --out runs/learning-curve; done
python docs/pictures/learning_curve.py runs/learning-curve docs/pictures/learning_curve.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def curve(seed_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps and the mean return of the last 100 training episodes, from metrics.jsonl."""
    lines = (json.loads(line) for line in (seed_folder / "metrics.jsonl").read_text().splitlines())
    points = [(line["step"], line["rollout/ep_rew_mean"]) for line in lines if "rollout/ep_rew_mean" in line]
    steps, returns = zip(*points, strict=True)
    return np.array(steps), np.array(returns)


def main(experiment: Path, picture: Path) -> None:
    """One thin line a seed, and the interquartile mean over seeds."""
    curves = [curve(folder) for folder in sorted(experiment.glob("seed-*"))]
    results = [json.loads((folder / "result.json").read_text()) for folder in sorted(experiment.glob("seed-*"))]
    grid = curves[0][0]
    table = np.array([np.interp(grid, steps, returns) for steps, returns in curves])
    ordered = np.sort(table, axis=0)
    quarter = len(curves) // 4
    middle = ordered[quarter : len(curves) - quarter].mean(axis=0)

    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    for row in table:
        axes.plot(grid, row, color="#4477aa", alpha=0.35, linewidth=0.9)
    axes.plot(grid, middle, color="#224466", linewidth=2.4, label=f"interquartile mean of {len(curves)} seeds")
    axes.axhline(475, color="#aa3377", linestyle="--", linewidth=1, label="reward threshold, 475")
    final = np.mean([result["final_mean"] for result in results])
    axes.plot(grid[-1], final, marker="*", markersize=14, color="#cc6600", linestyle="none", clip_on=False, zorder=5,
              label=f"final policies, 100 greedy episodes each: {final:.1f}")  # fmt: skip
    axes.set(xlabel="environment steps", ylabel="return, mean of 100 episodes", xlim=(0, grid[-1]), ylim=(0, 515))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    figure.savefig(picture, dpi=150)
    print(f"{picture}: final means {[result['final_mean'] for result in results]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
