"""Files that are whole or not there, and that are read without trusting what they say.

Everything that a run keeps is written through `write` (but for metrics.jsonl, which grows) and read through `read`,
`read_json` and `read_tensors`. Nothing here executes what it reads, and no link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeGuard

import filelock
import numpy as np

from upright.errors import FolderInUse, RunError, wrong
from upright.machine import available_bytes

LOCK = "lock"  # the name of the file by which a process holds a folder
LARGEST_JSON = 32 * 2**20  # bytes; a manifest that names 100,000 segments is smaller
LARGEST_HEADER = 8 * 2**20  # bytes of names and shapes in a safetensors file; those of 50,000 tensors are fewer
_SEAL = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n')


def as_path(given: Any, what: str = "folder") -> Path:
    """The path that a user gave. Raises SettingError for what is none."""
    if not isinstance(given, (str, os.PathLike)) or "\0" in str(given):
        raise wrong(what, given, "a path, as text or as a pathlib.Path")
    return Path(given)


def write(path: Path, content: bytes) -> None:
    """Write a file under another name, on to the disk, and rename it: no reader, and no crash, leaves half of it."""
    temporary = _beside(path)
    try:
        make_folder(path.parent)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - os.* alone, so that a test can stand between this and the disk
        _sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}; choose another folder (--out).") from error
    finally:
        with contextlib.suppress(OSError):  # where it took its place, it is no longer there
            os.unlink(temporary)  # noqa: PTH108


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file for what is too large to be kept in memory: it takes its name when the block ends, if it ends well."""
    temporary = _beside(path)
    try:
        make_folder(path.parent)
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}; choose another place.") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108


def _beside(path: Path) -> Path:
    """A name that no other process has, on whichever machine, and that nobody can have laid a link under."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def rename(path: Path, to: Path) -> None:
    """Let a file that is on the disk take the place of another."""
    try:
        os.replace(path, to)  # noqa: PTH105
        _sync_folder(to.parent)
    except OSError as error:
        raise RunError(f"{to} cannot be written: {error.strerror}.") from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each name on to the disk: no file in it is safer than the way to it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # another process may be making the same experiment
        os.mkdir(folder)  # noqa: PTH102
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on to the disk."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there; a link is removed itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedReader, int]]:
    """Open a regular file; yield it and its size. Raises RunError for a link, a folder, a device, and while reading."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing.") from error
    except OSError as error:
        why = "is a link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise RunError(f"{path} {why}.") from error
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise RunError(f"{path} is not a regular file.")
        with open(descriptor, "rb", closefd=False) as file:
            yield file, about.st_size
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from error
    except MemoryError as error:
        raise RunError(f"{path} needs more memory than there is.") from error
    finally:
        os.close(descriptor)


def read(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file. Raises RunError for a link, a folder, a device, or more bytes than the limit."""
    with _opened(path) as (file, size):
        available = available_bytes()
        # Three times: the bytes, the arrays made of them, and who these are loaded into.
        if available is not None and 3 * size > available:
            limit = available // 3 if limit is None else min(limit, available // 3)
        if limit is not None and size > limit:
            raise RunError(f"{path} has {size:,} bytes, more than the {limit:,} that it may have.")
        return file.read(size)


def read_from(path: Path, first: int) -> tuple[int, bytes]:
    """Return where reading began and the content from there: from `first`, or from 0 if the file is now shorter."""
    with _opened(path) as (file, size):
        first = first if first <= size else 0
        file.seek(first)
        return first, file.read()


def size_and_digest(path: Path) -> tuple[int, str]:
    """Return the size and the SHA-256 of a regular file without keeping it in memory. Raises as `read` does."""
    with _opened(path) as (file, size):
        return size, hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises RunError for what is none, for a key that stands twice, and for NaN."""
    return _parsed(path, read(path, LARGEST_JSON))


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {str(error) or type(error).__name__}.") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: it holds no object.")
    return value


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as JSON with its own digest, by which `read_sealed` finds every change."""
    write(path, _sealed(value))


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what `write_sealed` wrote. Raises RunError when a bit of the file has changed."""
    content = read(path, LARGEST_JSON)
    value = _parsed(path, content)
    value.pop("sha256", None)
    # Of the bytes as they stand: to write a hostile value again would take minutes and gigabytes.
    end = max(0, content.rfind(b',\n "sha256": '))
    seal = _SEAL.fullmatch(content, end)
    if seal is None or seal[1] != digest(content[:end] + b"\n}").encode():
        raise RunError(f"{path} is damaged: its digest does not fit.")
    return value


def _sealed(value: Mapping[str, Any]) -> bytes:
    try:
        body = json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(f"A setting cannot be written as JSON: {error}.") from error
    return json.dumps({**value, "sha256": digest(body.encode())}, indent=1).encode() + b"\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def tensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name as the content of a safetensors file."""
    from safetensors.numpy import save

    return save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def read_tensors(path: Path, content: bytes | None = None) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file, or in its content where that was read already. Raises RunError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = read(path) if content is None else content
    header = int.from_bytes(content[:8], "little")
    if header > LARGEST_HEADER:
        raise RunError(f"{path} is damaged: its header has {header:,} bytes, more than {LARGEST_HEADER:,}.")
    try:
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise RunError(f"{path} is damaged: {error}.") from error
    for name, array in arrays.items():
        if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():  # neither true nor false, to NumPy and to C++
            raise RunError(f"{path} is damaged: {name!r} holds what is neither true nor false.")
    return arrays


def refuse_link(path: Path) -> None:
    """Raise RunError where a run's own folder or file is a link."""
    if path.is_symlink():
        raise RunError(f"{path} is a link, which is not followed out of a run's folder; remove it.")


def lock(folder: Path, patience: float = 0.0) -> filelock.BaseFileLock:
    """Hold a folder for this process alone. The system releases it when the process ends, however it ends.

    patience: seconds to wait for another process to release it
    """
    path = folder / LOCK
    held = filelock.FileLock(path, thread_local=False)  # whichever thread closes the run
    try:
        # Locking empties the file, which therefore must not be another's by a link.
        if os.path.lexists(path) and not is_own_file(path.lstat()):
            raise RunError(f"{path} is a link or no file; remove it.")
        held.acquire(timeout=patience)
    except filelock.Timeout as error:
        raise FolderInUse(f"{folder} is in use: another process trains there; wait for it or stop it.") from error
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}; choose another folder (--out).") from error
    return held


def is_own_file(about: os.stat_result) -> bool:
    """True if this is a regular file with one name only, so that writing to it changes nothing elsewhere."""
    return stat.S_ISREG(about.st_mode) and about.st_nlink <= 1


def is_number(value: Any) -> TypeGuard[float]:
    """Return True for a finite number, as a value out of a JSON file has to be where one is expected."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False
