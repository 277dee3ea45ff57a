"""The tables of `upright compare`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from upright.comparison.report import Combined, Compared, Report
from upright.comparison.statistics import Estimate
from upright.comparison.summary import Solved
from upright.errors import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMN = 24  # characters of an experiment's column


def tables(report: Report, width: int) -> Iterator[RenderableType]:
    """Yield what a report says as tables of at most that width, and as sentences."""
    for group in report.environments:
        rows = {compared.experiment.label: _rows(compared) for compared in group.experiments}
        threshold = "" if group.threshold is None else f", solved at {_number(group.threshold)}"
        yield from _side_by_side(f"{group.env}{threshold}", rows, width)
        differences = {
            label: {name: values.get(label, "") for name, values in group.differences.items()} for label in rows
        }
        if group.differences:
            yield from _side_by_side("what differs in the settings", differences, width)
        for compared in group.experiments:
            for name, why in compared.experiment.left_out.items():
                yield one_line(f"Left out: {compared.experiment.label}, {name}: {why}")
    together = report.together
    if together is not None and not together.experiments:
        yield "Not together: fewer than two environments have finished seeds of every experiment, by its name."
    elif together is not None:
        rows = {combined.label: _combined_rows(combined) for combined in together.experiments}
        yield from _side_by_side(f"together: {', '.join(together.environments)}", rows, width)
        yield (
            "The interquartile mean is of 1 + (return − threshold) / |threshold|."
            if any(combined.interquartile_mean for combined in together.experiments)
            else "Not every environment has a threshold other than 0, so their returns cannot be put into one unit."
        )
    if any(compared.to_solve for group in report.environments for compared in group.experiments):
        yield (
            "First solve: the first evaluation whose mean return reaches the threshold"
            if report.returns == "eval"
            else "Not every seed was evaluated while training (--eval-freq), so first solve is when the mean return of "
            "the last 100 episodes, explored actions included, reaches the threshold"
        ) + "; the median over the seeds, or — where half of them never came there."


def _rows(compared: Compared) -> dict[str, str]:
    """Return an experiment's cells, by the row's name."""
    summary, to_solve = compared.summary, compared.to_solve
    if summary is None:
        return {"seeds": "0"}
    rows = {"seeds": str(len(summary.seeds)), **_solved(summary.solved)}
    rows |= {words: _interval(estimate) for words, estimate in summary.statistics.items()}
    if to_solve is not None:
        rows["ever solved"] = str(to_solve.seeds)
        rows["steps to first solve"] = "—" if to_solve.steps is None else f"{to_solve.steps:,.0f}"
        rows["seconds to first solve"] = "—" if to_solve.seconds is None else f"{to_solve.seconds:,.1f}"
    return {**rows, "seconds": f"{summary.seconds.mean:,.1f}", **_improvement(compared.improvement)}


def _combined_rows(combined: Combined) -> dict[str, str]:
    """Return the cells of the experiments with one name, by the row's name."""
    rows = {"seeds": str(combined.seeds), **_solved(combined.solved)}
    if combined.interquartile_mean is not None:
        rows["interquartile mean"] = _interval(combined.interquartile_mean)
    return {**rows, **_improvement(combined.improvement)}


def _solved(solved: Solved | None) -> dict[str, str]:
    return {} if solved is None else {"solved": f"{solved.seeds} [{solved.low:.0%}, {solved.high:.0%}]"}


def _improvement(improvement: Estimate | None) -> dict[str, str]:
    return {} if improvement is None else {"P(better than first)": _interval(improvement)}


def _side_by_side(title: str, columns: Mapping[str, Mapping[str, Any]], width: int) -> Iterator[RenderableType]:
    """A column for each experiment, in as many tables as the width asks for."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
    labels = list(columns)
    fit = max(1, (width - COLUMN - 2) // (COLUMN + 2))
    for first in range(0, len(labels), fit):
        table = Table(box=box.SIMPLE_HEAD, title=Text(one_line(title)), title_justify="left", title_style="bold")
        table.add_column("")
        for label in labels[first : first + fit]:
            table.add_column(Text(label), overflow="fold")
        for name in names:
            cells = [columns[label].get(name, "") for label in labels[first : first + fit]]
            table.add_row(name, *(Text(each if isinstance(each, str) else _value(each)) for each in cells))
        yield table


def _interval(estimate: Estimate) -> str:
    return f"{_number(estimate.value)} [{_number(estimate.low)}, {_number(estimate.high)}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _value(value: Any) -> str:
    return one_line(json.dumps(value, ensure_ascii=False))
