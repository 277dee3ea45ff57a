"""The picture of `upright compare`: how fast, how often, how well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from upright.comparison.compare import Comparison, Experiment, final_scores, threshold_in
from upright.comparison.curves import OF_THRESHOLD, add_legend, aligned, in_legend, line_of, name_of_returns
from upright.comparison.statistics import bootstrap_interval, interquartile_mean, performance_profile, sample_efficiency
from upright.runs.metrics import WINDOW

POINTS = 200  # of a curve, each with a bootstrap of its own


def draw(comparison: Comparison) -> Any:
    """A figure with a row for each environment.

    Sample efficiency: the interquartile mean over the seeds at each step. Performance profile: the share of final
    policies above each return. Final policies: each one, their interquartile mean. All with 95 % intervals.
    """
    from matplotlib.figure import Figure

    groups = comparison.groups
    most = max(map(len, groups.values()))
    figure = Figure(figsize=(12.8, len(groups) * max(3.6, 1.4 + 0.3 * most)), layout="constrained")
    rows = figure.subplots(len(groups), 3, squeeze=False, width_ratios=(1.4, 1, 1))
    labels = list(dict.fromkeys(each.label for group in groups.values() for each in group))
    for (curves, profiles, finals), (env, group) in zip(rows, groups.items(), strict=True):
        numbers = [labels.index(each.label) for each in group]  # an experiment keeps its line over the environments
        threshold = threshold_in(group)
        _curves(curves, group, numbers, comparison.returns)
        curves.set_title(env, parse_math=False)
        _profiles(profiles, group, numbers)
        _finals(finals, group, numbers)
        if threshold is not None:
            curves.axhline(threshold, **OF_THRESHOLD, label=f"threshold, {threshold:g}")
            profiles.axvline(threshold, **OF_THRESHOLD)
            finals.axvline(threshold, **OF_THRESHOLD)
        add_legend(curves)
        for axes in (curves, profiles, finals):
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def _curves(axes: Any, group: Sequence[Experiment], numbers: Sequence[int], returns: Literal["train", "eval"]) -> None:
    window = WINDOW if returns == "train" else 1
    for each, number in zip(group, numbers, strict=True):
        curves = [seed.curves[returns] for seed in each.seeds.values() if len(seed.curves[returns].steps)]
        if not curves:
            continue
        steps, table = aligned([curve.smoothed(window) for curve in curves], POINTS)
        if not len(steps):  # no step to which all have come
            continue
        band = sample_efficiency(table)
        axes.fill_between(steps, band.low, band.high, color=line_of(number)["color"], alpha=0.2, linewidth=0)
        label = in_legend(f"{each.label}, {len(curves)} seeds")
        axes.plot(steps, band.value, **line_of(number), linewidth=2, label=label, gid=f"curve/{each.label}")
    axes.set(xlabel="environment steps", ylabel=f"interquartile mean of the\n{name_of_returns(returns, window)}")
    axes.set_xlim(left=0)


def _profiles(axes: Any, group: Sequence[Experiment], numbers: Sequence[int]) -> None:
    every = [score for each in group for score in final_scores(each)]
    if every:
        reach = 0.02 * (max(every) - min(every)) or 1.0
        places = np.linspace(min(every) - reach, max(every) + reach, POINTS)
    for each, number in zip(group, numbers, strict=True):
        if each.seeds:
            band = performance_profile(final_scores(each), places)
            colour = line_of(number)["color"]
            axes.fill_between(places, band.low, band.high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(places, band.value, **line_of(number), linewidth=2, gid=f"profile/{each.label}")
    axes.set(xlabel="return τ of the final policy", ylabel="share of seeds above τ", ylim=(-0.02, 1.02))


def _finals(axes: Any, group: Sequence[Experiment], numbers: Sequence[int]) -> None:
    for row, (each, number) in enumerate(zip(group, numbers, strict=True)):
        colour, scores = line_of(number)["color"], final_scores(each)
        if scores:
            axes.plot(scores, np.full(len(scores), row), "o", color=colour, markersize=4, alpha=0.35, linewidth=0)
            low, high = bootstrap_interval(interquartile_mean, scores)
            axes.plot(
                [low, high], [row, row], color=colour, linewidth=6, alpha=0.5, solid_capstyle="butt",
                gid=f"interval/{each.label}",
            )  # fmt: skip
            axes.plot([interquartile_mean(scores)], [row], "|", color=colour, markersize=16, markeredgewidth=2.5)
    axes.set_yticks(range(len(group)), [each.label for each in group])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set(xlabel="return of the final policies", ylim=(len(group) - 0.5, -0.5))
