"""The episodes that were asked for: each is played once, and kept while few others are."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from upright.dashboard.answers import Answers
from upright.dashboard.player import Player, Wish
from upright.errors import UprightError

EPISODES_KEPT = 6


@dataclass
class Played:
    """An episode, and what came of it once it ended."""

    wish: Wish
    steps: int = 0
    shown: dict[str, Any] | None = None
    pictures: list[bytes] = field(default_factory=list)
    problem: str | None = None

    @property
    def state(self) -> Literal["playing", "done", "failed"]:
        """The state of the episode."""
        return "failed" if self.problem else "playing" if self.shown is None else "done"


class Episodes:
    """Episodes by random ids; called from the server's event loop."""

    def __init__(self, answers: Answers) -> None:
        self.player = Player()
        self._answers = answers
        self._played: OrderedDict[str, Played] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def prepare(self) -> None:
        """Start the player's worker: somebody looks at what can be played."""
        self._begin(run_in_threadpool(self.player.prepare))

    async def play(self, key: str, moment: str, episode: int) -> str:
        """Begin to play an episode; the id under which it can be asked for."""
        wish = await run_in_threadpool(self._answers.wish, key, moment, episode)
        for name, played in self._played.items():
            # A checkpoint does not change, so neither does what its policy does.
            if played.wish == wish and played.state != "failed" and moment.startswith("step-"):
                self._played.move_to_end(name)
                return name
        name = secrets.token_hex(8)
        self._played[name] = Played(wish)
        while len(self._played) > EPISODES_KEPT:
            self._played.popitem(last=False)
        self._begin(self._play(self._played[name]))
        return name

    def get(self, name: str) -> Played:
        """The episode with this id."""
        try:
            return self._played[name]
        except KeyError:
            raise HTTPException(404, "This episode is no longer kept; play it again.") from None

    def close(self) -> None:
        """End the player's worker."""
        self.player.close()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # or it may be collected before it is done
        task.add_done_callback(self._tasks.discard)

    async def _play(self, played: Played) -> None:
        def report(steps: int) -> None:
            played.steps = steps

        try:
            shown, played.pictures = await run_in_threadpool(self.player.play, played.wish, report)
            played.shown = shown
        except UprightError as error:
            played.problem = self._answers.anonymous(str(error))
        except Exception as error:
            played.problem = f"The episode cannot be shown: {type(error).__name__}."
