"""The pages, and what they may ask: each question is read strictly, then answered by the modules beside this one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from upright.dashboard.answers import Answers
from upright.dashboard.episodes import Episodes
from upright.dashboard.guard import Guard
from upright.dashboard.streams import Streams
from upright.errors import UprightError
from upright.runs import control

MOST_RUNS_AT_ONCE = 200
MOST_BODY = 4_096  # bytes
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",
}


def make_app(
    answers: Answers, episodes: Episodes, streams: Streams, token: str, cookie: str, allow_remote: bool = False
) -> ASGIApp:
    """Return the application, with the guard before it."""
    files = _static_files()
    routes = [
        Route("/", _page(*files["index.html"])),
        *[Route(f"/{name}", _page(content, kind)) for name, (content, kind) in files.items()],
        Route("/api/runs", table),
        Route("/api/series", series),
        Route("/api/settings", settings),
        Route("/api/moments", moments),
        Route("/api/events", events),
        Route("/api/episodes", play, methods=["POST"]),
        Route("/api/episodes/{name}", episode),
        Route("/api/episodes/{name}/pictures", pictures),
        Route("/api/control", ask, methods=["POST"]),
    ]
    handlers: Mapping[Any, Any] = {
        HTTPException: refused,
        UprightError: refused,
        OSError: refused,
        ClientDisconnect: gone,
    }
    app = Starlette(routes=routes, lifespan=_lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    app.state.answers, app.state.episodes, app.state.streams = answers, episodes, streams
    return Guard(app, token, cookie, allow_remote)


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    following = asyncio.create_task(app.state.streams.follow())
    try:
        yield
    finally:
        following.cancel()
        app.state.streams.close()
        app.state.episodes.close()


def _page(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        return Response(content, media_type=kind)

    return page


def _answers(request: Request) -> Answers:
    answers: Answers = request.app.state.answers
    return answers


def _episodes(request: Request) -> Episodes:
    episodes: Episodes = request.app.state.episodes
    return episodes


async def table(request: Request) -> Response:
    """Every run's row."""
    return _json(await run_in_threadpool(_answers(request).table))


async def series(request: Request) -> Response:
    """Steps and values of some tags of some runs."""
    query = request.query_params
    tags = [tag for tag in query.get("tags", "").split(",") if tag][:64]
    points = int(_real(query.get("points"), 600.0) or 600)
    low, high = _real(query.get("from"), None), _real(query.get("to"), None)
    points = max(10, min(points, 5_000))
    return _json(await run_in_threadpool(_answers(request).series, _ids(query), tags, points, low, high))


async def settings(request: Request) -> Response:
    """The settings of some runs."""
    return _json(await run_in_threadpool(_answers(request).settings, _ids(request.query_params)))


async def moments(request: Request) -> Response:
    """The policies of a run that can be shown."""
    _episodes(request).prepare()
    return _json(await run_in_threadpool(_answers(request).moments, _id(request.query_params.get("run"))))


async def events(request: Request) -> Response:
    """Stream what changes, until the page is closed."""
    cursors = {}
    for run in request.query_params.get("runs", "").split(",")[:MOST_RUNS_AT_ONCE]:
        match = re.fullmatch(r"([0-9a-f]{16})\.(\d{1,9})\.(\d{1,12})\.(\d{1,12})", run, re.ASCII)
        if match:
            cursors[match[1]] = (int(match[2]), int(match[3]), int(match[4]))
    return StreamingResponse(request.app.state.streams.stream(cursors), media_type="text/event-stream")


async def play(request: Request) -> Response:
    """Begin to play an episode, and answer with its name."""
    body = await _body(request)
    moment, number = body.get("moment"), body.get("episode", 0)
    if not isinstance(moment, str) or isinstance(number, bool) or not isinstance(number, int):
        raise HTTPException(400, "An episode is asked for by run, moment and episode.")
    if not 0 <= number < 10**6:
        raise HTTPException(400, "episode has to be in [0, 1000000).")
    return _json({"episode": await _episodes(request).play(_id(body.get("run")), moment, number)})


async def episode(request: Request) -> Response:
    """Return the progress of an episode and, once it has ended, what happened in it."""
    played = _episodes(request).get(request.path_params["name"])
    about = {"state": played.state, "steps": played.steps, "problem": played.problem, "shown": played.shown}
    return _json(about)


async def pictures(request: Request) -> Response:
    """The pictures of an episode, one after the other."""
    content = b"".join(_episodes(request).get(request.path_params["name"]).pictures)
    return Response(content, media_type="application/octet-stream")


async def ask(request: Request) -> Response:
    """Ask a run for a checkpoint, or to stop."""
    body = await _body(request)
    wanted: Any = body.get("request")
    if wanted not in get_args(control.Request):
        raise HTTPException(400, f"request has to be one of {', '.join(get_args(control.Request))}.")
    return _json(await run_in_threadpool(_answers(request).ask, _id(body.get("run")), wanted))


async def refused(request: Request, error: Exception) -> Response:
    """Why a question is not answered."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    return JSONResponse({"error": _answers(request).anonymous(str(error))}, 409)


async def gone(request: Request, error: Exception) -> Response:
    """Nothing, for a client that hung up."""
    return PlainTextResponse("", 400)


def _static_files() -> dict[str, tuple[bytes, str]]:
    """Every file that the browser gets, by its path: nothing else can be asked for, whatever a request says."""
    found: dict[str, tuple[bytes, str]] = {}

    def collect(folder: Any, prefix: str) -> None:
        for each in folder.iterdir():
            if each.is_dir():
                collect(each, f"{prefix}{each.name}/")
            elif Path(each.name).suffix in KINDS:
                found[prefix + each.name] = (each.read_bytes(), KINDS[Path(each.name).suffix])

    collect(resources.files("upright.dashboard") / "static", "")
    return found


def _id(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{16}", value):
        raise HTTPException(404, "There is no such run here.")
    return value


def _ids(query: Any) -> list[str]:
    ids = list(dict.fromkeys(_id(each) for each in query.get("runs", "").split(",") if each))
    if not 1 <= len(ids) <= MOST_RUNS_AT_ONCE:
        raise HTTPException(400, f"Ask for 1 to {MOST_RUNS_AT_ONCE} runs at once.")
    return ids


def _real(text: str | None, default: float | None) -> float | None:
    if text is None or text == "":
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e15:
        raise HTTPException(400, "A number in the question is none.")
    return value


async def _body(request: Request) -> dict[str, Any]:
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MOST_BODY:
            raise HTTPException(413, "The question is too long.")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise HTTPException(400, "The question has to be a JSON object.")
    return value


def _json(value: Any) -> Response:
    content = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return Response(content, media_type="application/json")
