"""The tables of `upright compare`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from upright.errors import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMN = 24  # characters of an experiment's column


def tables(comparison: Mapping[str, Any], width: int) -> Iterator[RenderableType]:
    """What `Comparison.to_dict` says as tables of at most that width, and sentences."""
    for group in comparison["environments"]:
        rows = {each["experiment"]: _rows(each) for each in group["experiments"]}
        threshold = "" if group["threshold"] is None else f", solved at {_number(group['threshold'])}"
        yield from _side_by_side(f"{group['env']}{threshold}", rows, width)
        differences = {
            label: {name: values.get(label, "") for name, values in group["differences"].items()} for label in rows
        }
        if group["differences"]:
            yield from _side_by_side("what differs in the settings", differences, width)
        for each in group["experiments"]:
            for name, why in each["left_out"].items():
                yield one_line(f"Left out: {each['experiment']}, {name}: {why}")
    together = comparison["together"]
    if together is not None and not together["experiments"]:
        yield "Not together: fewer than two environments have finished seeds of every experiment, by its name."
    elif together is not None:
        rows = {each["experiment"]: _rows(each) for each in together["experiments"]}
        yield from _side_by_side(f"together: {', '.join(together['environments'])}", rows, width)
        yield (
            "The interquartile mean is of 1 + (return − threshold) / |threshold|."
            if any("interquartile_mean" in each for each in together["experiments"])
            else "Not every environment has a threshold other than 0, so their returns cannot be put into one unit."
        )
    if any(each.get("to_solve") for group in comparison["environments"] for each in group["experiments"]):
        yield (
            "First solve: the first evaluation whose mean return reaches the threshold"
            if comparison["returns"] == "eval"
            else "Not every seed was evaluated while training (--eval-freq), so first solve is when the mean return of "
            "the last 100 episodes, explored actions included, reaches the threshold"
        ) + "; the median over the seeds, or — where half of them never came there."


def _rows(about: Mapping[str, Any]) -> dict[str, str]:
    """What a table says of an experiment, by the row's name."""
    rows = {"seeds": str(about["seeds"] if isinstance(about["seeds"], int) else len(about["seeds"]))}
    if "solved" in about:
        low, high = about["solved"]["interval"]
        rows["solved"] = f"{about['solved']['seeds']} [{low:.0%}, {high:.0%}]"
    for name in ("interquartile_mean", "mean", "median", "worst"):
        if name in about:
            rows[name.replace("_", " ")] = _interval(about[name])
    if about.get("to_solve") and rows["seeds"] != "0":
        to_solve = about["to_solve"]
        rows["ever solved"] = str(to_solve["seeds"])
        rows["steps to first solve"] = "—" if to_solve["steps"] is None else f"{to_solve['steps']:,.0f}"
        rows["seconds to first solve"] = "—" if to_solve["seconds"] is None else f"{to_solve['seconds']:,.1f}"
    if "seconds" in about:
        rows["seconds"] = f"{about['seconds']['mean']:,.1f}"
    if about.get("improvement"):
        rows["P(better than first)"] = _interval(about["improvement"])
    return rows


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


def _interval(estimate: Mapping[str, Any]) -> str:
    low, high = estimate["interval"]
    return f"{_number(estimate['value'])} [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _value(value: Any) -> str:
    return one_line(json.dumps(value, ensure_ascii=False))
