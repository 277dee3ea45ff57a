"""Answers to the pages' questions from the files: every method may be called from any thread."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

import upright
from upright.dashboard.catalogue import Catalogue, FoundRun
from upright.dashboard.following import Series
from upright.dashboard.player import Wish
from upright.dashboard.sampling import downsample, within
from upright.errors import RunError
from upright.runs import control
from upright.runs.folders import RunFolder

FRESH = 0.5  # seconds for which a look at the files is good enough
READ_AT_ONCE = 12 * 2**20  # bytes of metrics that one question may have read in full; of more, a sample is shown first
POINTS_AT_ONCE = 24_000  # of all series that one question is answered with
MOST_NEWS = 2_000  # rows that are told of one run at once; of more, the page is to ask again


class Answers:
    """The catalogue of one folder, behind a lock.

    trust: whether a policy whose file names a module is played
    """

    def __init__(self, root: Path, trust: bool = False) -> None:
        self.catalogue, self.trust = Catalogue(root), trust
        self._lock = threading.Lock()
        self._refreshed = -math.inf
        self._untold: set[str] = set()
        self._to_load: OrderedDict[str, None] = OrderedDict()

    def refresh(self, patience: float = FRESH) -> None:
        """Look at the files, unless that was done so recently."""
        with self._lock:
            if time.monotonic() - self._refreshed >= patience:
                self._untold |= self.catalogue.refresh()  # the streams have to hear of it too
                self._refreshed = time.monotonic()

    def changes(self) -> set[str]:
        """Look at the files; the ids of what has changed since the last call."""
        self.refresh(0.0)
        with self._lock:
            changed, self._untold = self._untold, set()
            return changed

    def table(self) -> dict[str, Any]:
        """Every run's row."""
        self.refresh()
        with self._lock:
            rows = [run.row() for run in self.catalogue.runs.values()]
            return {
                "folder": self.catalogue.root.name,
                "runs": rows,
                "cut": self.catalogue.is_cut,
                "trust": self.trust,
                "version": upright.__version__,
            }

    def rows(self, ids: Iterable[str]) -> dict[str, Any]:
        """The rows of some runs; null for those that are gone."""
        with self._lock:
            runs = self.catalogue.runs
            return {key: runs[key].row() if key in runs else None for key in ids}

    def series(
        self, ids: list[str], tags: list[str], points: int, low: float | None, high: float | None
    ) -> dict[str, Any]:
        """Steps and values of some tags of some runs, down-sampled, and what was left out."""
        self.refresh()
        with self._lock:
            runs = [self._run(key) for key in ids]
            unread = sum(run.metrics.size for run in runs if not run.metrics.is_loaded)
            most = max(60, min(points, POINTS_AT_ONCE // max(1, len(runs))))
            is_much = unread > READ_AT_ONCE
            return {"runs": {run.id: self._series(run, tags, most, low, high, is_much) for run in runs}, "points": most}

    def _series(
        self, run: FoundRun, tags: list[str], most: int, low: float | None, high: float | None, is_much: bool
    ) -> dict[str, Any]:
        """Return `series`'s answer for one run; a sample of what is not read yet, if that is much, to be read next."""
        metrics = run.metrics
        is_exact = metrics.is_loaded or not is_much
        if is_exact:
            metrics.load()
        else:
            self._to_load[run.id] = None
        series: dict[str, Any] = {}
        for tag in tags or metrics.tags:
            if is_exact:
                x, y = metrics.points(tag)
                total = len(x)
            else:
                x, y, total = metrics.sampled(tag, min(most, 120))
            part = within(x, low, high)
            x, y = downsample(x[part], y[part], most)
            if len(x):
                series[tag] = {"steps": _plain(x), "values": _plain(y), "of": total}
        cursor = list(metrics.cursor) if is_exact else None
        return {"cursor": cursor, "exact": is_exact, "tags": metrics.tags, "series": series}

    def load_next(self) -> str | None:
        """Read more of one run of which only some was shown; what is to be told of it, or None when all is read."""
        with self._lock:
            for key, run in self.catalogue.runs.items():
                if not run.metrics.is_skimmed:
                    run.metrics.skim()
                    return key
            while self._to_load:
                key, _ = self._to_load.popitem(last=False)
                if key in self.catalogue.runs and not self.catalogue.runs[key].metrics.is_loaded:
                    self.catalogue.runs[key].metrics.load()
                    return f"exact:{key}"
            return None

    def news(self, cursors: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
        """Return what these runs have written since, as it is; the cursors advance."""
        news: dict[str, Any] = {}
        with self._lock:
            for key, (generation, records, episodes) in list(cursors.items()):
                run = self.catalogue.runs.get(key)
                if run is None:
                    continue
                metrics = run.metrics
                metrics.load()
                now = metrics.cursor
                if now == (generation, records, episodes):
                    continue
                cursors[key] = now
                if now[0] != generation or now[1] + now[2] - records - episodes > MOST_NEWS:
                    news[key] = {"again": True}
                    continue
                series = {**_since(metrics.episodes, episodes), **_since(metrics.records, records)}
                news[key] = {"series": series, "cursor": list(now)}
        return news

    def settings(self, ids: list[str]) -> dict[str, Any]:
        """Every setting of some runs, flat, as their config.json has them."""
        self.refresh()
        with self._lock:
            return {"runs": {key: _flat(self._run(key).config) for key in ids}}

    def moments(self, key: str) -> dict[str, Any]:
        """Return the policies of a run that can be shown."""
        self.refresh()
        with self._lock:
            run = self._run(key)
            keep = run.config.get("keep_checkpoints")
            return {"moments": run.moments(), "keep": keep if isinstance(keep, int) else None, "row": run.row()}

    def wish(self, key: str, moment: str, episode: int) -> Wish:
        """Return what the player needs to know of an episode that is asked for."""
        with self._lock:
            run = self._run(key)
            if moment not in [each["moment"] for each in run.moments()]:
                raise HTTPException(404, "This moment is not kept any more; choose another.")
            return Wish(run.folder, moment, episode, self.trust)

    def ask(self, key: str, request: control.Request) -> dict[str, Any]:
        """Ask a run to stop or to write a checkpoint."""
        self.refresh(0.0)
        with self._lock:
            run = self._run(key)
            if run.state != "running":
                raise RunError(f"This run is {run.state}: nobody is there to {request}.")
            control.ask(RunFolder(run.folder), request)
        return {"asked": request}

    def _run(self, key: str) -> FoundRun:
        try:
            return self.catalogue.runs[key]
        except KeyError:
            raise HTTPException(404, "There is no such run here; it may have been removed.") from None

    def anonymous(self, text: str) -> str:
        """A sentence without this machine's folders."""
        return text.replace(str(self.catalogue.root), self.catalogue.root.name)


def _plain(numbers: np.ndarray) -> list[float]:
    """As JSON takes them: whole ones short, others with ten digits of the largest."""
    if not len(numbers):
        return []
    largest = float(np.abs(numbers).max())
    if largest < 2**53 and np.all(numbers == np.floor(numbers)):
        whole: list[float] = numbers.astype(np.int64).tolist()
        return whole
    digits = 10 - math.floor(math.log10(largest)) if largest else 0
    rounded: list[float] = (np.round(numbers, digits) if 0 <= digits < 300 else numbers).tolist()
    return rounded


def _since(series: Series, row: int) -> dict[str, Any]:
    found = {}
    for tag in series.values:
        x, y = series.points(tag, row)
        if len(x):
            found[tag] = {"steps": _plain(x), "values": _plain(y)}
    return found


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as name.of.one → its value as text."""
    flat: dict[str, str] = {}
    for name, value in list(settings.items())[:500]:
        if isinstance(value, Mapping) and value and prefix.count(".") < 3:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"[:200]] = json.dumps(value, ensure_ascii=False)[:500]
    return flat
