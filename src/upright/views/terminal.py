"""Progress in a terminal while something trains: one live panel; plain lines where a panel could not be seen."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from upright.evaluation import EvaluationProgress
from upright.messages import told
from upright.runs.metrics import Progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

# The metrics that are shown: word, tag, form.
SHOWN = (
    ("return", "rollout/ep_rew_mean", "{:.1f}"),
    ("length", "rollout/ep_len_mean", "{:.0f}"),
    ("success", "rollout/success_rate", "{:.0%}"),
    ("ε", "rollout/exploration_rate", "{:.2f}"),
    ("loss", "train/loss", "{:.3g}"),
    ("", "time/fps", "{:,.0f} steps/s"),
)
LEVELS = "▁▂▃▄▅▆▇█"


def console_on(file: Any) -> Console:
    """Return the console to print on. Output piped into a file or a program is not cut to the width of a terminal."""
    from rich.console import Console

    return Console(file=file) if file.isatty() else Console(file=file, width=240)


def print_plainly(console: Console, text: str) -> None:
    """Print a text as it is: no colour for what looks like a number, no markup, no line cut."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


@contextlib.contextmanager
def printed(console: Any, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Print what is logged within the block, and what is passed to the function that this yields."""

    def say(text: str) -> None:
        if not quiet:
            print_plainly(console, text)

    with told(say, logging.INFO):
        yield say


class Display:
    """A live panel in a terminal, drawn four times a second at most; elsewhere a plain line every ten seconds at most.

    It is drawn in the thread that shows something, which it keeps from its work for next to no time.
    """

    SECONDS_BETWEEN_LINES = 10.0
    SECONDS_BETWEEN_PANELS = 0.25

    def __init__(self, console: Console, transient: bool = False) -> None:
        """`transient`: let the panel disappear at the end."""
        self._console = console
        self._last = -np.inf if console.is_terminal else time.monotonic()
        if console.is_terminal:
            from rich.live import Live

            self._live = Live(console=console, auto_refresh=False, transient=transient)
            self._live.start()

    def show(self, panel: Callable[[], RenderableType], line: Callable[[], str], at_once: bool = False) -> None:
        """Draw the panel or print the line, if the last one was shown for long enough, or at once."""
        now = time.monotonic()
        pause = self.SECONDS_BETWEEN_PANELS if self._console.is_terminal else self.SECONDS_BETWEEN_LINES
        if now - self._last < pause and not at_once:
            return
        self._last = now
        if self._console.is_terminal:
            self._live.update(panel(), refresh=True)
        else:
            print_plainly(self._console, line())

    def close(self, panel: Callable[[], RenderableType] | None = None) -> None:
        """Leave the panel in the terminal as it is, or as it is given."""
        if self._console.is_terminal:
            if panel is not None:
                self._live.update(panel(), refresh=True)
            self._live.stop()


class Terminal:
    """The display of one run while it trains and at its end: a sink that draws on a `Display`."""

    def __init__(self, console: Console, total: int, description: str, engine: str = "", first: int = 0) -> None:
        """Begin at step `first` of `total`; engine: what computes, and why, as a text."""
        self._console, self._total = console, total
        self._description, self._engine = description, engine
        self._first, self._began = first, time.monotonic()
        self._display = Display(console)
        self._returns: list[float] = []
        self._latest: Progress | None = None

    def write(self, progress: Progress) -> None:
        """Take one report, and show it if the last one was shown for long enough, or if it is the last."""
        if "rollout/ep_rew_mean" in progress.metrics:
            self._returns.append(progress.metrics["rollout/ep_rew_mean"])
        self._latest = progress
        ended = progress.step >= self._total
        self._display.show(lambda: self._panel(progress), lambda: self._line(progress), at_once=ended)

    def close(self) -> None:
        """Leave the last report in the terminal."""
        latest = self._latest
        self._display.close(None if latest is None else lambda: self._panel(latest))

    def _line(self, progress: Progress) -> str:
        values = "  ".join(f"{word} {text}".strip() for word, text in _shown(progress.metrics))
        return f"step {progress.step:,}/{self._total:,}  {values}"

    def _panel(self, progress: Progress) -> RenderableType:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = min(self._console.width, 100)
        elapsed = time.monotonic() - self._began
        left = elapsed / max(1, progress.step - self._first) * (self._total - progress.step)
        where = Table.grid(padding=(0, 2), expand=True)
        where.add_column(ratio=1)
        where.add_column(justify="right", no_wrap=True)
        where.add_row(
            ProgressBar(total=self._total, completed=progress.step),
            Text(
                f"{progress.step:,}/{self._total:,} · {progress.step / self._total:.0%} · "
                + (f"{_duration(left)} left" if progress.step < self._total else f"{_duration(elapsed)}")
            ),
        )
        values = dict(_shown(progress.metrics))
        lines: list[RenderableType] = [where]
        if "return" in values:
            first = Text(f"return {values.pop('return')}  ", style="bold")
            if not self._console.options.ascii_only:
                first.append(sparkline(self._returns, max(8, min(40, width - len(first) - 8))), style="cyan")
            lines.append(first)
        lines.append(_joined([f"{word} {text}".strip() for word, text in values.items()]))
        if self._engine:
            lines.append(Text(self._engine, style="dim"))
        body = Table.grid(expand=True)
        for line in lines:
            body.add_row(line)
        return Panel(body, title=Text(self._description), title_align="left", width=width)


class EvaluationTerminal:
    """The display of a final policy's evaluation while it lasts: one line, which its result replaces in a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._display: Display | None = None  # until the evaluation begins

    def write(self, progress: EvaluationProgress) -> None:
        """Take how far it is, and show it if that was last done long enough ago."""
        from rich.text import Text

        self._display = self._display or Display(self._console, transient=True)
        self._display.show(lambda: Text(self._line(progress)), lambda: self._line(progress))

    def close(self) -> None:
        """Take the line from the terminal."""
        if self._display is not None:
            self._display.close()

    def _line(self, progress: EvaluationProgress) -> str:
        line = f"evaluating the final policy: {progress.ended:,} of {progress.total:,} episodes"
        return line if progress.mean is None else f"{line}, mean return {progress.mean:.2f}"


def sparkline(values: list[float], width: int) -> str:
    """The course of some values in at most `width` characters, each the mean of its share of them."""
    if not values:
        return ""
    shares = np.array_split(np.asarray(values, np.float64), min(width, len(values)))
    means = np.array([share.mean() for share in shares])
    low, high = means.min(), means.max()
    heights = np.zeros(len(means), int) if high == low else np.rint((means - low) / (high - low) * (len(LEVELS) - 1))
    return "".join(LEVELS[int(height)] for height in heights)


def _shown(metrics: dict[str, float]) -> list[tuple[str, str]]:
    return [(word, form.format(metrics[tag])) for word, tag, form in SHOWN if tag in metrics]


def _joined(parts: list[str]) -> Text:
    from rich.text import Text

    return Text("  ".join(parts))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
