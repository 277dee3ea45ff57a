"""Learning curves of the benchmark: for each environment a picture, and one of all for the README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contestants import TASKS, Task
from figures import Figures

from upright.curves import COLOURS, STYLES, Curve, aligned, save
from upright.plot import pyplot
from upright.statistics import sample_efficiency

DRAWN = ("upright default", "stable-baselines3 DQN", "sb3-contrib QR-DQN", "sbx DQN", "tianshou DQN")
COLUMNS = 3


def draw_all(figures: Sequence[Figures], folder: Path) -> None:
    """Draw a picture for each environment with results, and `all.svg`."""
    pyplot()
    from matplotlib.figure import Figure

    by_task = {task: [each for each in figures if each.contestant.task == task] for task in TASKS.values()}
    by_task = {task: rows for task, rows in by_task.items() if any(each.contestant.name in DRAWN for each in rows)}
    for task, rows in by_task.items():
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        _draw(axes, task, rows)
        axes.legend(frameon=False, fontsize=8)
        save(figure, folder / f"{task.env}.svg")
    if not by_task:
        return
    height = -(-len(by_task) // COLUMNS)
    figure = Figure(figsize=(9.6, 2.6 * height + 0.3), layout="constrained")
    places = figure.subplots(height, COLUMNS, squeeze=False).ravel()
    labels: dict[str, Any] = {}
    for axes, (task, rows) in zip(places, by_task.items(), strict=False):
        _draw(axes, task, rows)
        labels |= {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        axes.set_ylabel("")
    for axes in places[len(by_task) :]:
        axes.set_visible(False)
    named = [name for name in (*DRAWN, "threshold") if name in labels]
    figure.legend([labels[name] for name in named], named, loc="outside lower center", ncols=3, frameon=False)
    save(figure, folder / "all.svg")


def _draw(axes: Any, task: Task, rows: Sequence[Figures]) -> None:
    """The interquartile mean over the seeds of each contestant, with its band, against steps on a logarithmic axis."""
    for each in rows:
        name = each.contestant.name
        if name not in DRAWN:
            continue
        place = DRAWN.index(name)
        curves = [np.array(result["curve"]) for result in each.results]
        steps, table = aligned([Curve(points[:, 0], points[:, 1]) for points in curves])
        band = sample_efficiency(table)
        colour, ours = COLOURS[place], name == DRAWN[0]
        axes.plot(
            steps, band.value, color=colour, linestyle=STYLES[place % len(STYLES)], linewidth=2.2 if ours else 1.3,
            label=name, zorder=3 if ours else 2,
        )  # fmt: skip
        axes.fill_between(steps, band.low, band.high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(task.threshold, color="#555555", linestyle=(0, (1, 2)), linewidth=1, label="threshold")
    axes.set(xscale="log", xlabel="environment steps", ylabel="mean return of greedy episodes", title=task.env)
    axes.spines[["top", "right"]].set_visible(False)
