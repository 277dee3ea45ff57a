"""Learning curves of the benchmark: for each environment a picture, and one of all for the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.contestants import TASKS, Task
from benchmarks.learning.figures import Figures
from upright.comparison.curves import OF_THRESHOLD, aligned, curve_of, line_of, save
from upright.comparison.statistics import sample_efficiency
from upright.views.plot import pyplot

DRAWN = ("upright default", "stable-baselines3 DQN", "sb3-contrib QR-DQN", "sbx DQN", "tianshou DQN")
# Where policies of the first steps return so little that the rest would be a line at the top.
FLOORS = {"CliffWalking-v1": -1_050, "LunarLander-v3": -600}


def draw_all(figures: Sequence[Figures], folder: Path) -> None:
    """Draw a picture for each environment with results, and `all.svg`."""
    pyplot()
    rows = {task: [each for each in figures if each.contestant.task == task] for task in TASKS.values()}
    rows = {task: each for task, each in rows.items() if any(one.contestant.name in DRAWN for one in each)}
    for task, each in rows.items():
        _picture({task: each}, 1, (6.4, 4.0), folder / f"{task.env}.svg")
    if rows:
        _picture(rows, 3, (9.6, 0.8 + 2.4 * -(-len(rows) // 3)), folder / "all.svg")


def _picture(rows: Mapping[Task, Sequence[Figures]], columns: int, size: tuple[float, float], picture: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    places = figure.subplots(-(-len(rows) // columns), columns, squeeze=False).ravel()
    lines: dict[str, Any] = {}
    for axes, (task, each) in zip(places, rows.items(), strict=False):
        _draw(axes, task, each)
        handles, labels = axes.get_legend_handles_labels()
        lines |= dict(zip(labels, handles, strict=True))
    for axes in places[len(rows) :]:
        axes.set_visible(False)
    named = [name for name in (*DRAWN, "threshold") if name in lines]
    figure.supylabel("mean return of greedy episodes", fontsize=10)
    figure.legend([lines[name] for name in named], named, loc="outside lower center", ncols=3, frameon=False)
    save(figure, picture)


def _draw(axes: Any, task: Task, rows: Sequence[Figures]) -> None:
    """The interquartile mean over the seeds of each contestant, with its band, against steps on a logarithmic axis."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    for each in rows:
        name = each.contestant.name
        if name not in DRAWN:
            continue
        line, ours = line_of(DRAWN.index(name)), name == DRAWN[0]
        steps, table = aligned([curve_of([point[:2] for point in result["curve"]]) for result in each.results])
        band = sample_efficiency(table)
        axes.plot(steps, band.value, **line, linewidth=2.2 if ours else 1.3, label=name, zorder=3 if ours else 2)
        axes.fill_between(steps, band.low, band.high, color=line["color"], alpha=0.15, linewidth=0)
    axes.axhline(task.threshold, **OF_THRESHOLD, label="threshold")
    axes.set(xscale="log", xlabel="environment steps")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(task.env, fontsize=10)
    axes.set_ylim(bottom=max(axes.get_ylim()[0], FLOORS.get(task.env, -np.inf)))
    axes.spines[["top", "right"]].set_visible(False)
