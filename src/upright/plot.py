"""Pictures of learning: the tutorial's plot while an agent learns, and curves of finished runs.

    from upright.plot import live

    for progress in live(train(run)):
        ...

matplotlib is only needed here: pip install 'upright[plot]'.
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from upright.errors import MissingExtra
from upright.metrics import WINDOW, Progress
from upright.sources import logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

SECONDS_BETWEEN_DRAWINGS = 0.25
SHARE_OF_TIME = 0.02  # that drawing may take; what it slows down besides, such as the caches, comes on top
DOTS_PER_INCH = 100
# Tol's colours, which differ for colour-blind eyes too. The lines differ in width and style as well.
FAINT, STRONG, OTHER = "#88aacc", "#224466", "#aa3377"


def live(progresses: Iterable[Progress], title: str = "") -> Iterator[Progress]:
    """Yield what `train` yields, and draw it meanwhile: each episode's return, their mean over the last 100, and ε.

    Inline in Jupyter, in a window elsewhere, which stays open until the program ends; `plt.show()` keeps it longer.
    It draws at most four times a second, and more rarely where drawing would take more than a fiftieth of the time.
    Raises MissingExtra, before anything is trained, where matplotlib is not installed.
    """
    figure = _new_figure()
    surface: Surface | None
    if _has_window(figure):
        surface = Window(figure)
    elif _in_notebook():
        surface = Inline(figure)
    else:
        surface = None
        logger.warning(
            "There is neither a notebook nor a display for the plot, so nothing is drawn; of a run with a folder, "
            "`upright plot RUN -o curve.png` draws the curve afterwards."
        )
    plot = None if surface is None else LivePlot(figure, surface, title, time.perf_counter)
    return _drawn(progresses, plot)


def _drawn(progresses: Iterable[Progress], plot: LivePlot | None) -> Iterator[Progress]:
    try:
        for progress in progresses:
            if plot is not None:
                plot.take(progress)
            yield progress
    finally:
        if plot is not None:
            plot.close()


class LivePlot:
    """The plot of one training: takes its reports, and draws when it is time to.

    returns, means, epsilon: the lines, whose data are the episodes, and ε, at their steps
    """

    def __init__(self, figure: Figure, surface: Surface, title: str, clock: Callable[[], float]) -> None:
        self._surface, self._clock = surface, clock
        self._next = -math.inf
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._steps: list[int] = []
        self._points: tuple[list[float], list[float]] = ([], [])  # each episode's return, and the mean of the last 100
        self._rates: tuple[list[int], list[float]] = ([], [])
        self._range = (0.0, 0.0)  # of the returns, and 0
        self._total = 0

        self._axes = figure.subplots()
        right = self._axes.twinx()
        self._axes.set(title=title, xlabel="step", ylabel="return of an episode", xlim=(0, 1), ylim=(0, 1))
        right.set(ylabel="ε", ylim=(0, 1.05))
        self._axes.spines["top"].set_visible(False)
        right.spines["top"].set_visible(False)
        # What is animated is drawn by itself, over a background with the axes that is kept.
        (self.returns,) = self._axes.plot([], [], color=FAINT, linewidth=0.8, label="an episode", animated=True)
        (self.means,) = self._axes.plot(
            [], [], color=STRONG, linewidth=2, label=f"mean of the last {WINDOW}", animated=True
        )
        (self.epsilon,) = right.plot([], [], color=OTHER, linewidth=1, linestyle="--", label="ε", animated=True)
        lines = [self.returns, self.means, self.epsilon]
        figure.legend(handles=lines, loc="outside upper right", ncols=3, frameon=False, fontsize=8)
        surface.open(lines)

    def take(self, progress: Progress) -> None:
        """Remember a report, and draw if the last drawing was long enough ago for what it took."""
        for episode in progress.episodes:
            self._recent.append(episode.reward)
            self._range = (min(self._range[0], episode.reward), max(self._range[1], episode.reward))
            self._steps.append(episode.step)
            self._points[0].append(episode.reward)
            self._points[1].append(math.fsum(self._recent) / len(self._recent))
        if (rate := progress.metrics.get("rollout/exploration_rate")) is not None:
            self._rates[0].append(progress.step)
            self._rates[1].append(rate)
        self._total = progress.total
        if self._clock() >= self._next:
            self.draw()

    def draw(self, room: float = 0.3) -> None:
        """Draw all that was taken so far; where the axes need other limits, with that share of room besides."""
        began = self._clock()
        self.returns.set_data(self._steps, self._points[0])
        self.means.set_data(self._steps, self._points[1])
        self.epsilon.set_data(*self._rates)
        self._surface.draw(afresh=self._widen(room))
        took = self._clock() - began
        self._next = began + max(SECONDS_BETWEEN_DRAWINGS, took / SHARE_OF_TIME)

    def close(self) -> None:
        """Draw everything once more, with limits that fit, and let go of the figure."""
        if self._total:
            self._axes.set_ylim(0, 1)
            self.draw(room=0.05)
        self._surface.close()

    def _widen(self, room: float) -> bool:
        """Make room for all points, and more than they need, since new limits mean to draw the axes anew."""
        axes, lowest, highest = self._axes, *self._range
        changed: bool = axes.get_xlim()[1] != self._total
        if changed:
            axes.set_xlim(0, self._total)
        low, high = axes.get_ylim()
        if lowest < low or highest > high or (low, high) == (0, 1):
            room *= (highest - lowest) or 1.0
            axes.set_ylim(lowest - room if lowest < 0 else 0.0, highest + room if highest > 0 or lowest == 0 else 0.0)
            changed = True
        return changed


class Surface(Protocol):
    """Where a figure is shown."""

    def open(self, lines: list[Line2D]) -> None:
        """Show it, with the lines that change."""

    def draw(self, afresh: bool) -> None:
        """Show what has changed: afresh with the axes, else only the lines."""

    def close(self) -> None:
        """Show it as it remains."""


class Inline:
    """A picture in the output of a notebook's cell, which later ones replace."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure
        self._handle: Any = None

    def open(self, lines: list[Line2D]) -> None:
        self._lines = lines
        self._background: Any = None

    def draw(self, afresh: bool) -> None:
        from IPython.display import Image, display

        canvas: Any = self._figure.canvas
        if afresh or self._background is None:
            canvas.draw()
            self._background = canvas.copy_from_bbox(self._figure.bbox)
        else:
            canvas.restore_region(self._background)
        _draw_lines(self._lines)
        image = Image(data=_png(canvas), format="png")
        if self._handle is None:
            self._handle = display(image, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(image)

    def close(self) -> None:
        pass


class Window:
    """A window of matplotlib's."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure

    def open(self, lines: list[Line2D]) -> None:
        canvas: Any = self._figure.canvas
        self._lines = lines
        self._background: Any = None
        canvas.mpl_connect("draw_event", self._keep)  # also where the window has another size now
        if canvas.manager is not None:
            canvas.manager.show()
        canvas.draw()
        canvas.flush_events()

    def _keep(self, event: Any) -> None:
        canvas: Any = self._figure.canvas
        if canvas.supports_blit:
            self._background = canvas.copy_from_bbox(self._figure.bbox)
        _draw_lines(self._lines)

    def draw(self, afresh: bool) -> None:
        canvas: Any = self._figure.canvas
        if afresh or self._background is None:
            canvas.draw()
        else:
            canvas.restore_region(self._background)
            _draw_lines(self._lines)
            canvas.blit(self._figure.bbox)
        canvas.flush_events()

    def close(self) -> None:
        for line in self._lines:
            line.set_animated(False)  # from here on the figure is like any other
        self._figure.canvas.draw()
        self._figure.canvas.flush_events()


def _draw_lines(lines: list[Line2D]) -> None:
    for line in lines:
        assert line.axes is not None
        line.axes.draw_artist(line)


def _png(canvas: Any) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.save(content, "PNG", compress_level=3, dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
    return content.getvalue()


def pyplot() -> Any:
    """matplotlib.pyplot. Raises MissingExtra, with the line that installs it."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtra("matplotlib is not installed: pip install 'upright[plot]'") from error
    return pyplot


def _new_figure() -> Figure:
    """A figure in a window where matplotlib has windows; else one that pyplot does not know, nor shows by itself."""
    module = pyplot()
    figure: Figure = module.figure(figsize=(7, 3.2), dpi=DOTS_PER_INCH, layout="constrained")
    if not _has_window(figure):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        module.close(figure)
        FigureCanvasAgg(figure)
    return figure


def _has_window(figure: Figure) -> bool:
    return type(figure.canvas).required_interactive_framework is not None


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None
