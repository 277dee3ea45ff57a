"""Server-sent events: what changes in the files, told to every page that looks on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool

from upright.dashboard.answers import Answers

TICK = 1.0  # seconds between looks at the files, while somebody looks on
BEAT = 15.0  # seconds of silence after which a stream says that it is still there
MOST_UNTOLD = 50  # changes that wait for a page that does not listen: it finds out when it asks
TOLD_AT_ONCE = 200  # runs that were read in full


class Streams:
    """The streams that are open; one look at the files serves them all."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._open: set[asyncio.Queue[set[str]]] = set()
        self._is_closing = False

    async def follow(self) -> None:
        """Look at the files as long as somebody looks on, and tell every stream what has changed."""
        told: set[str] = set()
        await run_in_threadpool(self._answers.refresh)
        while True:
            loaded = await run_in_threadpool(self._answers.load_next)
            if loaded is not None:
                told.add(loaded)
                await asyncio.sleep(0.002)  # others have their turn between two large files
            if told and (loaded is None or len(told) >= TOLD_AT_ONCE):
                self._tell(told)
                told = set()
            if loaded is not None:
                continue
            await asyncio.sleep(TICK)
            if self._open and (changed := await run_in_threadpool(self._answers.changes)):
                self._tell(changed)

    async def stream(self, cursors: dict[str, tuple[int, int, int]]) -> AsyncIterator[str]:
        """Rows that have changed, and what the runs of `cursors` wrote since."""
        waiting: asyncio.Queue[set[str]] = asyncio.Queue()
        self._open.add(waiting)
        try:
            yield "retry: 2000\n\n"
            news = await run_in_threadpool(self._answers.news, cursors)
            if news:
                yield _event("points", news)
            while not self._is_closing:
                try:
                    changed = await asyncio.wait_for(waiting.get(), BEAT)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                exact = {each.removeprefix("exact:") for each in changed if each.startswith("exact:")}
                if exact:
                    yield _event("exact", sorted(exact))
                rows = [each for each in changed if not each.startswith("exact:")]
                if rows:
                    yield _event("rows", await run_in_threadpool(self._answers.rows, rows))
                if cursors.keys() & changed:
                    news = await run_in_threadpool(self._answers.news, cursors)
                    if news:
                        yield _event("points", news)
        finally:
            self._open.discard(waiting)

    def close(self) -> None:
        """End every stream."""
        self._is_closing = True
        self._tell(set())

    def _tell(self, changed: set[str]) -> None:
        for waiting in self._open:
            if waiting.qsize() < MOST_UNTOLD:
                waiting.put_nowait(changed)


def _event(name: str, value: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(value, allow_nan=False, separators=(',', ':'))}\n\n"
