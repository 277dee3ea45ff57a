"""Contact between a run and other processes, through two small files in the run's folder: no lock, no port.

running.json    who trains here, as long as somebody does; a process that is killed leaves it behind
request.json    "checkpoint" or "stop", which `train` answers at its next report and removes
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import Literal, cast, get_args

from upright import files
from upright.errors import RunError
from upright.messages import logger
from upright.runs.folders import RunFolder

Request = Literal["checkpoint", "stop"]


def announce(folder: RunFolder) -> None:
    """Record that this process trains here, and forget what was asked of an earlier one."""
    files.remove(folder.request)
    marker = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    with contextlib.suppress(RunError):  # a full disk is reported where something that matters is written
        files.write(folder.marker, json.dumps(marker).encode())


def withdraw(folder: RunFolder) -> None:
    """Record that nobody trains here any more."""
    files.remove(folder.marker)


def ask(folder: RunFolder, request: Request) -> None:
    """Leave a request for the process that trains here. Raises RunError when it cannot be written."""
    files.write(folder.request, json.dumps({"request": request}).encode())


def take_request(folder: RunFolder) -> Request | None:
    """Return what was asked of the run in this folder since the last call, and forget it."""
    if not os.path.lexists(folder.request):
        return None
    try:
        request = files.read_json(folder.request).get("request")
    except (RunError, OSError):
        request = None
    files.remove(folder.request)
    if request not in get_args(Request):
        logger.warning(f"{folder.request} asks for nothing that a run can do; it was removed.")
        return None
    return cast(Request, request)
