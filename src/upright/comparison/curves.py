"""Learning curves of finished or running experiments, for a paper: `upright plot`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from upright import files
from upright.comparison.statistics import interquartile_mean
from upright.errors import RunError, SettingError
from upright.files import is_number
from upright.runs import records
from upright.runs.folders import SEED, ExperimentFolder, RunFolder
from upright.runs.metrics import WINDOW
from upright.views.plot import pyplot

Returns = Literal["auto", "train", "eval"]

SUFFIXES = (".png", ".svg", ".pdf")
LONGEST_NAME = 100  # characters of an environment's name, in a title
LARGEST_GRID = 1_000  # points of an interquartile mean
# Tol's bright colours, which differ for colour-blind eyes too, each with a style of its own.
COLOURS = ("#4477aa", "#cc6600", "#228833", "#aa3377", "#332288", "#66ccee", "#bbbbbb")
STYLES = ("-", "--", "-.", ":")
OF_THRESHOLD: dict[str, Any] = {"color": "#555555", "linestyle": (0, (1, 2)), "linewidth": 1}


@dataclass(frozen=True)
class Curve:
    """The learning curve of one run: returns at steps, both `[N]`."""

    steps: np.ndarray
    returns: np.ndarray

    def smoothed(self, window: int) -> Curve:
        """Each return as the mean of the last `window` ones, or of as many as there are yet."""
        if window == 1 or not len(self.returns):
            return self
        sums = np.concatenate([[0.0], np.cumsum(self.returns)])
        ends = np.arange(1, len(sums))
        begins = np.maximum(ends - window, 0)
        return Curve(self.steps, (sums[ends] - sums[begins]) / (ends - begins))


@dataclass(frozen=True)
class ExperimentCurves:
    """Runs with the same environment and settings, and other seeds.

    curves: by the name of the run's folder · threshold: the return at which the environment counts as solved, or None
    """

    folder: Path
    env: str
    curves: dict[str, Curve]
    threshold: float | None

    @property
    def label(self) -> str:
        """The name of its folder."""
        return self.folder.name


def read_curve(run: RunFolder, returns: Literal["train", "eval"]) -> Curve:
    """Return the episodes' returns, or the evaluations' mean returns, as far as a run's metrics are written."""
    tag = records.RETURN if returns == "train" else "eval/mean_reward"
    lines = records.read(run.metrics, (tag,))
    return curve_of([(line[records.STEP], line[tag]) for line in lines if tag in line])


def curve_of(points: Sequence[tuple[float, float]]) -> Curve:
    """The curve through points of a step and a return each."""
    table = np.array(points, np.float64).reshape(-1, 2)
    return Curve(table[:, 0], table[:, 1])


def read_experiments(
    folders: Iterable[Path], returns: Returns
) -> tuple[list[ExperimentCurves], Literal["train", "eval"]]:
    """The experiments that these folders, of runs or of experiments, belong to, and which returns they show.

    With "auto" these are the evaluations', where all runs have some, else the episodes'. Raises RunError for a folder
    that is neither.
    """
    groups: dict[ExperimentFolder, dict[str, RunFolder]] = {}
    for folder in folders:
        for run in _runs(folder):
            groups.setdefault(ExperimentFolder(run.experiment.path.resolve()), {})[run.path.name] = run
    runs = [run for group in groups.values() for run in group.values()]
    chosen: Literal["train", "eval"]
    if returns == "auto":
        chosen = "eval" if all(len(read_curve(run, "eval").steps) for run in runs) else "train"
    else:
        chosen = returns
    experiments = []
    for experiment, group in groups.items():
        curves = {name: read_curve(run, chosen) for name, run in sorted(group.items())}
        for name, curve in curves.items():
            if not len(curve.steps):
                what = "episode that has ended" if chosen == "train" else "evaluation (train it with --eval-freq)"
                raise RunError(f"{group[name].path} holds no {what}, so there is no curve to draw.")
        threshold = threshold_of(experiment, group.values())
        experiments.append(ExperimentCurves(experiment.path, environment_of(experiment), curves, threshold))
    return experiments, chosen


def _runs(folder: Path) -> list[RunFolder]:
    run = RunFolder(folder)
    if run.metrics.is_file():
        return [run]
    runs = ExperimentFolder(folder).runs()
    if not runs:
        metrics = run.metrics.name
        raise RunError(
            f"There is no run in {folder}: neither {metrics} nor {SEED}*/{metrics}; give the folder of a run or of an "
            "experiment, such as runs/CartPole-v1/default."
        )
    return runs


def environment_of(experiment: ExperimentFolder) -> str:
    """Return the name of an experiment's environment; the folder's above, if config.json has none to be printed."""
    try:
        name = str(files.read_json(experiment.config)["name"])
    except (RunError, KeyError):
        name = ""
    return name if name.isprintable() and 0 < len(name) <= LONGEST_NAME else experiment.path.parent.name


def threshold_of(experiment: ExperimentFolder, runs: Iterable[RunFolder]) -> float | None:
    """Return the return at which the environment counts as solved: what a result says, else Gymnasium's registry.

    Nothing is imported for it.
    """
    for run in runs:
        try:
            threshold = files.read_json(run.result).get("threshold")
        except RunError:
            continue
        if is_number(threshold):
            return float(threshold)
    import gymnasium

    spec = gymnasium.registry.get(environment_of(experiment))
    return None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)


def aligned(curves: Sequence[Curve], most: int = LARGEST_GRID) -> tuple[np.ndarray, np.ndarray]:
    """The steps `[K]` that all of the runs have come to, `most` at most, and their returns there, `[runs, K]`.

    Between a run's own points its return lies on the line through them.
    """
    first = max(curve.steps[0] for curve in curves)
    last = min(curve.steps[-1] for curve in curves)
    grid = np.unique(np.concatenate([curve.steps for curve in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    if len(grid) > most:
        grid = np.linspace(first, last, most)
    table = np.array([np.interp(grid, curve.steps, curve.returns) for curve in curves])
    return grid, table


def draw(experiments: Sequence[ExperimentCurves], returns: Literal["train", "eval"], smooth: int | None = None) -> Any:
    """A figure with a thin line for each run, the interquartile mean of each experiment, and the threshold.

    smooth: the episodes or evaluations that each point is the mean of; None for 100 episodes, or one evaluation
    """
    window = (WINDOW if returns == "train" else 1) if smooth is None else smooth
    if window < 1:
        raise SettingError(f"smooth is {window}, but it has to be 1 or more.")
    pyplot()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    environments = dict.fromkeys(each.env for each in experiments)
    for i, experiment in enumerate(experiments):
        line = line_of(i)
        curves = {name: curve.smoothed(window) for name, curve in experiment.curves.items()}
        label = in_legend(experiment.label if len(environments) == 1 else f"{experiment.env}, {experiment.label}")
        count = len(curves)
        for name, curve in curves.items():
            alone = {"label": f"{label}, {name}", "linewidth": 1.6, "linestyle": line["linestyle"]}
            axes.plot(
                curve.steps, curve.returns, color=line["color"], gid=f"{label}/{name}",
                **(alone if count == 1 else {"linewidth": 0.7, "alpha": 0.45}),
            )  # fmt: skip
        if count > 1:
            steps, table = aligned(list(curves.values()))
            axes.plot(
                steps, interquartile_mean(table, axis=0), **line, linewidth=2.2, gid=label,
                label=f"{label}, interquartile mean of {count} seeds",
            )  # fmt: skip
    for threshold in sorted({each.threshold for each in experiments if each.threshold is not None}):
        axes.axhline(threshold, **OF_THRESHOLD, label=f"threshold, {threshold:g}")
    axes.set(xlabel="environment steps", ylabel=name_of_returns(returns, window))
    axes.set_title(next(iter(environments)) if len(environments) == 1 else "", parse_math=False)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    add_legend(axes)
    return figure


def line_of(experiment: int) -> dict[str, Any]:
    """The colour and the style of the line of the experiment with that number in a picture."""
    return {"color": COLOURS[experiment % len(COLOURS)], "linestyle": STYLES[experiment % len(STYLES)]}


def in_legend(label: str) -> str:
    """A label as a legend takes it."""
    return f" {label}" if label.startswith("_") else label  # matplotlib leaves such out


def add_legend(axes: Any) -> None:
    """A legend, if anything has a label, in which a dollar is a dollar."""
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(frameon=False, fontsize=8).get_texts():
            text.set_parse_math(False)


def name_of_returns(returns: Literal["train", "eval"], window: int) -> str:
    """Return the label of a curve whose points are each the mean of that many returns."""
    what = "return of an episode" if returns == "train" else "mean return of greedy episodes"
    unit = "episodes" if returns == "train" else "evaluations"
    return what if window == 1 else f"{what},\nmean of {window} {unit}"


def check_picture(picture: Path) -> None:
    """Refuse what `save` could not write, and where matplotlib is missing."""
    if picture.suffix not in SUFFIXES:
        raise SettingError(f"{picture} must end in {', '.join(SUFFIXES)}.")
    if picture.is_dir():
        raise RunError(f"{picture} is a folder; name a file in it.")
    pyplot()


def save(figure: Any, picture: Path) -> None:
    """Write a figure as its suffix says, whole or not at all; the same curves give the same bytes."""
    import matplotlib

    content = io.BytesIO()
    metadata = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[picture.suffix]
    with matplotlib.rc_context({"svg.hashsalt": "upright", "pdf.fonttype": 42}):
        figure.savefig(content, format=picture.suffix[1:], dpi=200, metadata=metadata)
    files.write(picture, content.getvalue())


def plot_curves(
    folders: Sequence[Path], picture: Path, returns: Returns = "auto", smooth: int | None = None
) -> list[ExperimentCurves]:
    """Draw the curves of runs or experiments into a file, and return what was drawn."""
    check_picture(picture)
    experiments, chosen = read_experiments(folders, returns)
    if not experiments:
        raise SettingError("There is nothing to plot: give the folder of a run, such as runs/CartPole-v1/default.")
    save(draw(experiments, chosen, smooth), picture)
    return experiments
