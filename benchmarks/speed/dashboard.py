"""What the dashboard costs training, in pairs: runs that it follows, with a page open, and runs that it does not.

    python -m benchmarks.speed.dashboard [--rounds 5] [--steps 30000] [--core 1]
    python -m benchmarks.speed.dashboard --opening [--rounds 5]      instead: how soon 100 long runs stand in the table

All processes that train, and the server, share one core; the page, a client that reads the stream, has the others.
What is compared is the time that processes spent on the core, which stands other programs better than steps per second.
Starting the server is a matter of its own: with --dashboard it is in the server's time, and else told apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

TRAIN = """
import os, resource, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
from upright.cli.main import main
main(sys.argv[2:])
children = resource.getrusage(resource.RUSAGE_CHILDREN)
print("spent", time.process_time(), children.ru_utime + children.ru_stime)
"""
SERVE = """
import os, sys
from pathlib import Path
os.sched_setaffinity(0, {int(sys.argv[1])})
from upright.dashboard.server import serve
serve(Path(sys.argv[2]), port=0, say=lambda text: print(text, flush=True))
"""
LINES = 1_000  # a second, of 8 files: what 8 cores write that train CartPole-v1 at 20,000 steps/s each


def spent(pid: int) -> float:
    """Seconds that a process has had of its core."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def train(root: Path, core: int, seeds: int, steps: int, *more: str) -> list[tuple[float, float]]:
    """Train that many runs at once; the seconds of each, and those of its children."""
    folder = str(root / "CartPole-v1" / "x")
    words = ["train", "CartPole-v1", "--total-timesteps", str(steps), "--quiet", *more, "--out", folder]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(core), *words, "--seed", str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        for seed in range(seeds)
    ]
    said = [process.communicate()[0] for process in processes]
    found = [next(line for line in text.splitlines() if line.startswith("spent")).split() for text in said]
    return [(float(own), float(children)) for _, own, children in found]


@contextlib.contextmanager
def followed(root: Path, core: int, runs: int) -> Iterator[dict[str, Any]]:
    """A dashboard of that folder with a page that follows its runs; at the end, what it spent."""
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(core), str(root)], stdout=subprocess.PIPE, text=True)
    told: dict[str, Any] = {"events": 0, "bytes": 0}
    try:
        assert process.stdout is not None
        link = process.stdout.readline().split()[1]
        page = threading.Thread(target=look, args=(link, runs, told), daemon=True)
        page.start()
        time.sleep(0.5)
        told["start"] = before = spent(process.pid)
        began = time.perf_counter()
        yield told
        told["server"], told["seconds"] = spent(process.pid) - before, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def look(link: str, runs: int, told: dict[str, Any]) -> None:
    """What a page asks for: the table, the series of all runs, then the stream."""
    with contextlib.suppress(httpx.HTTPError), httpx.Client(base_url=link.split("/?")[0], timeout=None) as client:
        client.get(link)
        while len(rows := client.get("/api/runs").json()["runs"]) < runs:
            time.sleep(1)
        found = client.get("/api/series", params={"runs": ",".join(row["id"] for row in rows)}).json()["runs"]
        cursors = ",".join(".".join(map(str, [key, *run["cursor"]])) for key, run in found.items())
        with client.stream("GET", "/api/events", params={"runs": cursors}) as stream:
            for line in stream.iter_lines():
                told["events"] += line.startswith("event:")
                told["bytes"] += len(line)


def several(rounds: int, core: int, steps: int, runs: int) -> None:
    """Runs side by side, followed and not, in turn."""
    pairs = []
    for k in range(rounds):
        pair: dict[bool, float] = {}
        told: dict[str, Any] = {}
        for is_followed in ((False, True), (True, False))[k % 2]:
            with tempfile.TemporaryDirectory() as folder:
                if is_followed:
                    with followed(Path(folder), core, runs) as told:
                        each = train(Path(folder), core, runs, steps)
                else:
                    each = train(Path(folder), core, runs, steps)
            pair[is_followed] = sum(own for own, _ in each)
        pairs.append((pair[True] / pair[False] - 1, told["server"] / pair[True]))
        row = f"{runs} runs, pair {k + 1}: trainers {pair[False]:.2f} s, followed {pair[True]:.2f} s"
        print(f"{row}; server {told['server']:.2f} s in {told['seconds']:.1f} s, {told['events']} events", flush=True)
    say(f"{runs} runs", pairs)


def one(rounds: int, core: int, steps: int) -> None:
    """`upright train … --dashboard`, which nobody looks at, and the same without."""
    pairs = []
    for k in range(rounds):
        pair = {}
        for words in (((), ("--dashboard",)), (("--dashboard",), ()))[k % 2]:
            with tempfile.TemporaryDirectory() as folder:
                ((own, children),) = train(Path(folder), core, 1, steps, *words)
            pair[words] = (own, children)
        (plain, _), (own, children) = pair[()], pair[("--dashboard",)]
        pairs.append((own / plain - 1, children / own))
        print(f"--dashboard, pair {k + 1}: {plain:.2f} s, beside it {own:.2f} s; server {children:.2f} s", flush=True)
    say("--dashboard", pairs)


def say(name: str, pairs: list[tuple[float, float]]) -> None:
    """The medians, and the ranges."""
    own, server = zip(*pairs, strict=True)
    for what, numbers in (("training's own time", own), ("the server's, as a share of it", server)):
        low, middle, high = (
            f"{100 * each:+.2f} %" for each in (min(numbers), statistics.median(numbers), max(numbers))
        )
        print(f"{name}: {what} {middle} (median of {len(numbers)}; {low} to {high})")


def flood(core: int, seconds: float = 30.0, files: int = 8) -> None:
    """Follow files that grow as fast as those of 8 cores."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "CartPole-v1" / "x" / f"seed-{k}" / "metrics.jsonl" for k in range(files)]
        for path in paths:
            path.parent.mkdir(parents=True)
            path.touch()
        with followed(Path(folder), core, files) as told:
            until, step = time.perf_counter() + seconds, 0
            while time.perf_counter() < until:
                step += 160
                for path in paths:
                    with path.open("a") as file:
                        for k in range(LINES // files // 10):
                            line = {"step": step + k, "env": 0, "rollout/ep_rew": 200.0, "rollout/ep_len": 200}
                            file.write(json.dumps(line) + "\n")
                        mean = {"step": step + k, "rollout/ep_rew_mean": 200.0, "train/loss": 0.1, "time/fps": 2e4}
                        file.write(json.dumps(mean) + "\n")
                time.sleep(0.1)
        share = told["server"] / told["seconds"]
        print(f"server's start: {told['start']:.2f} s")
        sent = told["bytes"] / told["seconds"] / 1e3
        print(f"{LINES:,} lines/s: server {100 * share:.1f} % of one core, {sent:.0f} kB/s")


def opening(rounds: int) -> None:
    """How soon a page shows the table of 100 runs of 10,000 records and 10,000 episodes, in Chromium, by the clock."""
    from playwright.sync_api import sync_playwright

    lines = []
    for k in range(1, 10_001):
        episode = {"step": 5 * k - 1, "env": 0, "rollout/ep_rew": k % 500, "rollout/ep_len": k % 500}
        mean = {"rollout/ep_rew_mean": k % 500, "train/loss": 1 / k, "train/mean_q": k / 100, "time/fps": 2e4}
        lines += [json.dumps(episode) + "\n", json.dumps({"step": 5 * k, **mean}) + "\n"]
    with tempfile.TemporaryDirectory() as place:
        for k in range(100):
            run = Path(place, "CartPole-v1", f"settings-{k // 10}", f"seed-{k % 10}")
            run.mkdir(parents=True)
            (run / "metrics.jsonl").write_text("".join(lines))
        for _ in range(rounds):
            command = [sys.executable, "-m", "upright", "dashboard", place]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as browsers:
                assert server.stdout is not None
                link = next(word for word in server.stdout.readline().split() if word.startswith("http"))
                browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                page, seconds = browser.new_page(), []
                for _ in range(2):
                    began = time.perf_counter()
                    page.goto(link)
                    page.locator("table tbody tr").nth(99).wait_for()
                    seconds.append(time.perf_counter() - began)
                browser.close()
                server.terminate()
            print(f"opening: {seconds[0]:.2f} s in a fresh browser, again {seconds[1]:.2f} s")


def main() -> None:
    """Measure all three, or the opening."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30_000, help="of each of 8 runs; one alone takes 5 times as many")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--opening", action="store_true")
    arguments = parser.parse_args()
    if arguments.opening:
        opening(arguments.rounds)
        return
    flood(arguments.core)
    one(arguments.rounds, arguments.core, 5 * arguments.steps)
    several(arguments.rounds, arguments.core, arguments.steps, 8)


if __name__ == "__main__":
    main()
