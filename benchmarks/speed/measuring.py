"""The measuring of a row: each of its sides in a process of its own, in turn, round by round."""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.speed.machine import quietest_core
from benchmarks.speed.report import rounded, summary
from benchmarks.speed.rows import Row

NOT_INSTALLED = "not installed: pip install 'upright[bench]'"
PEERS = {"stable_baselines3", "sbx", "tianshou"}  # modules without which a peer is not installed


class Side:
    """One side of a row, at work in a process of its own.

    reason: why it cannot be measured; empty if it can · remark: its last remark about itself
    computed, passed: seconds in which it had the core, and all of them, so far
    """

    def __init__(self, name: str, arguments: tuple[Any, ...], core: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, arguments, core), daemon=True)
        self._process.start()
        theirs.close()
        self.remark = ""
        self.computed = self.passed = 0.0
        self.reason: str = self._receive()

    def work(self, count: int) -> float:
        """Do so many units of work: the seconds that they took."""
        self._connection.send(count)
        seconds, computed, passed, self.remark = self._receive()
        self.computed, self.passed = self.computed + computed, self.passed + passed
        return float(seconds)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError("broke off; its traceback is above") from None


def _serve(connection: Connection, name: str, arguments: tuple[Any, ...], core: int | None) -> None:
    """Make ready, then work whenever asked: the process of a side."""
    if core is not None:  # before anything is imported that looks how many cores there are
        os.sched_setaffinity(0, {core})
    module, function = name.split(".")
    try:
        work = getattr(importlib.import_module(f"benchmarks.speed.{module}"), function)(*arguments)
    except Exception as error:
        missing = (getattr(error, "name", None) or "").partition(".")[0]
        connection.send(NOT_INSTALLED if missing in PEERS else f"{error}".splitlines()[0])
        return
    connection.send("")
    while True:
        count = connection.recv()
        started, computed = time.perf_counter(), _computed()
        said = work(count)
        passed, computed = time.perf_counter() - started, _computed() - computed
        seconds, remark = (None, "") if said is None else said
        connection.send((passed if seconds is None else seconds * count, computed, passed, remark))


def _computed() -> float:
    """Seconds that this process and the processes which it waited for have spent computing."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(row: Row, rounds: int, seconds: float) -> dict[str, Any]:
    """Run a row: its sides in turn, round by round."""
    core = quietest_core()
    names = {"upright": row.ours, "peer": row.peer, "peak": "ours.fma_peak" if row.operations else None}
    sides = {
        key: Side(name, () if key == "peak" else row.arguments, core) for key, name in names.items() if name is not None
    }
    try:
        reasons = {key: side.reason for key, side in sides.items() if side.reason}
        working = {key: side for key, side in sides.items() if not side.reason}
        counts = {key: 1 if key == "peak" else row.count or _count(side, seconds) for key, side in working.items()}
        if row.warm_up:
            for key, side in working.items():
                side.work(counts[key])
        samples: dict[str, list[float]] = {key: [] for key in working}
        for _ in range(row.rounds or rounds):
            for key, side in working.items():
                samples[key].append(side.work(counts[key]) / counts[key])
        remark = "".join(side.remark for key, side in working.items() if key == "upright")
    finally:
        for side in sides.values():
            side.close()
    shares = {key: rounded(side.computed / side.passed) for key, side in working.items() if key != "peak"}
    return {**summary(row, samples, counts, reasons, remark), "share_of_core": shares}


def _count(side: Side, seconds: float) -> int:
    """How many units fill a round; the first is not counted, for what is made ready at first use."""
    side.work(1)
    count = 1
    while (passed := side.work(count)) < seconds / 2:
        count = math.ceil(count * min(10.0, seconds / passed))
    return max(1, round(count * seconds / passed))
