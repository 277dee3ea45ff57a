"""The pages, and the questions that they ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

import upright
from upright import control
from upright.dashboard.catalogue import Catalogue, FoundRun
from upright.dashboard.following import Columns
from upright.dashboard.guard import Guard, is_loopback, make_token
from upright.dashboard.playing import Player, Wish
from upright.dashboard.sampling import downsample, within
from upright.errors import RunError, SettingError, UprightError

PORT = 8765
TICK = 1.0  # seconds between looks at the files, while somebody looks on
BEAT = 15.0  # seconds of silence after which a stream says that it is still there
READ_AT_ONCE = 12 * 2**20  # bytes of metrics that one question may have read in full; of more, a sample is shown first
POINTS_AT_ONCE = 24_000  # of all series that one question is answered with
MOST_RUNS_AT_ONCE = 200
MOST_NEWS = 2_000  # rows that a stream tells of one run at once; of more, it says to ask again
MOST_BODY = 4_096  # bytes
EPISODES_KEPT = 6
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",
}


@dataclass
class Played:
    """An episode that was asked for: what came of it, once it did."""

    run: str
    moment: str
    steps: int = 0
    shown: dict[str, Any] | None = None
    pictures: list[bytes] = field(default_factory=list)
    problem: str | None = None


class Dashboard:
    """What the pages ask of: the catalogue behind a lock, who looks on, and the episodes that were played."""

    def __init__(self, root: Path, trust: bool = False) -> None:
        self.catalogue, self.trust = Catalogue(root), trust
        self.player = Player()
        self._lock = threading.Lock()
        self._refreshed = -math.inf
        self._untold: set[str] = set()
        self._played: OrderedDict[str, Played] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Queue[set[str]]] = set()
        self._to_load: OrderedDict[str, None] = OrderedDict()
        self._is_closing = False

    # What the files say ------------------------------------------------------------------------------------------

    def refresh(self, patience: float = TICK / 2) -> None:
        """Look at the files, unless that was done so recently."""
        with self._lock:
            if time.monotonic() - self._refreshed >= patience:
                self._untold |= self.catalogue.refresh()  # whoever asked for it: the streams are to hear of it too
                self._refreshed = time.monotonic()

    def changes(self) -> set[str]:
        """Look at the files; the ids of what has changed since the last call."""
        self.refresh(0.0)
        with self._lock:
            changed, self._untold = self._untold, set()
            return changed

    def table(self) -> dict[str, Any]:
        """Every run's row."""
        self.refresh()
        with self._lock:
            rows = [run.row() for run in self.catalogue.runs.values()]
            return {
                "folder": self.catalogue.root.name,
                "runs": rows,
                "cut": self.catalogue.is_cut,
                "trust": self.trust,
                "version": upright.__version__,
            }

    def rows(self, ids: Iterable[str]) -> dict[str, Any]:
        """The rows of some runs; null for those that are gone."""
        with self._lock:
            runs = self.catalogue.runs
            return {key: runs[key].row() if key in runs else None for key in ids}

    def series(
        self, ids: list[str], tags: list[str], points: int, low: float | None, high: float | None
    ) -> dict[str, Any]:
        """Steps and values of some tags of some runs, down-sampled, and what was left out."""
        self.refresh()
        with self._lock:
            runs = [self._run(key) for key in ids]
            unread = sum(run.metrics.size for run in runs if not run.metrics.is_loaded)
            most = max(60, min(points, POINTS_AT_ONCE // max(1, len(runs))))
            found: dict[str, Any] = {}
            for run in runs:
                metrics, is_exact = run.metrics, True
                if unread > READ_AT_ONCE and not metrics.is_loaded:
                    is_exact = False
                    self._to_load[run.id] = None
                else:
                    metrics.load()
                answer: dict[str, Any] = {}
                for tag in tags or metrics.tags:
                    if is_exact:
                        x, y = metrics.points(tag)
                        total = len(x)
                    else:
                        x, y, total = metrics.sampled(tag, min(most, 120))
                    part = within(x, low, high)
                    x, y = downsample(x[part], y[part], most)
                    if len(x):
                        answer[tag] = {"steps": _plain(x), "values": _plain(y), "of": total}
                found[run.id] = {
                    "cursor": list(metrics.cursor) if is_exact else None,
                    "exact": is_exact,
                    "tags": metrics.tags,
                    "series": answer,
                }
            return {"runs": found, "points": most}

    def load_next(self) -> str | None:
        """Read more of one run of which only some was shown; what is to be told of it, or None when all is read."""
        with self._lock:
            for key, run in self.catalogue.runs.items():
                if not run.metrics.is_skimmed:
                    run.metrics.skim()
                    return key
            while self._to_load:
                key, _ = self._to_load.popitem(last=False)
                if key in self.catalogue.runs and not self.catalogue.runs[key].metrics.is_loaded:
                    self.catalogue.runs[key].metrics.load()
                    return f"exact:{key}"
            return None

    def news(self, cursors: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
        """What these runs have written since, as it is; the cursors move on."""
        news: dict[str, Any] = {}
        with self._lock:
            for key, (generation, records, episodes) in list(cursors.items()):
                run = self.catalogue.runs.get(key)
                if run is None:
                    continue
                metrics = run.metrics
                metrics.load()
                now = metrics.cursor
                if now == (generation, records, episodes):
                    continue
                cursors[key] = now
                if now[0] != generation or now[1] + now[2] - records - episodes > MOST_NEWS:
                    news[key] = {"again": True}
                    continue
                series = {**_since(metrics.episodes, episodes), **_since(metrics.records, records)}
                news[key] = {"series": series, "cursor": list(now)}
        return news

    def settings(self, ids: list[str]) -> dict[str, Any]:
        """Every setting of some runs, flat, as their config.json has them."""
        self.refresh()
        with self._lock:
            return {"runs": {key: _flat(self._run(key).config) for key in ids}}

    def moments(self, key: str) -> dict[str, Any]:
        """Which policies of a run can be shown."""
        self.refresh()
        with self._lock:
            run = self._run(key)
            keep = run.config.get("keep_checkpoints")
            return {"moments": run.moments(), "keep": keep if isinstance(keep, int) else None, "row": run.row()}

    def ask(self, key: str, request: control.Request) -> dict[str, Any]:
        """Ask a run to stop or to write a checkpoint."""
        self.refresh(0.0)
        with self._lock:
            run = self._run(key)
            if run.state != "running":
                raise RunError(f"This run is {run.state}: nobody is there to {request}.")
            control.ask(run.folder, request)
        return {"asked": request}

    def _run(self, key: str) -> FoundRun:
        try:
            return self.catalogue.runs[key]
        except KeyError:
            raise HTTPException(404, "There is no such run here; it may have been removed.") from None

    # Episodes ----------------------------------------------------------------------------------------------------

    def play(self, key: str, moment: str, episode: int) -> str:
        """Begin to play an episode; the id under which it can be asked for."""
        with self._lock:
            run = self._run(key)
            if moment not in [each["moment"] for each in run.moments()]:
                raise HTTPException(404, "This moment is not kept any more; choose another.")
            wish = Wish(run.folder, moment, episode, self.trust)
        for name, played in self._played.items():  # the same again, while a run that has ended cannot change it
            is_same = (played.run, played.moment) == (key, f"{moment}/{episode}") and played.problem is None
            if is_same and moment.startswith("step-"):
                self._played.move_to_end(name)
                return name
        name = secrets.token_hex(8)
        self._played[name] = Played(key, f"{moment}/{episode}")
        while len(self._played) > EPISODES_KEPT:
            self._played.popitem(last=False)
        task = asyncio.get_running_loop().create_task(self._play(wish, self._played[name]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return name

    async def _play(self, wish: Wish, played: Played) -> None:
        def report(steps: int) -> None:
            played.steps = steps

        try:
            shown, played.pictures = await run_in_threadpool(self.player.play, wish, report)
            played.shown = shown
        except UprightError as error:
            played.problem = self.anonymous(str(error))
        except Exception as error:
            played.problem = f"The episode cannot be shown: {type(error).__name__}."

    def played(self, name: str) -> Played:
        """The episode with this id."""
        try:
            return self._played[name]
        except KeyError:
            raise HTTPException(404, "This episode is no longer kept; play it again.") from None

    def anonymous(self, text: str) -> str:
        """A sentence without this machine's folders."""
        return text.replace(str(self.catalogue.root), self.catalogue.root.name)

    # Who looks on ------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Look at the files as long as somebody looks on, and tell every stream what has changed."""
        told: set[str] = set()
        await run_in_threadpool(self.refresh)
        while True:
            loaded = await run_in_threadpool(self.load_next)
            if loaded is not None:
                told.add(loaded)
                await asyncio.sleep(0.002)  # others have their turn between two large files
                if len(told) >= 200:
                    self._tell(told)
                    told = set()
                continue
            if told:
                self._tell(told)
                told = set()
            await asyncio.sleep(TICK)
            if self._streams:
                changed = await run_in_threadpool(self.changes)
                if changed:
                    self._tell(changed)

    def _tell(self, changed: set[str]) -> None:
        for stream in self._streams:
            if stream.qsize() < 50:  # a page that does not listen finds out when it asks
                stream.put_nowait(changed)

    async def stream(self, cursors: dict[str, tuple[int, int, int]]) -> AsyncIterator[str]:
        """Server-sent events: rows that have changed, and what the runs of `cursors` wrote."""
        stream: asyncio.Queue[set[str]] = asyncio.Queue()
        self._streams.add(stream)
        try:
            yield "retry: 2000\n\n"
            news = await run_in_threadpool(self.news, cursors)
            if news:
                yield _event("points", news)
            while not self._is_closing:
                try:
                    changed = await asyncio.wait_for(stream.get(), BEAT)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                exact = {each.removeprefix("exact:") for each in changed if each.startswith("exact:")}
                if exact:
                    yield _event("exact", sorted(exact))
                rows = [each for each in changed if not each.startswith("exact:")]
                if rows:
                    yield _event("rows", await run_in_threadpool(self.rows, rows))
                if cursors.keys() & changed:
                    news = await run_in_threadpool(self.news, cursors)
                    if news:
                        yield _event("points", news)
        finally:
            self._streams.discard(stream)

    def close(self) -> None:
        """Let go of whoever looks on, and end the worker."""
        self._is_closing = True
        self._tell(set())
        self.player.close()


def make_app(dashboard: Dashboard, token: str, cookie: str = "upright", allow_remote: bool = False) -> ASGIApp:
    """The application, with the guard before it."""
    files = _static_files()
    preparing: set[asyncio.Task[None]] = set()

    def page(name: str) -> Callable[[Request], Awaitable[Response]]:
        content, kind = files[name]

        async def answer(request: Request) -> Response:
            return Response(content, media_type=kind)

        return answer

    async def table(request: Request) -> Response:
        return _json(await run_in_threadpool(dashboard.table))

    async def series(request: Request) -> Response:
        query = request.query_params
        tags = [tag for tag in query.get("tags", "").split(",") if tag][:64]
        points = int(_real(query.get("points"), 600.0) or 600)
        low, high = _real(query.get("from"), None), _real(query.get("to"), None)
        found = await run_in_threadpool(dashboard.series, _ids(query), tags, max(10, min(points, 5_000)), low, high)
        return _json(found)

    async def settings(request: Request) -> Response:
        return _json(await run_in_threadpool(dashboard.settings, _ids(request.query_params)))

    async def moments(request: Request) -> Response:
        prepared = asyncio.create_task(run_in_threadpool(dashboard.player.prepare))
        preparing.add(prepared)
        prepared.add_done_callback(preparing.discard)
        return _json(await run_in_threadpool(dashboard.moments, _id(request.query_params.get("run"))))

    async def events(request: Request) -> Response:
        cursors = {}
        for each in request.query_params.get("runs", "").split(",")[:MOST_RUNS_AT_ONCE]:
            match = re.fullmatch(r"([0-9a-f]{16})\.(\d{1,9})\.(\d{1,12})\.(\d{1,12})", each, re.ASCII)
            if match:
                cursors[match[1]] = (int(match[2]), int(match[3]), int(match[4]))
        return StreamingResponse(dashboard.stream(cursors), media_type="text/event-stream")

    async def play(request: Request) -> Response:
        body = await _body(request)
        moment, episode = body.get("moment"), body.get("episode", 0)
        if not isinstance(moment, str) or isinstance(episode, bool) or not isinstance(episode, int):
            raise HTTPException(400, "An episode is asked for by run, moment and episode.")
        if not 0 <= episode < 10**6:
            raise HTTPException(400, "episode has to be in [0, 1000000).")
        return _json({"episode": dashboard.play(_id(body.get("run")), moment, episode)})

    async def episode(request: Request) -> Response:
        played = dashboard.played(request.path_params["name"])
        state = "failed" if played.problem else "done" if played.shown is not None else "playing"
        return _json({"state": state, "steps": played.steps, "problem": played.problem, "shown": played.shown})

    async def pictures(request: Request) -> Response:
        content = b"".join(dashboard.played(request.path_params["name"]).pictures)
        return Response(content, media_type="application/octet-stream")

    async def ask(request: Request) -> Response:
        body = await _body(request)
        wanted: Any = body.get("request")
        if wanted not in get_args(control.Request):
            raise HTTPException(400, f"request has to be one of {', '.join(get_args(control.Request))}.")
        return _json(await run_in_threadpool(dashboard.ask, _id(body.get("run")), wanted))

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        return JSONResponse({"error": dashboard.anonymous(str(error))}, 409)

    async def gone(request: Request, error: Exception) -> Response:
        return PlainTextResponse("", 400)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(dashboard.follow())
        try:
            yield
        finally:
            following.cancel()
            dashboard.close()

    routes = [
        Route("/", page("index.html")),
        *[Route(f"/{name}", page(name)) for name in files],
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
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, token, cookie, allow_remote)


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

    port: None takes PORT, or a free one where that is taken · stop: asked every second whether to end
    Raises SettingError for a host that others can reach, unless they are allowed to.
    """
    if not is_loopback(host) and not allow_remote:
        raise SettingError(
            f"--host {host} lets other machines in, over a connection that anybody between can read: whoever gets the "
            "link sees every run and can stop training; add --allow-remote if that is meant, or keep 127.0.0.1 and "
            f"reach it through ssh -L {port or PORT}:127.0.0.1:{port or PORT}."
        )
    if not root.is_dir():
        raise SettingError(f"{root} is no folder; train something first, or name the folder that holds the runs.")
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    token = make_token()
    dashboard = Dashboard(root, trust)
    app = make_app(dashboard, token, f"upright-{port}", allow_remote)
    settings = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, ws="none", http="h11", loop="asyncio",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    shown = host if not is_loopback(host) or ":" in host else "127.0.0.1"
    shown = socket.gethostname() if shown in ("0.0.0.0", "::") else f"[{shown}]" if ":" in shown else shown
    say(f"Dashboard: http://{shown}:{port}/?token={token}")
    if not is_loopback(host):
        say("Other machines can reach it: whoever has this link sees every run here and can stop training.")

    async def watched() -> None:
        serving = asyncio.create_task(server.serve([listening]))
        while stop is not None and not serving.done():
            if stop():
                server.should_exit = True
                dashboard.close()
                break
            await asyncio.sleep(0.5)
        await serving

    try:
        asyncio.run(watched())
    finally:
        dashboard.close()
        listening.close()


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for attempt in (PORT, 0) if port is None else (port,):
        listening = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, attempt))
            listening.listen(128)  # whoever follows the link at once waits until it is served
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


def _event(name: str, value: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(value, allow_nan=False, separators=(',', ':'))}\n\n"


def _plain(numbers: np.ndarray) -> list[float]:
    """As JSON takes them: whole ones short, others with ten digits of the largest."""
    if not len(numbers):
        return []
    largest = float(np.abs(numbers).max())
    if largest < 2**53 and np.all(numbers == np.floor(numbers)):
        whole: list[float] = numbers.astype(np.int64).tolist()
        return whole
    digits = 10 - math.floor(math.log10(largest)) if largest else 0
    rounded: list[float] = (np.round(numbers, digits) if 0 <= digits < 300 else numbers).tolist()
    return rounded


def _since(columns: Columns, row: int) -> dict[str, Any]:
    found = {}
    for tag in columns.values:
        x, y = columns.points(tag, row)
        if len(x):
            found[tag] = {"steps": _plain(x), "values": _plain(y)}
    return found


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as name.of.one → its value as text."""
    flat: dict[str, str] = {}
    for name, value in list(settings.items())[:500]:
        if isinstance(value, Mapping) and value and prefix.count(".") < 3:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"[:200]] = json.dumps(value, ensure_ascii=False)[:500]
    return flat


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
