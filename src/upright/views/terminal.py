"""What a run shows in a terminal while it trains: one live panel; plain lines where nobody could see a panel."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from upright.messages import told
from upright.runs.metrics import Progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

# What a line says: word, tag, form.
SAID = (
    ("return", "rollout/ep_rew_mean", "{:.1f}"),
    ("length", "rollout/ep_len_mean", "{:.0f}"),
    ("ε", "rollout/exploration_rate", "{:.2f}"),
    ("loss", "train/loss", "{:.3g}"),
    ("", "time/fps", "{:,.0f} steps/s"),
)
LEVELS = "▁▂▃▄▅▆▇█"


def console_on(file: Any) -> Console:
    """Where to print. What is piped into a file or another program is not cut to the width of a terminal."""
    from rich.console import Console

    return Console(file=file) if file.isatty() else Console(file=file, width=240)


def print_plainly(console: Console, text: str) -> None:
    """Print a text as it is: no colour for what looks like a number, no markup, no line cut."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


@contextlib.contextmanager
def printed(console: Any, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Print what is logged meanwhile, and what is said through the function that this yields."""

    def say(text: str) -> None:
        if not quiet:
            print_plainly(console, text)

    with told(say, logging.INFO):
        yield say


class Terminal:
    """A live panel in a terminal; elsewhere a plain line every ten seconds, and one at the end.

    The panel is drawn in the thread that trains, at most four times a second, so that it takes next to nothing of it.
    """

    SECONDS_BETWEEN_LINES = 10.0
    SECONDS_BETWEEN_PANELS = 0.25

    def __init__(self, console: Console, total: int, description: str, engine: str = "", first: int = 0) -> None:
        """Begin at step `first` of `total`; engine: what computes, and why, as a text."""
        self._console, self._total = console, total
        self._description, self._engine = description, engine
        self._first, self._began = first, time.monotonic()
        self._last = -np.inf if console.is_terminal else self._began
        self._returns: list[float] = []
        self._shown: Progress | None = None
        if console.is_terminal:
            from rich.live import Live

            self._live = Live(console=console, auto_refresh=False)
            self._live.start()

    def write(self, progress: Progress) -> None:
        """Take one report, and show it if the last one was shown long enough."""
        if "rollout/ep_rew_mean" in progress.metrics:
            self._returns.append(progress.metrics["rollout/ep_rew_mean"])
        now, ended = time.monotonic(), progress.step >= self._total
        if self._console.is_terminal:
            self._shown = progress
            if now - self._last >= self.SECONDS_BETWEEN_PANELS or ended:
                self._last = now
                self._live.update(self._panel(progress), refresh=True)
        elif now - self._last >= self.SECONDS_BETWEEN_LINES or ended:
            self._last = now
            said = "  ".join(f"{word} {text}".strip() for word, text in _said(progress.metrics))
            self._console.print(f"step {progress.step:,}/{self._total:,}  {said}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last report standing."""
        if self._console.is_terminal:
            if self._shown is not None:
                self._live.update(self._panel(self._shown), refresh=True)
            self._live.stop()

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
        said = dict(_said(progress.metrics))
        lines: list[RenderableType] = [where]
        if "return" in said:
            first = Text(f"return {said.pop('return')}  ", style="bold")
            if not self._console.options.ascii_only:
                first.append(sparkline(self._returns, max(8, min(40, width - len(first) - 8))), style="cyan")
            lines.append(first)
        lines.append(_joined([f"{word} {text}".strip() for word, text in said.items()]))
        if self._engine:
            lines.append(Text(self._engine, style="dim"))
        body = Table.grid(expand=True)
        for line in lines:
            body.add_row(line)
        return Panel(body, title=Text(self._description), title_align="left", width=width)


def sparkline(values: list[float], width: int) -> str:
    """The course of some values in at most `width` characters, each the mean of its share of them."""
    if not values:
        return ""
    shares = np.array_split(np.asarray(values, np.float64), min(width, len(values)))
    means = np.array([share.mean() for share in shares])
    low, high = means.min(), means.max()
    heights = np.zeros(len(means), int) if high == low else np.rint((means - low) / (high - low) * (len(LEVELS) - 1))
    return "".join(LEVELS[int(height)] for height in heights)


def _said(metrics: dict[str, float]) -> list[tuple[str, str]]:
    return [(word, form.format(metrics[tag])) for word, tag, form in SAID if tag in metrics]


def _joined(parts: list[str]) -> Text:
    from rich.text import Text

    return Text("  ".join(parts))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
