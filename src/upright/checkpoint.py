"""All of a run's state, to disk and back, bit for bit.

checkpoints/
  <step>/
    state.safetensors     every array that the run goes on from, but for the replay memory's rows
    manifest.json         what the run is, and size and SHA-256 of each file that this checkpoint needs; written last
  replay/
    <first>-<end>.safetensors    the transitions pushed as number first to end − 1

A segment of the replay memory never changes, and later checkpoints name it again: each writes what was pushed since the
one before. A checkpoint without a manifest is none. The last few are kept, and the segments that they name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from upright import storage
from upright.errors import RunError
from upright.replay import ReplayMemory, bytes_needed
from upright.sources import logger

CHECKPOINT_SCHEMA = 1
SEGMENT_BYTES = 16 * 2**20  # of transitions, at most: what saving and loading needs beside the memory itself
MANIFEST, STATE = "manifest.json", "state.safetensors"


@dataclass(frozen=True)
class Segment:
    """A file of transitions: numbers `first` to `end` − 1, its size in bytes and its SHA-256."""

    name: str
    first: int
    end: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """One that was found whole: what it says of the run, its arrays, and where the replay memory's rows are."""

    about: dict[str, Any]
    arrays: dict[str, np.ndarray]
    segments: tuple[Segment, ...]


class Checkpoints:
    """The checkpoints of one run's folder, of which the last `keep` stay."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder / "checkpoints", keep
        self._replay = self.folder / "replay"
        self._segments: list[Segment] = []  # those that the next checkpoint can name again

    def save(self, step: int, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], memory: ReplayMemory) -> None:
        """Write a checkpoint. Raises RunError when the disk does not take it; older ones are then as they were."""
        oldest = memory.pushed - len(memory)
        segments = [each for each in self._segments if each.end > oldest]
        first = max(oldest, segments[-1].end if segments else 0)
        segments += self._write_rows(memory, first)
        folder = self.folder / str(step)
        content = storage.tensors(arrays)
        storage.remove(folder / MANIFEST)
        storage.write(folder / STATE, content)
        manifest = {
            "schema": CHECKPOINT_SCHEMA,
            "step": step,
            **about,
            "state": {"size": len(content), "sha256": storage.digest(content)},
            "segments": [dataclasses.asdict(each) for each in segments],
        }
        storage.write_sealed(folder / MANIFEST, manifest)
        storage.sync_folder(self.folder)
        self._segments = segments
        self._prune(step)

    def newest(self) -> Checkpoint:
        """The newest whole checkpoint; what is wrong with newer ones is said. Raises RunError when none is whole."""
        problems = []
        for step in sorted(self._steps(), reverse=True):
            try:
                checkpoint = self._read(step)
            except RunError as error:
                problems.append(str(error))
                logger.warning(f"Checkpoint {step:,} cannot be used: {error}")
                continue
            return checkpoint
        if problems:
            raise RunError(f"No checkpoint in {self.folder} is whole: {problems[0]}")
        raise RunError(f"There is no checkpoint in {self.folder.parent} to resume from; train it anew.")

    def steps(self) -> list[int]:
        """The steps at which there are checkpoints, in their order."""
        return sorted(step for step in self._steps() if (self.folder / str(step) / MANIFEST).is_file())

    def policy(self, step: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What the checkpoint at a step says of the run, and its online parameters; the replay memory is not read."""
        about = self._manifest(step)
        arrays = self._state(step, about)
        prefix = "learner/online/"
        return about, {name.removeprefix(prefix): each for name, each in arrays.items() if name.startswith(prefix)}

    def adopt(self, checkpoint: Checkpoint) -> None:
        """Let the next checkpoint name this one's segments again."""
        self._segments = list(checkpoint.segments)

    def restore_rows(self, checkpoint: Checkpoint, memory: ReplayMemory) -> None:
        """Read the replay memory's rows, a segment at a time."""
        for segment in checkpoint.segments:
            path = self._replay / segment.name
            rows = storage.read_tensors(path, self._verified(path, segment.size, segment.sha256))
            try:
                memory.restore_rows(segment.first, rows)
            except (ValueError, StopIteration) as error:
                raise RunError(f"{path} does not fit this run: {error}.") from error

    def _write_rows(self, memory: ReplayMemory, first: int) -> Iterator[Segment]:
        columns = {name: (c.shape[1:], c.dtype) for name, c in memory.columns._asdict().items() if c is not None}
        count = max(1, SEGMENT_BYTES // bytes_needed(1, columns))
        for begin in range(first, memory.pushed, count):
            end = min(begin + count, memory.pushed)
            content = storage.tensors(memory.rows(begin, end))
            name = f"{begin}-{end}.safetensors"
            storage.write(self._replay / name, content)
            yield Segment(name, begin, end, len(content), storage.digest(content))

    def _prune(self, newest: int) -> None:
        """Remove all but the last `keep` checkpoints up to this one, and what they do not name."""
        kept = [newest]
        for step in sorted(self._steps() - {newest}, reverse=True):
            if step < newest and len(kept) < self.keep:
                kept.append(step)
            else:
                storage.remove(self.folder / str(step) / MANIFEST)  # first: without it the rest is no checkpoint
                storage.remove(self.folder / str(step))
        named = {each.name for each in self._segments}
        for step in kept[1:]:
            try:
                named |= {each.name for each in self._segments_of(self._manifest(step))}
            except RunError:
                continue  # what is damaged names nothing that could be used
        for path in self._replay.glob("*"):
            if path.name not in named:
                storage.remove(path)

    def _steps(self) -> set[int]:
        _refuse_link(self.folder)
        if not self.folder.is_dir():
            return set()
        return {int(path.name) for path in self.folder.iterdir() if re.fullmatch(r"\d{1,18}", path.name)}

    def _read(self, step: int) -> Checkpoint:
        manifest = self._manifest(step)
        segments = tuple(self._segments_of(manifest))
        arrays = self._state(step, manifest)
        for segment in segments:
            self._verified(self._replay / segment.name, segment.size, segment.sha256)
        return Checkpoint(manifest, arrays, segments)

    def _state(self, step: int, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
        path = self.folder / str(step) / STATE
        try:
            content = self._verified(path, manifest["state"]["size"], manifest["state"]["sha256"])
        except (KeyError, TypeError) as error:
            raise RunError(f"{self.folder / str(step) / MANIFEST} names no state.") from error
        return storage.read_tensors(path, content)

    def _manifest(self, step: int) -> dict[str, Any]:
        folder = self.folder / str(step)
        for each in (self.folder, folder, self._replay):
            _refuse_link(each)
        manifest = storage.read_sealed(folder / MANIFEST)
        if manifest.get("schema") != CHECKPOINT_SCHEMA:
            raise RunError(
                f"{folder / MANIFEST} is of schema {manifest.get('schema')!r}, and this version of upright reads "
                f"schema {CHECKPOINT_SCHEMA}."
            )
        return manifest

    def _segments_of(self, manifest: Mapping[str, Any]) -> Iterator[Segment]:
        try:
            for each in manifest["segments"]:
                segment = Segment(**each)
                if segment.name != f"{int(segment.first)}-{int(segment.end)}.safetensors":
                    raise ValueError(f"{segment.name!r} is no segment's name")
                yield segment
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"A manifest in {self.folder} names no segments: {error}.") from error

    def _verified(self, path: Path, size: int, sha256: str) -> bytes:
        """A file's bytes, if they are those that the manifest names."""
        content = storage.read(path, size if isinstance(size, int) else 0)
        if len(content) != size or storage.digest(content) != sha256:
            raise RunError(f"{path} is damaged: it is not the file that the manifest names.")
        return content


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise RunError(f"{path} is a link, which is not followed out of a run's folder.")
