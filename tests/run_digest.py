"""What the tests of resume and of faults share: a run as one digest, the command line, processes, a disk that crashes."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from upright import files
from upright.loop import train
from upright.runs.run import Run

LONG = os.environ.get("UPRIGHT_FAULTS") == "long"
TESTS = Path(__file__).parent
TIMES = ("time/fps", "time/time_elapsed")


def times(short: int, long: int) -> int:
    """How often a fault is tried: `make test` or `make test-faults`."""
    return long if LONG else short


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{tag: value for tag, value in line.items() if tag not in TIMES} for line in written]


def digests(run: Run) -> dict[str, str]:
    """Everything that a run is, part by part, so that a difference has a name."""
    parts = {name: np.ascontiguousarray(array) for name, array in run.state().items()}
    columns = run.replay.ring.columns._asdict()
    parts |= {f"column {name}": column for name, column in columns.items() if column is not None}
    found = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in parts.items()}
    if run.folder is not None:
        found["metrics"] = hashlib.sha256(json.dumps(lines(run.folder)).encode()).hexdigest()
        best = run.folder / "best" / "policy.safetensors"
        found["best"] = hashlib.sha256(best.read_bytes()).hexdigest() if best.exists() else "none"
    return found


def finish(run: Run) -> dict[str, str]:
    """Train a run to its end, close it, and give what it came to."""
    try:
        for _ in train(run):
            pass
        return digests(run)
    finally:
        run.close()


def abandon(run: Run) -> None:
    """Let go of a run as a killed process does: nothing more is written."""
    run.vector.close()
    run.disk._lock.release()


def environment() -> dict[str, str]:
    """Of a process that finds this package and these tests' modules, wherever it stands."""
    paths = [*(path for path in sys.path if path.endswith("src")), str(TESTS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def start(*words: str, script: str | None = None, **options: Any) -> subprocess.Popen[str]:
    """The command line in a process and a session of its own; `script` runs instead, with the words as its own."""
    what = ["-m", "upright"] if script is None else ["-c", script]
    return subprocess.Popen(
        [sys.executable, *what, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
        **options,
    )


def wait_for(condition: Callable[[], Any], seconds: float = 120.0, process: subprocess.Popen[str] | None = None) -> Any:
    """Wait until something holds, with a deadline that no machine should need."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


def children(pid: int) -> list[int]:
    """The processes that a process started and that are there still."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def checkpoints(folder: Path) -> list[int]:
    """The steps of the checkpoints that have a manifest."""
    return sorted(int(path.parent.name) for path in (folder / "checkpoints").glob("*/manifest.json"))


class Disk:
    """A disk beneath a folder that forgets what was not synced, and shows what would be left at each operation.

    `watch` calls `at(number, what)` before every write, fsync, rename, mkdir and unlink of `upright.files`, and in the
    midst of every write; `leave` puts together what a crash then leaves.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[Path, dict[str, int]] = {}  # of each folder that was synced: its names, and their inodes
        self._data: dict[int, bytes] = {}  # of each file that was synced
        self.operations = 0
        for path in (root, *root.rglob("*")):  # what is there from the beginning is safe
            if path.is_dir():
                self._names[path] = {each.name: each.stat().st_ino for each in path.iterdir()}
            else:
                self._data[path.stat().st_ino] = path.read_bytes()

    @contextlib.contextmanager
    def watch(self, monkeypatch: Any, at: Callable[[int, str], None]) -> Iterator[None]:
        def before(what: str, path: Any) -> None:
            if Path(path).is_relative_to(self.root):
                self.operations += 1
                at(self.operations, f"{what} {path}")

        def wrap(name: str, of: int = 0) -> None:
            original = getattr(os, name)

            def wrapped(*given: Any, **options: Any) -> Any:
                before(name, Path(os.fspath(given[of])).absolute())
                return original(*given, **options)

            patch.setattr(os, name, wrapped)

        fsync = os.fsync

        def synced(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            before("fsync", path)
            fsync(descriptor)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                self._names[path] = {each.name: each.stat().st_ino for each in path.iterdir()}
            else:
                self._data[os.fstat(descriptor).st_ino] = path.read_bytes()

        def opened(path: Any, mode: str = "r", *words: Any, **options: Any) -> Any:
            file = builtins.open(path, mode, *words, **options)
            if set(mode) & set("wx"):
                write = file.write

                def in_parts(content: bytes) -> int:
                    before("write", path)
                    write(content[: len(content) // 2])
                    file.flush()
                    before("half of write", path)
                    return write(content[len(content) // 2 :])

                file = _Writes(file, in_parts)
            return file

        with monkeypatch.context() as patch:
            for name in ("replace", "mkdir", "unlink", "rmdir"):
                wrap(name)
            patch.setattr(os, "fsync", synced)
            patch.setattr(files, "open", opened, raising=False)
            yield

    def leave(self, to: Path, how: str, chance: random.Random) -> None:
        """What a crash leaves: of what was not synced nothing ("lost"), all ("kept"), or some ("mixed")."""
        if how == "kept":
            shutil.copytree(self.root, to)
            return
        to.mkdir(parents=True)
        self._leave(self.root, to, how, chance)

    def _leave(self, folder: Path, to: Path, how: str, chance: random.Random) -> None:
        synced = self._names.get(folder, {})
        now = {each.name: each.stat().st_ino for each in folder.iterdir()} if folder.is_dir() else {}
        # A folder's names change together: a rename within it is there or not, on every file system that is in use.
        names = now if how == "mixed" and chance.random() < 0.5 else synced
        for name, inode in sorted(names.items()):
            path = folder / name
            if path.is_dir() or path in self._names:
                (to / name).mkdir()
                self._leave(path, to / name, how, chance)
                continue
            content = self._data.get(inode, b"")
            if how == "mixed" and name in now and now[name] == inode and chance.random() < 0.5:
                content = path.read_bytes()
            (to / name).write_bytes(content)


class _Writes:
    def __init__(self, file: Any, write: Callable[[bytes], int]) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
