"""Files that are whole or not there, and that are read without trusting what they say.

Everything that a run keeps is written through `write` (but for metrics.jsonl, which grows) and read through `read`,
`read_json` and `read_tensors`. Nothing here executes what it reads, and no link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from upright.errors import RunError
from upright.replay.ring import available_bytes

LARGEST_JSON = 64 * 2**20  # bytes; a manifest that names 100,000 segments is smaller


def write(path: Path, content: bytes) -> None:
    """Write a file under another name, on to the disk, and rename it: no reader, and no crash, leaves half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        make_folder(path.parent)
        with open(temporary, "wb") as file:
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


def read(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file. Raises RunError for a link, a folder, a device, or more bytes than the limit."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing.") from error
    except OSError as error:
        why = "is a link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise RunError(f"{path} {why}.") from error
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise RunError(f"{path} is no file.")
        available = available_bytes()
        if available is not None and about.st_size > available:
            limit = available if limit is None else min(limit, available)
        if limit is not None and about.st_size > limit:
            raise RunError(f"{path} has {about.st_size:,} bytes, more than the {limit:,} that it may have.")
        try:
            return file.read()
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}.") from error


def digest(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises RunError for what is none, for a key that stands twice, and for NaN."""
    content = read(path, LARGEST_JSON)
    try:
        value = json.loads(content, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {str(error) or type(error).__name__}.") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: it holds no object.")
    return value


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as JSON with its own digest, by which `read_sealed` finds every change."""
    try:
        content = _sealed(value)
    except (TypeError, ValueError) as error:
        raise RunError(f"A setting cannot be written as JSON: {error}.") from error
    write(path, content)


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises RunError when one bit of the file is another."""
    value = read_json(path)
    value.pop("sha256", None)
    try:
        whole = _sealed(value) == read(path, LARGEST_JSON)
    except ValueError:  # a number too large for JSON, such as 1e999
        whole = False
    if not whole:
        raise RunError(f"{path} is damaged: its digest does not fit.")
    return value


def _sealed(value: Mapping[str, Any]) -> bytes:
    body = json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False)
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

    try:
        return load(read(path) if content is None else content)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise RunError(f"{path} is damaged: {error}.") from error


def lock(folder: Path) -> filelock.BaseFileLock:
    """Hold a folder for this process alone. The system lets go of it when the process ends, however it does."""
    held = filelock.FileLock(folder / "lock")
    try:
        held.acquire(timeout=0)
    except filelock.Timeout as error:
        raise RunError(f"{folder} is in use: another process trains there; wait for it or stop it.") from error
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}; choose another folder (--out).") from error
    return held
