"""Draw the README's learning curves: the default configuration on CartPole-v1, ten seeds.

for seed in 0 1 2 3 4 5 6 7 8 9; do upright train CartPole-v1 --seed $seed --eval-freq 1000 --out runs/curve; done
python docs/pictures/learning_curve.py runs/curve docs/pictures/learning_curve.png
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
    """Steps and the mean return of ten greedy episodes at each, from metrics.jsonl."""
    lines = (json.loads(line) for line in (seed_folder / "metrics.jsonl").read_text().splitlines())
    points = [(line["step"], line["eval/mean_reward"]) for line in lines if "eval/mean_reward" in line]
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
        axes.plot(grid, row, color="#4477aa", alpha=0.4, linewidth=0.8)
    axes.plot(grid, middle, color="#224466", linewidth=2.4, label=f"interquartile mean of {len(curves)} seeds")
    axes.axhline(475, color="#aa3377", linestyle="--", linewidth=1, label="reward threshold, 475")
    final = [result["final_mean"] for result in results]
    axes.plot([grid[-1]] * len(final), final, "o", color="#cc6600", markersize=6, clip_on=False, zorder=5,
              label=f"final policies, {sum(mean >= 475 for mean in final)} of {len(final)} solved")  # fmt: skip
    axes.set(xlabel="environment steps", ylabel="greedy return", xlim=(0, grid[-1]), ylim=(0, 515))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    figure.savefig(picture, dpi=150)
    print(f"{picture}: final means {[result['final_mean'] for result in results]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
