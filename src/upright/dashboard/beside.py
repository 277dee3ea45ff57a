"""A dashboard beside a run: a process of its own, which ends with the one that trains."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from upright.errors import MissingExtra

NEEDED = ("PIL", "starlette", "uvicorn")


def check_installed() -> None:
    """Raises MissingExtra where the dashboard's packages are not there."""
    if not all(importlib.util.find_spec(name) for name in NEEDED):
        raise MissingExtra("The dashboard's packages are not installed: pip install 'upright[dashboard]'")


def if_asked(asked: bool, folder: Path, trust: bool, console: Any) -> contextlib.AbstractContextManager[None]:
    """The dashboard while a run trains, if it was asked for; its link is said even with --quiet."""
    if not asked:
        return contextlib.nullcontext()
    from upright.views.terminal import print_plainly

    check_installed()
    return dashboard(folder, trust, functools.partial(print_plainly, console))


@contextlib.contextmanager
def dashboard(folder: Path, trust: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Serve the runs around this run's folder within the block; `say` is given the link."""
    runs = Path("runs").resolve()
    root = runs if folder.resolve().is_relative_to(runs) else folder.resolve().parent
    root.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "upright.dashboard"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for the run, which ends the dashboard when it has saved all
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps({"root": str(root), "trust": trust}) + "\n")
        process.stdin.flush()
        say(process.stdout.readline().strip() or "The dashboard did not start; training continues without it.")
        yield
        say(f"The dashboard ends with the run; see it again with: upright dashboard {root}")
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
