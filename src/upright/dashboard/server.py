"""A socket that the pages are served from, until Ctrl-C or until the run beside which they are served ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import uvicorn

from upright.dashboard.answers import Answers
from upright.dashboard.app import make_app
from upright.dashboard.episodes import Episodes
from upright.dashboard.guard import is_loopback, make_token
from upright.dashboard.streams import Streams
from upright.errors import SettingError, UprightError

PORT = 8765


def serve(
    root: Path,
    host: str = "127.0.0.1",
    port: int | None = None,
    allow_remote: bool = False,
    trust: bool = False,
    say: Callable[[str], None] = print,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Serve the runs below a folder until Ctrl-C; `say` is given the link.

    port: None takes PORT, or a free one where that is taken · stop: asked again and again whether to end
    Raises SettingError for a host that others can reach, unless they are allowed to.
    """
    if not is_loopback(host) and not allow_remote:
        raise SettingError(
            f"--host {host} lets other machines in, over a connection that anybody between can read: anyone who gets "
            "the link sees every run and can stop training; add --allow-remote if that is meant, or keep 127.0.0.1 and "
            f"reach it through ssh -L {port or PORT}:127.0.0.1:{port or PORT}."
        )
    if not root.is_dir():
        raise SettingError(f"{root} is not a folder; train something first, or name the folder that holds the runs.")
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    token = make_token()
    answers = Answers(root, trust)
    streams = Streams(answers)
    app = make_app(answers, Episodes(answers), streams, token, f"upright-{port}", allow_remote)
    settings = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, ws="none", http="h11", loop="asyncio",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    shown = host if not is_loopback(host) or ":" in host else "127.0.0.1"
    shown = socket.gethostname() if shown in ("0.0.0.0", "::") else f"[{shown}]" if ":" in shown else shown
    say(f"Dashboard: http://{shown}:{port}/?token={token}")
    if not is_loopback(host):
        say("Other machines can reach it: anyone who has this link sees every run here and can stop training.")

    async def watched() -> None:
        serving = asyncio.create_task(server.serve([listening]))
        while not (serving.done() or server.should_exit):
            server.should_exit = stop is not None and stop()
            await asyncio.sleep(0.25)
        streams.close()  # or the server would wait for them
        await serving

    try:
        asyncio.run(watched())
    finally:
        listening.close()


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for attempt in (PORT, 0) if port is None else (port,):
        listening = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, attempt))
            listening.listen(128)  # a browser that follows the link at once waits until it is served
        except OSError as error:
            listening.close()
            if port is None and attempt:
                continue
            raise SettingError(
                f"{host}:{attempt} cannot be served: {error.strerror or error}; choose another --port."
            ) from error
        except OverflowError as error:
            listening.close()
            raise SettingError(f"port is {attempt}, but it has to be in [0, 65535].") from error
        return listening
    raise AssertionError("a free port is always tried")


def main() -> None:
    """Serve beside a run: settings come as one line of JSON, the link goes back; when the pipe closes, it ends."""
    settings = json.loads(sys.stdin.readline())
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)
    try:
        serve(
            Path(settings["root"]), trust=settings["trust"], say=lambda text: print(text, flush=True), stop=ended.is_set
        )
    except UprightError as error:
        print(error, flush=True)
