"""The display of an experiment or a sweep while its seeds train, and the table of their results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from upright.comparison.statistics import Estimate
from upright.comparison.summary import Summary
from upright.experiments.seeds import Event, Failed, Finished, Reported, Task, Warned
from upright.views.terminal import Display, print_plainly

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

ROWS = 12  # seeds that have a row each; where there are more, each has a cell
CELL = 26  # characters


class SeedsTerminal:
    """All seeds in one live panel of a terminal; elsewhere a line for each that ends, and one every ten seconds."""

    def __init__(self, console: Console, tasks: Sequence[Task]) -> None:
        self._console, self._title = console, tasks[0].env
        self._latest: dict[str, Event | None] = {task.folder: None for task in tasks}
        self._names = _names(tasks)
        self._totals = {task.folder: int(task.config["total_timesteps"]) for task in tasks}
        self._said: set[str] = set()
        self._began = time.monotonic()
        self._display = Display(console)

    def take(self, event: Event) -> None:
        """Take what happened, and show it."""
        name = self._names[event.task.folder]
        if isinstance(event, Warned):
            if event.text not in self._said:  # most warnings are every seed's
                self._said.add(event.text)
                self._print(f"{name}: {event.text}")
            return
        self._latest[event.task.folder] = event
        if isinstance(event, Failed):
            self._print(f"{name} failed: {event.reason}")
        if isinstance(event, Finished) and not self._console.is_terminal:
            self._print(f"{name}: {_final(event)}")
        else:
            has_ended = not isinstance(event, Reported)
            self._display.show(self._panel, self._where, at_once=has_ended and self._console.is_terminal)

    def close(self) -> None:
        """Leave the last panel in the terminal."""
        self._display.close(self._panel)

    def _print(self, text: str) -> None:
        print_plainly(self._console, text)

    def _where(self) -> str:
        """Return the progress of the seeds in one line."""
        training = [event for event in self._latest.values() if isinstance(event, Reported)]
        ended = sum(isinstance(event, Finished | Failed) for event in self._latest.values())
        parts = [f"{self._names[each.task.folder]} at step {each.step:,}" for each in training]
        return ", ".join([f"{ended} of {len(self._latest)} seeds have ended", *parts])

    def _panel(self) -> RenderableType:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = min(self._console.width, 100)
        if len(self._latest) <= ROWS:
            body = Table.grid(padding=(0, 2), expand=True)
            body.add_column(no_wrap=True)
            body.add_column(ratio=1)
            body.add_column(justify="right", no_wrap=True)
            for folder, event in self._latest.items():
                total = self._totals[folder]
                bar = ProgressBar(total=total, completed=self._step(folder))
                body.add_row(self._names[folder], bar, _state(event, total))
        else:
            longest = max(map(len, self._names.values()))
            columns = max(1, (width - 4) // (longest + CELL))
            body = Table.grid(padding=(0, 2))
            cells = [
                Text(f"{self._names[folder]:<{longest}} ").append_text(_state(event, self._totals[folder]))
                for folder, event in self._latest.items()
            ]
            for first in range(0, len(cells), columns):
                body.add_row(*cells[first : first + columns])
        done = sum(map(self._step, self._totals)) / max(1, sum(self._totals.values()))
        seconds = round(time.monotonic() - self._began)
        return Panel(
            body, title=Text(self._title), title_align="left", width=width, subtitle=f"{done:.0%} · {seconds} s",
            subtitle_align="right",
        )  # fmt: skip

    def _step(self, folder: str) -> int:
        event = self._latest[folder]
        if isinstance(event, Reported):
            return event.step
        return self._totals[folder] if isinstance(event, Finished) else 0


def _names(tasks: Sequence[Task]) -> dict[str, str]:
    """Return the label of each seed: its number, and by its experiment's folder where there are several."""
    experiments = {Path(task.folder).parent for task in tasks}
    return {
        task.folder: (f"{Path(task.folder).parent.name} " if len(experiments) > 1 else "") + f"seed {task.seed}"
        for task in tasks
    }


def _state(event: Event | None, total: int) -> Text:
    from rich.text import Text

    match event:
        case Reported(step=step, metrics=metrics):
            mean = metrics.get("rollout/ep_rew_mean")
            where = f"{step / total:4.0%}" if step < total else "evaluating"
            return Text(where + ("" if mean is None else f"  return {mean:.1f}"))
        case Finished():
            return Text(_final(event), style="bold" if event.result.get("solved") else "")
        case Failed():
            return Text("failed", style="red")
    return Text("waits", style="dim")


def _final(event: Finished) -> str:
    if event.result.get("final_mean") is None:
        return "trained, not evaluated"
    solved = {True: ", solved", False: ", not solved"}.get(event.result["solved"], "")
    return f"{event.result['final_mean']:.2f}{solved}"


def table(summary: Summary) -> RenderableType:
    """Return the table of an experiment's final policies, with the interval of each figure."""
    from rich import box
    from rich.table import Table

    shown = Table(
        f"final policies of {len(summary.seeds)} seeds", "return", f"{summary.confidence:.0%} interval",
        box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for words, estimate in summary.statistics.items():
        shown.add_row(words, f"{estimate.value:.2f}", _interval(estimate))
    if summary.solved is not None:
        solved = summary.solved
        share = f"{solved.seeds} of {len(summary.seeds)} seeds, {solved.share:.0%}"
        shown.add_row(f"solved (threshold {summary.threshold:g})", share, f"{solved.low:.0%} to {solved.high:.0%}")
    shown.add_row("seconds", f"{summary.seconds.mean:.1f} a seed, {summary.seconds.total:.1f} in all", "")
    return shown


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.2f} to {estimate.high:.2f}"


def sweep_table(points: Mapping[str, Summary]) -> RenderableType:
    """The table of a sweep's points, by their names, in the order in which they are given."""
    from rich import box
    from rich.table import Table

    interval = f"{next(iter(points.values())).confidence:.0%} interval"
    shown = Table("point", "seeds", "interquartile mean", interval, "worst", "solved", "seconds", box=box.SIMPLE_HEAD)
    for name, summary in points.items():
        shown.add_row(
            name.replace(",", "  "),
            f"{len(summary.seeds):,}",
            f"{summary.interquartile_mean.value:.2f}",
            _interval(summary.interquartile_mean),
            f"{summary.worst.value:.2f}",
            "" if summary.solved is None else f"{summary.solved.seeds:,}",
            f"{summary.seconds.total:.1f}",
        )
    return shown
