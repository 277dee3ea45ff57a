"""Pictures of learning: the tutorial's plot while an agent learns, and curves of finished runs.

    from upright import live, train

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

from upright.errors import MissingExtra, wrong
from upright.messages import logger
from upright.runs.metrics import WINDOW, Progress

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

SECONDS_BETWEEN_DRAWINGS = 0.25
# The share of the time until the next drawing that a drawing may take; and the share of all the time that all of them
# may take, with the expensive first one. The last drawing, and the caches that drawing displaces, come on top.
SHARE_OF_TIME, SHARE_OF_ALL = 0.015, 0.018
DOTS_PER_INCH = 100
# Tol's colours, which differ for colour-blind eyes too. The lines differ in width and style as well.
FAINT, STRONG, OTHER = "#88aacc", "#224466", "#aa3377"


def live(progresses: Iterable[Progress], title: str = "") -> Iterator[Progress]:
    """Yield what `train` yields, and draw it as it comes: each episode's return, their mean over the last 100, and ε.

    Inline in Jupyter, in a window elsewhere, which stays open until the program ends; `plt.show()` keeps it longer.
    It draws at most four times a second, and more rarely where drawing would take more than 1.8 % of the time.
    Raises MissingExtra, before anything is trained, where matplotlib is not installed.
    """
    if not isinstance(progresses, Iterable):
        raise wrong("progresses", progresses, "what upright.train yields")
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

    To draw all of it takes ten times as long as to draw the lines and the numbers beside them, which are all that
    changes. So only these, which matplotlib calls animated, are drawn each time, over a background that is kept.
    """

    def __init__(self, figure: Figure, surface: Surface, title: str, clock: Callable[[], float]) -> None:
        self._surface, self._clock = surface, clock
        self._began = clock()
        self._spent = 0.0  # seconds
        self._next = self._began + SECONDS_BETWEEN_DRAWINGS
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._range = (0.0, 0.0)  # of the returns, and 0
        self._total = 0
        self._steps: list[int] = []
        self._points: tuple[list[float], list[float]] = ([], [])  # each episode's return, and the mean of the last 100
        self._rates: tuple[list[int], list[float]] = ([], [])

        # Places are given, not sought, and ticks are few: a drawing of all takes half as long so.
        self._axes = figure.add_axes((0.1, 0.15, 0.84, 0.7))
        right = self._axes.twinx()
        self._axes.set(xlabel="step", ylabel="return of an episode", xlim=(0, 1), ylim=(0, 1))
        right.set(ylim=(0, 1.05), yticks=(0, 1))
        right.set_ylabel("ε", color=OTHER, rotation=0)
        self._axes.xaxis.set_label_coords(0.5, -0.13)
        self._axes.yaxis.set_label_coords(-0.085, 0.5)
        right.yaxis.set_label_coords(1.025, 0.5)
        for axes in (self._axes, right):
            axes.spines["top"].set_visible(False)
        self._axes.locator_params(nbins=5)
        figure.text(0.1, 0.92, title, fontsize=11, parse_math=False)
        (self.returns,) = self._axes.plot([], [], color=FAINT, linewidth=0.8, label="an episode")
        (self.means,) = self._axes.plot([], [], color=STRONG, linewidth=2, label=f"mean of the last {WINDOW}")
        (self.epsilon,) = right.plot([], [], color=OTHER, linewidth=1, linestyle="--", label="ε")
        lines = (self.returns, self.means, self.epsilon)
        figure.legend(handles=lines, loc="upper right", bbox_to_anchor=(0.92, 0.99), ncols=3, frameon=False, fontsize=8)
        for artist in (changing := [*lines, self._axes.yaxis]):
            artist.set_animated(True)
        surface.open(changing)
        self._count(self._began)

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
        if (now := self._clock()) >= self._next:
            self.draw()
            self._next = self._count(now)

    def _count(self, began: float) -> float:
        """Count what a drawing has taken since it began; when there may be another."""
        took = self._clock() - began
        self._spent += took
        return max(
            began + max(SECONDS_BETWEEN_DRAWINGS, took / SHARE_OF_TIME),
            self._began + self._spent / SHARE_OF_ALL,
        )

    def draw(self, room: float = 0.3) -> None:
        """Draw all that was taken so far; where the axes need other limits, with that share of room besides."""
        self.returns.set_data(self._steps, self._points[0])
        self.means.set_data(self._steps, self._points[1])
        self.epsilon.set_data(*self._rates)
        lowest, highest = self._range
        low, high = self._axes.get_ylim()
        if lowest < low or highest > high or (low, high) == (0, 1):
            room *= (highest - lowest) or 1.0
            self._axes.set_ylim(lowest - room if lowest else 0, highest + room if highest or not lowest else 0)
        afresh: bool = self._axes.get_xlim()[1] != self._total
        self._axes.set_xlim(0, self._total)
        self._surface.draw(afresh)

    def close(self) -> None:
        """Draw everything once more, with limits that fit, and release the figure."""
        if self._total:
            self._axes.set_ylim(0, 1)
            self.draw(room=0.05)
        self._surface.close()


class Surface(Protocol):
    """The place where a figure is shown."""

    def open(self, changing: list[Artist]) -> None:
        """Make it ready; only these parts of it change from one drawing to the next."""

    def draw(self, afresh: bool) -> None:
        """Show what has changed; afresh where it is more than that."""

    def close(self) -> None:
        """Leave it as it is."""


class Inline:
    """A picture in the output of a notebook's cell, which later ones replace."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure
        self._handle: Any = None
        self._background: Any = None

    def open(self, changing: list[Artist]) -> None:
        self._changing = changing

    def draw(self, afresh: bool) -> None:
        from IPython.display import Image, display

        canvas: Any = self._figure.canvas
        if afresh or self._background is None:
            canvas.draw()
            self._background = canvas.copy_from_bbox(self._figure.bbox)
        else:
            canvas.restore_region(self._background)
        _draw(self._changing)
        image = Image(data=_png(canvas), format="png")  # type: ignore[no-untyped-call]
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
        self._background: Any = None

    def open(self, changing: list[Artist]) -> None:
        canvas: Any = self._figure.canvas
        self._changing = changing
        canvas.mpl_connect("draw_event", self._keep)  # also where the window has another size now
        if canvas.manager is not None:
            canvas.manager.show()
        canvas.flush_events()

    def _keep(self, event: Any) -> None:
        canvas: Any = self._figure.canvas
        if canvas.supports_blit:
            self._background = canvas.copy_from_bbox(self._figure.bbox)
        _draw(artist for artist in self._changing if artist.get_animated())

    def draw(self, afresh: bool) -> None:
        canvas: Any = self._figure.canvas
        if afresh or self._background is None:
            canvas.draw()
        else:
            canvas.restore_region(self._background)
            _draw(self._changing)
            canvas.blit(self._figure.bbox)
        canvas.flush_events()

    def close(self) -> None:
        for artist in self._changing:
            artist.set_animated(False)  # from here on the figure is like any other
        self._figure.canvas.draw_idle()
        self._figure.canvas.flush_events()


def _draw(artists: Iterable[Artist]) -> None:
    for artist in artists:
        assert artist.axes is not None
        artist.axes.draw_artist(artist)


def _png(canvas: Any) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.save(content, "PNG", compress_level=1, dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
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
    figure: Figure = module.figure(figsize=(7, 3.2), dpi=DOTS_PER_INCH)
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
