"""A run's folder and its copy at an fsspec URL, such as s3://bucket/runs: for machines that share no file system."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from upright import files
from upright.errors import MissingExtra, RunError
from upright.messages import first_line, logger
from upright.runs.checkpoint import MANIFEST
from upright.runs.folders import RunFolder
from upright.runs.metrics import Progress

SECONDS_BETWEEN_TRIES = 1.0


class Mirror:
    """Brings a folder from its URL, and what has changed in it back: as a sink, after each checkpoint.

    A checkpoint's manifest is copied last and removed first, so whenever it is there, so is what it names. Only what
    this mirror brought or copied is ever removed there: another process, given up for dead, may be writing the same.
    """

    def __init__(self, folder: Path, url: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise MissingExtra("fsspec is not installed: pip install 'upright[ray]'") from error
        self.folder, self.url = folder, url
        try:
            self._there, self._root = fsspec.url_to_fs(url)
        except Exception as error:
            raise RunError(f"{url} cannot be used as storage: {first_line(error)}") from error
        self._known: dict[str, tuple[int, int]] = {}  # size and time of change here, when it was the same on both sides

    def pull(self, name: str | None = None, patience: float = 0.0) -> None:
        """Bring all files, or the one with this name; patience: seconds in which it is tried again."""
        self._try("read", lambda: self._pull(name), patience)

    def push(self, patience: float = 0.0) -> None:
        """Copy what has changed since, and remove what is gone; patience: seconds in which it is tried again.

        Raises RunError where the storage does not take it.
        """
        self._try("written", self._push, patience)

    def _try(self, done: str, action: Callable[[], None], patience: float) -> None:
        end = time.monotonic() + patience
        while True:
            try:
                return action()
            except RunError:
                raise
            except Exception as error:  # each kind of storage has its own
                if time.monotonic() >= end:
                    raise RunError(f"{self.url} cannot be {done}: {first_line(error)}") from error
                time.sleep(SECONDS_BETWEEN_TRIES)

    def _pull(self, name: str | None) -> None:
        self._there.invalidate_cache()
        found: list[str] = []
        with contextlib.suppress(FileNotFoundError):  # nothing is there yet
            found = self._there.find(f"{self._root}/{name}" if name else self._root)
        for path in found:
            relative = PurePosixPath(path).relative_to(PurePosixPath(self._root))
            if ".." in relative.parts:
                raise RunError(f"{self.url} names {path}, which is outside of it.")
            here = self.folder / relative
            here.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # not yet, or no longer
                self._there.get_file(path, str(here))
                self._known[str(relative)] = _state(here)

    def _push(self) -> None:
        now = {
            path.relative_to(self.folder).as_posix(): _state(path)
            for path in self.folder.rglob("*")
            if path.is_file() and path.name != files.LOCK and not path.name.startswith(".")
        }
        changed = [name for name, state in now.items() if self._known.get(name) != state]
        gone = [name for name in self._known if name not in now]
        for name in sorted(changed, key=_is_last):
            path = f"{self._root}/{name}"
            self._there.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._there.put_file(str(self.folder / name), path)
            self._known[name] = now[name]
        for name in sorted(gone, key=_is_last, reverse=True):
            if self._there.exists(f"{self._root}/{name}"):
                self._there.rm_file(f"{self._root}/{name}")
            del self._known[name]

    def write(self, progress: Progress) -> None:
        """Copy a checkpoint that is new."""
        manifests = RunFolder(self.folder).manifests()
        if any(path.relative_to(self.folder).as_posix() not in self._known for path in manifests):
            try:
                self.push()
            except RunError as error:
                logger.warning(f"The checkpoint at step {progress.step:,} is not copied: {error} Training continues.")

    def close(self) -> None:
        """Nothing is held."""


def _is_last(name: str) -> int:
    """Return the place of a file in the order of copying: one that vouches for others comes after them."""
    return 2 if name == RunFolder(Path()).result.name else int(name.endswith(MANIFEST))


def _state(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns
