"""What another process may know of a run and ask of it, by two small files in the run's folder: no lock, no port.

running.json    who trains here, as long as somebody does; a process that is killed leaves it behind
request.json    "checkpoint" or "stop", which `train` answers at its next report and takes away
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from upright import files
from upright.errors import RunError
from upright.messages import logger

if TYPE_CHECKING:
    from upright.runs.run import Run

MARKER, REQUEST = "running.json", "request.json"

Request = Literal["checkpoint", "stop"]


def announce(folder: Path) -> None:
    """Say that this process trains here. What was asked of an earlier one is forgotten."""
    files.remove(folder / REQUEST)
    marker = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    with contextlib.suppress(RunError):  # a full disk is said by whoever writes what matters
        files.write(folder / MARKER, json.dumps(marker).encode())


def withdraw(folder: Path) -> None:
    """Say that nobody trains here any more."""
    files.remove(folder / MARKER)


def ask(folder: Path, request: Request) -> None:
    """Leave a request for the process that trains here. Raises RunError when it cannot be written."""
    files.write(folder / REQUEST, json.dumps({"request": request}).encode())


def answer(run: Run) -> None:
    """Do what was asked of a run since its last report, if anything was. Called where a step is complete."""
    if run.folder is None or not os.path.lexists(run.folder / REQUEST):
        return
    try:
        request = files.read_json(run.folder / REQUEST).get("request")
    except (RunError, OSError):
        request = None
    files.remove(run.folder / REQUEST)
    if request not in get_args(Request):
        logger.warning(f"{run.folder / REQUEST} asks for nothing that a run can do; it was removed.")
        return
    logger.info(f"Asked to {request} at step {run.step:,}.")
    run.stopping = run.stopping or request == "stop"
    run.checkpoint()
