"""metrics.jsonl, read as it grows: a half-written line waits, and a file that was cut back is read again."""

from __future__ import annotations

import contextlib
import math
import os
import stat
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from upright.files import is_number
from upright.runs import records

RETURN, LENGTH = "episode/return", "episode/length"  # the dashboard's names for what each episode's line holds
MEAN_RETURN = "rollout/ep_rew_mean"
MOST_TAGS = 64  # of one run: as many as are shown of a file that names more
CHUNK = 2**26  # bytes read at once
LONGEST_LINE = 2**20  # bytes
BLOCK = 2**11  # bytes read at each place of which a sample is taken
SKIMMED = 2**17  # bytes of a file from which it is first skimmed, and read in full when somebody asks
FINGERPRINT = 256  # bytes before the place that was read up to, by which it is known again


class Series:
    """Rows with a step and a number for each tag, or NaN; they only ever grow."""

    def __init__(self) -> None:
        self.step = array("d")
        self.values: dict[str, array[float]] = {}

    def append(self, line: records.Line) -> None:
        """Add a row with what is shown of a line, if it has anything to show."""
        shown = _shown(line)
        if not shown:
            return
        rows = len(self.step)
        self.step.append(line[records.STEP])
        for tag, number in shown.items():
            column = self.values.get(tag)
            if column is None:
                if len(self.values) >= MOST_TAGS:
                    continue
                column = self.values[tag] = array("d")
            if len(column) < rows:
                column.extend([math.nan] * (rows - len(column)))
            column.append(number)

    def points(self, tag: str, begin: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The steps and values of a tag from that row on, where it has any: copies."""
        column = self.values.get(tag)
        if column is None:
            return np.empty(0), np.empty(0)
        # Copies: an array that a buffer looks into cannot grow.
        y = np.array(column[begin:], np.float64)
        x = np.array(self.step[begin : begin + len(y)], np.float64)
        there = np.isfinite(y)
        x, y = x[there], y[there]
        if np.any(np.diff(x) < 0):
            order = np.argsort(x, kind="stable")
            x, y = x[order], y[order]
        return x, y


class MetricsFile:
    """One metrics.jsonl.

    last: the newest record · best: the highest mean return of a record, of a large file once `skim` was called
    damaged: lines that are none
    records, episodes: all of it, once `load` was called; `sampled` gives some of it earlier
    generation: counts how often it was read again from the start, because it was no longer what it had been
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        self._identity: tuple[int, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self.size = 0  # bytes read, all of whole lines
        self.modified = 0.0
        self.last: Mapping[str, Any] = {}
        self.best: float | None = None
        self.damaged = 0
        self.records, self.episodes = Series(), Series()
        self.is_loaded = False
        self.is_skimmed = True
        self._sample: tuple[int, int, Series, Series] | None = None
        self._before = b""
        self._latest_step = -math.inf

    def refresh(self) -> bool:
        """Take what was written since the last call; whether anything was."""
        try:
            file = open(self.path, "rb", buffering=0, opener=_open_itself)
        except OSError:
            return self._start_anew(None)
        with file:
            try:
                return self._read(file)
            except OSError:  # gone, or on a disk that is
                return False

    def _read(self, file: Any) -> bool:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            return self._start_anew(None)
        identity = (about.st_dev, about.st_ino)
        changed = False
        if identity != self._identity or about.st_size < self.size or not self._is_as_it_was(file):
            changed = self._start_anew(identity)
        self.modified = about.st_mtime
        if not self.size and about.st_size > SKIMMED:
            return self._read_end(file, about.st_size) or changed
        file.seek(self.size)
        while chunk := _read_fully(file, CHUNK):
            end = chunk.rfind(b"\n") + 1
            if not end:
                if len(chunk) <= LONGEST_LINE:
                    break  # it is being written
                end, self.damaged = len(chunk), self.damaged + 1
            whole = chunk[:end]
            if not self.size and len(whole) <= SKIMMED:
                self.is_loaded = True  # all that there is, so far
            if not self.is_loaded:
                self._find_last(whole)
                if self.is_skimmed:
                    self._find_best(whole)
            elif not self._take(whole, is_continued=self.size > 0):
                self._start_anew(identity)
                return True
            self._before = (self._before + whole)[-FINGERPRINT:]
            self.size += end
            changed = True
            if end < len(chunk):
                break
        return changed

    def _is_as_it_was(self, file: Any) -> bool:
        if not self._before:
            return True
        file.seek(self.size - len(self._before))
        return _read_fully(file, len(self._before)) == self._before

    def _start_anew(self, identity: tuple[int, int] | None) -> bool:
        was = self._identity is not None or self.size > 0
        self._identity = identity
        if was:
            self.generation += 1
        self._forget()
        return was

    def _read_end(self, file: Any, size: int) -> bool:
        """Read only the newest record of a large file that is new here: the rest can wait."""
        file.seek(max(0, size - SKIMMED))
        tail = _read_fully(file, min(size, SKIMMED))
        end = tail.rfind(b"\n") + 1
        if not end:
            return False
        self.size, self.is_skimmed = size - len(tail) + end, False
        self._before = tail[:end][-FINGERPRINT:]
        self._find_last(tail[:end])
        return True

    def skim(self) -> None:
        """Find the best return of a large file, without reading each line."""
        if not self.is_skimmed:
            self.is_skimmed = True
            self._find_best(self._content())

    def _find_best(self, lines: bytes) -> None:
        best = max(records.values(MEAN_RETURN, lines), default=-math.inf)
        if math.isfinite(best):
            self.best = best if self.best is None else max(self.best, best)

    def _find_last(self, lines: bytes) -> None:
        end = len(lines)
        for _ in range(10_000):  # lines from the end, until one is a record
            begin = lines.rfind(b"\n", 0, end - 1) + 1
            line = records.parse(lines[begin:end])
            if line is not None and not records.is_episode(line):
                self.last = line
                break
            end = begin
            if not end:
                break

    def load(self) -> None:
        """Read all lines into `records` and `episodes`, if they are not there yet."""
        if self.is_loaded:
            return
        content, self.is_loaded, self.is_skimmed, self._sample = self._content(), True, True, None
        self.damaged = 0
        self.records, self.episodes = Series(), Series()
        self._latest_step = -math.inf
        self._take(content, is_continued=False)

    def sampled(self, tag: str, most: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Steps and values of a tag from about `most` places in the file, and about how many it has."""
        if self._sample is None or self._sample[:2] != (self.size, most):
            self._sample = (self.size, most, *self._look_into(most))
        sampled, episodes = self._sample[2:]
        x, y = (episodes if tag in (RETURN, LENGTH) else sampled).points(tag)
        return x, y, len(x) + 1

    def _look_into(self, most: int) -> tuple[Series, Series]:
        """The first record and the first episode after each of that many places, evenly spread; no more is read."""
        sampled, episodes = Series(), Series()
        with contextlib.suppress(OSError), open(self.path, "rb", buffering=0, opener=_open_itself) as file:
            for place in range(0, self.size, max(1, self.size // most)):
                file.seek(place)
                lines = file.read(BLOCK).split(b"\n")[1 if place else 0 : -1]
                wanted = {True, False}
                for line in lines:
                    is_episode = records.looks_like_episode(line)
                    if is_episode in wanted and (parsed := records.parse(line)) is not None:
                        wanted.discard(is_episode)
                        (episodes if is_episode else sampled).append(parsed)
                    if not wanted:
                        break
        return sampled, episodes

    def points(self, tag: str) -> tuple[np.ndarray, np.ndarray]:
        """All steps and values of a tag; `load` comes first."""
        return (self.episodes if tag in (RETURN, LENGTH) else self.records).points(tag)

    @property
    def tags(self) -> list[str]:
        """The tags that can be asked for."""
        if self.is_loaded:
            return [*self.episodes.values, *self.records.values]
        return [RETURN, LENGTH, *records.numbers(self.last)]

    @property
    def cursor(self) -> tuple[int, int, int]:
        """The place up to which it was read: generation, records, episodes."""
        return self.generation, len(self.records.step), len(self.episodes.step)

    def _content(self) -> bytes:
        try:
            with open(self.path, "rb", buffering=0, opener=_open_itself) as file:
                return _read_fully(file, self.size)
        except OSError:
            return b""

    def _take(self, lines: bytes, is_continued: bool) -> bool:
        """Add whole lines; False when steps that go back show that what is continued is no longer there."""
        for line in records.parse_many(lines):
            if line is None:
                self.damaged += 1
            elif records.is_episode(line):
                self.episodes.append(line)
            else:
                step = line[records.STEP]
                if is_continued and step < self._latest_step:
                    return False
                self._latest_step = step
                self.last = line
                mean = line.get(MEAN_RETURN)
                if is_number(mean) and (self.best is None or mean > self.best):
                    self.best = float(mean)
                self.records.append(line)
        return True


def _shown(line: records.Line) -> dict[str, float]:
    """The numbers of a line that are shown."""
    if not records.is_episode(line):
        return records.numbers(line)
    total, length = line.get(records.RETURN), line.get(records.LENGTH)
    return {RETURN: total, LENGTH: length} if is_number(total) and is_number(length) else {}


def _open_itself(path: str, flags: int) -> int:
    """Open a file, but neither what a link leads to nor a pipe that would never answer."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _read_fully(file: Any, size: int) -> bytes:
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
