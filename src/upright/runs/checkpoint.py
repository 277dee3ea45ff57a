"""All of a run's state, to disk and back, bit for bit.

checkpoints/
  <step>/
    state.safetensors     every array that the run resumes from, but for the replay memory's rows
    manifest.json         what the run is, and size and SHA-256 of each file that this checkpoint needs; written last
  replay/
    <first>-<end>.safetensors    the transitions pushed as number first to end − 1

A segment of the replay memory never changes, and later checkpoints name it again: each writes what was pushed since the
one before. A checkpoint without a manifest is none. The last few are kept, and the segments that they name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from upright import files
from upright.errors import RunError
from upright.messages import logger
from upright.replay import Ring, bytes_needed

CHECKPOINT_SCHEMA = 1
SEGMENT_BYTES = 4 * 2**20  # of transitions, at most: what saving and loading needs beside the memory itself
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

    def save(self, step: int, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], ring: Ring) -> None:
        """Write a checkpoint. Raises RunError when the disk does not take it; older ones are then as they were."""
        for each in (self.folder, self._replay):
            files.refuse_link(each)
        oldest = ring.pushed - len(ring)
        segments = [each for each in self._segments if each.end > oldest]
        first = max(oldest, segments[-1].end if segments else 0)
        folder = self.folder / str(step)
        files.refuse_link(folder)
        try:
            segments += self._write_rows(ring, first)
            content = files.tensors(arrays)
            size, sha256 = len(content), files.digest(content)
            # A manifest that is there already stays good until the new one takes its place, if the state is the same.
            if not _is_whole(folder / STATE, size, sha256):
                files.remove(folder / MANIFEST)
                files.write(folder / STATE, content)
            manifest = {
                "schema": CHECKPOINT_SCHEMA,
                "step": step,
                **about,
                "state": {"size": size, "sha256": sha256},
                "segments": [dataclasses.asdict(each) for each in segments],
            }
            files.write_sealed(folder / MANIFEST, manifest)
        except RunError:
            with contextlib.suppress(OSError, RunError):
                self._prune(step)  # where there is no room, none is left to what will never be a checkpoint
            raise
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
        raise RunError(
            f"There is no checkpoint in {self.folder.parent} to resume from: remove that folder and train anew."
        )

    def steps(self) -> list[int]:
        """The steps at which there are checkpoints, in their order."""
        return sorted(step for step in self._steps() if (self.folder / str(step) / MANIFEST).is_file())

    def policy(self, step: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return a checkpoint's description of the run and its online parameters; the replay memory is not read."""
        about = self._manifest(step)
        arrays = self._state(step, about)
        prefix = "learner/online/"
        return about, {name.removeprefix(prefix): each for name, each in arrays.items() if name.startswith(prefix)}

    def adopt(self, checkpoint: Checkpoint) -> None:
        """Let the next checkpoint name this one's segments again."""
        self._segments = list(checkpoint.segments)

    def restore_rows(self, checkpoint: Checkpoint, ring: Ring) -> None:
        """Read the replay memory's rows, a segment at a time."""
        for segment in checkpoint.segments:
            path = self._replay / segment.name
            needed = (segment.end - segment.first) * bytes_needed(1, ring.forms) + files.LARGEST_HEADER
            if segment.size > needed:
                raise RunError(f"{path} does not fit this run: it has {segment.size:,} bytes, more than {needed:,}.")
            rows = files.read_tensors(path, self._verified(path, segment.size, segment.sha256))
            try:
                if any(len(column) != segment.end - segment.first for column in rows.values()):
                    raise ValueError("it does not hold as many rows as its name says")
                ring.restore_rows(segment.first, rows)
            except (ValueError, TypeError, StopIteration) as error:
                raise RunError(f"{path} does not fit this run: {error}.") from error

    def _write_rows(self, ring: Ring, first: int) -> Iterator[Segment]:
        count = max(1, SEGMENT_BYTES // bytes_needed(1, ring.forms))
        for begin in range(first, ring.pushed, count):
            end = min(begin + count, ring.pushed)
            content = files.tensors(ring.rows(begin, end))
            name = f"{begin}-{end}.safetensors"
            files.write(self._replay / name, content)
            yield Segment(name, begin, end, len(content), files.digest(content))

    def _prune(self, newest: int) -> None:
        """Remove all but the last `keep` checkpoints up to this one, and what they do not name."""
        kept: list[int] = []
        for step in sorted(self._steps(), reverse=True):
            has_manifest = (self.folder / str(step) / MANIFEST).exists()
            if step <= newest and len(kept) < self.keep and has_manifest:
                kept.append(step)
            else:
                if not (self.folder / str(step)).is_symlink():  # what a link leads to is not ours
                    files.remove(self.folder / str(step) / MANIFEST)  # first: without it the rest is no checkpoint
                files.remove(self.folder / str(step))
        named: set[str] = set()
        for step in kept:
            try:
                named |= {each.name for each in self._segments_of(self._manifest(step))}
            except RunError:
                return  # perhaps it can be read another time: what it may name stays as long as it does
        for path in self._replay.glob("*"):
            if path.name not in named:
                files.remove(path)

    def _steps(self) -> set[int]:
        files.refuse_link(self.folder)
        if not self.folder.is_dir():
            return set()
        return {int(path.name) for path in self.folder.iterdir() if re.fullmatch(r"0|[1-9][0-9]{0,17}", path.name)}

    def _read(self, step: int) -> Checkpoint:
        manifest = self._manifest(step)
        segments = tuple(self._segments_of(manifest))
        arrays = self._state(step, manifest)
        for segment in segments:
            rows = self._replay / segment.name
            if files.size_and_digest(rows) != (segment.size, segment.sha256):
                raise _not_the_named(rows)
        return Checkpoint(manifest, arrays, segments)

    def _state(self, step: int, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
        path = self.folder / str(step) / STATE
        try:
            content = self._verified(path, manifest["state"]["size"], manifest["state"]["sha256"])
        except (KeyError, TypeError) as error:
            raise RunError(f"{self.folder / str(step) / MANIFEST} names no state.") from error
        return files.read_tensors(path, content)

    def _manifest(self, step: int) -> dict[str, Any]:
        folder = self.folder / str(step)
        for each in (self.folder, folder, self._replay):
            files.refuse_link(each)
        manifest = files.read_sealed(folder / MANIFEST)
        if manifest.get("schema") != CHECKPOINT_SCHEMA:
            raise RunError(
                f"{folder / MANIFEST} is of schema {manifest.get('schema')!r}, and this version of upright reads "
                f"schema {CHECKPOINT_SCHEMA}."
            )
        if manifest.get("step") != step:
            raise RunError(f"{folder / MANIFEST} is of another step: {manifest.get('step')!r}.")
        return manifest

    def _segments_of(self, manifest: Mapping[str, Any]) -> Iterator[Segment]:
        before = None
        try:
            for each in manifest["segments"]:
                segment = Segment(**each)
                numbers = (segment.first, segment.end, segment.size)
                if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
                    raise ValueError(f"{numbers} are no counts")
                # Each continues where the last one ended, so none is read twice.
                if segment.first >= segment.end or before not in (None, segment.first):
                    raise ValueError(f"{segment.first} to {segment.end} does not follow {before}")
                before = segment.end
                if segment.name != f"{segment.first}-{segment.end}.safetensors":
                    raise ValueError(f"{segment.name!r} is no segment's name")
                yield segment
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"A manifest in {self.folder} names no segments: {error}.") from error

    def _verified(self, path: Path, size: int, sha256: str) -> bytes:
        """A file's bytes, if they are those that the manifest names."""
        content = files.read(path, size if isinstance(size, int) else 0)
        if len(content) != size or files.digest(content) != sha256:
            raise _not_the_named(path)
        return content


def _is_whole(path: Path, size: int, sha256: str) -> bool:
    """True if a file is there and has this content."""
    try:
        return files.digest(files.read(path, size)) == sha256
    except RunError:
        return False


def _not_the_named(path: Path) -> RunError:
    return RunError(f"{path} is damaged: it is not the file that the manifest names.")
