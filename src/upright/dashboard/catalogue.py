"""The runs in a folder: found again and again, each with an id that no path can be made of, and its state."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from upright import files
from upright.agent import DESCRIPTION
from upright.dashboard.following import MetricsFile
from upright.errors import RunError
from upright.runs.checkpoint import Checkpoints
from upright.runs.folders import SEED, RunFolder

DEEPEST = 5  # levels of folders below the one that is served
MOST_FOLDERS, MOST_RUNS = 20_000, 5_000
SECONDS_BETWEEN_SEARCHES = 3.0
SILENCE = 600.0  # seconds without a line after which a run on another machine counts as stale
LARGEST_DESCRIPTION = 2**20  # bytes of a config.json or result.json that is shown

State = Literal["running", "finished", "stopped", "stale"]


class FoundRun:
    """One run as its files describe it; `refresh` reads them again.

    id: of its place below the folder that is served · experiment: the id of the folder above it
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder, self._place = root, folder, RunFolder(folder)
        place = folder.relative_to(root).as_posix()
        self.id, self.experiment = _identify(place), _identify(folder.parent.relative_to(root).as_posix() + "/")
        self.configuration = "/".join(folder.relative_to(root).parts[:-1]) or root.name
        self.seed = int(folder.name.removeprefix(SEED))
        self.metrics = MetricsFile(self._place.metrics)
        self.description: dict[str, Any] = {}
        self.result: dict[str, Any] = {}
        self.state: State = "stopped"
        self._read: dict[Path, tuple[int, int] | None] = {}

    def refresh(self) -> bool:
        """Read what has changed; whether anything has."""
        if not is_plain(self.root, self.folder):
            return False
        changed = self.metrics.refresh()
        for name, path in (
            ("description", self._place.experiment.config),
            ("result", self._place.result),
        ):
            stamp = _stamp(path)
            if self._read.get(path, "never") != stamp:
                self._read[path] = stamp
                setattr(self, name, _read_object(path))
                changed = True
        state = self._find_state()
        changed, self.state = changed or state != self.state, state
        return changed

    @property
    def config(self) -> dict[str, Any]:
        """The settings, as config.json has them."""
        config = self.description.get("config")
        return config if isinstance(config, dict) else {}

    @property
    def total(self) -> int | None:
        """The steps that it is to train for."""
        total = self.config.get("total_timesteps")
        return total if isinstance(total, int) and not isinstance(total, bool) and total > 0 else None

    @property
    def step(self) -> float:
        """The step of its newest record."""
        return _number(self.metrics.last.get("step")) or 0.0

    def row(self) -> dict[str, Any]:
        """Its line in the table of all runs."""
        last = self.metrics.last
        return {
            "id": self.id,
            "experiment": self.experiment,
            "environment": str(self.description.get("name") or self.description.get("env") or "unknown")[:200],
            "configuration": self.configuration[:300],
            "seed": self.seed,
            "state": self.state,
            "step": self.step,
            "total": self.total,
            "last": _number(last.get("rollout/ep_rew_mean")),
            "best": self.metrics.best,
            "final": _number(self.result.get("final_mean")),
            "threshold": _number(self.result.get("threshold")),
            "speed": _number(last.get("time/fps")),
            "elapsed": _number(last.get("time/time_elapsed")),
            "modified": self.metrics.modified,
            "damaged": self.metrics.damaged,
        }

    def moments(self) -> list[dict[str, Any]]:
        """The policies of it that there are: saved ones and checkpoints, in the order of their steps."""
        if not is_plain(self.root, self.folder):
            return []
        found: list[dict[str, Any]] = []
        with contextlib.suppress(RunError, OSError):
            found += [
                {"moment": f"step-{step}", "step": step, "kind": "checkpoint"}
                for step in Checkpoints(self.folder, 1).steps()
            ]
        if self._has_policy(self._place.best):
            found.append({"moment": self._place.best.name, "step": self._best_step(), "kind": "best"})
        if self._has_policy(self._place.policy):
            found.append({"moment": self._place.policy.name, "step": self.step, "kind": "last"})
        return found

    def _has_policy(self, folder: Path) -> bool:
        return is_plain(self.root, folder) and (folder / DESCRIPTION).is_file()

    def _best_step(self) -> float | None:
        """The step of the first evaluation with the highest mean."""
        self.metrics.load()
        steps, means = self.metrics.records.points("eval/mean_reward")
        return float(steps[int(np.argmax(means))]) if len(means) else None

    def _find_state(self) -> State:
        total = self.total
        if total is not None and self.step >= total:
            return "finished"
        path = self._place.marker
        if not os.path.lexists(path):
            return "stopped"
        try:
            marker = files.read_json(path)
        except (RunError, OSError):
            return "stale"
        pid, host = marker.get("pid"), marker.get("host")
        if os.name == "posix" and host == socket.gethostname() and isinstance(pid, int) and 0 < pid < 2**31:
            return "running" if _is_alive(pid) else "stale"
        started = _number(marker.get("started")) or 0.0
        return "running" if time.time() - max(started, self.metrics.modified) < SILENCE else "stale"


class Catalogue:
    """All runs below one folder, by their ids."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.runs: dict[str, FoundRun] = {}
        self.is_cut = False
        self._searched = -math.inf

    def refresh(self) -> set[str]:
        """Find new runs, read what has changed, forget what is gone; the ids of what is other than it was."""
        changed: set[str] = set()
        if time.monotonic() - self._searched >= SECONDS_BETWEEN_SEARCHES:
            self._searched = time.monotonic()
            found = {_identify(folder.relative_to(self.root).as_posix()): folder for folder in self._search()}
            for gone in self.runs.keys() - found.keys():
                del self.runs[gone]
                changed.add(gone)
            for key in found.keys() - self.runs.keys():
                self.runs[key] = FoundRun(self.root, found[key])
                changed.add(key)
        return changed | {key for key, run in self.runs.items() if run.refresh()}

    def _search(self) -> Iterator[Path]:
        """The folders seed-<n> that hold a run: no link is followed, neither to a folder nor to a file."""
        waiting, visited, count = [(self.root, 0)], 0, 0
        self.is_cut = False
        while waiting:
            folder, depth = waiting.pop()
            visited += 1
            try:
                with os.scandir(folder) as entries:
                    inside = [each for each in entries if each.is_dir(follow_symlinks=False)]
            except OSError:
                continue
            for each in inside:
                path = Path(each.path)
                if re.fullmatch(SEED + r"\d{1,18}", each.name):
                    if os.path.lexists(RunFolder(path).metrics):
                        if count >= MOST_RUNS:
                            self.is_cut = True
                            return
                        count += 1
                        yield path
                elif depth < DEEPEST and not each.name.startswith("."):
                    if visited + len(waiting) >= MOST_FOLDERS:
                        self.is_cut = True
                        break
                    waiting.append((path, depth + 1))


def is_plain(root: Path, path: Path) -> bool:
    """True if a path leads from the root through folders alone, without a link."""
    while path != root:
        if path == path.parent or not path.is_dir() or path.is_symlink():
            return False
        path = path.parent
    return True


def _identify(place: str) -> str:
    return hashlib.blake2b(place.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        about = path.lstat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size


def _read_object(path: Path) -> dict[str, Any]:
    try:
        if path.lstat().st_size > LARGEST_DESCRIPTION:
            return {}
        return files.read_json(path)
    except (RunError, OSError):
        return {}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _number(value: Any) -> float | None:
    return float(value) if files.is_number(value) else None
