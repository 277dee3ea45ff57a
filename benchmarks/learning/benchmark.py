"""What final policies reach: upright's default and presets against other libraries with their published settings.

    make benchmark                                     run what is missing: many hours
    python -m benchmarks.learning.benchmark --list     show the rows, and how many seeds of each are there
    python -m benchmarks.learning.benchmark --report   write RESULTS.md, the pictures and README's table
    python -m benchmarks.learning.benchmark --only 'CartPole-v1 upright default'   run what is missing of one row

Each trial is one seed of one row in a process of its own, on one core with one thread (`trial.py`); as many as there
are cores run at a time. Its result is a line of `benchmarks/results/benchmark/<environment>/<row>.jsonl`. Seeds that
are there are not run again, unless the row's settings have changed since; a trial that fails is reported, and run again
the next time. The rows are in `contestants.py`, and `report.py` writes about them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.learning.contestants import Contestant, contestants
from benchmarks.learning.figures import holds, read
from benchmarks.learning.report import write_report
from benchmarks.speed.machine import one_thread_each, quietest_core
from upright import files

ROOT = Path(__file__).parents[2]
MEASURED = [
    "src",
    "native",
    *(f"benchmarks/learning/{module}.py" for module in ("contestants", "trainers", "trial", "judging")),
]


class Trials:
    """Runs trials in processes of their own, no two of them on the same core, and keeps their results."""

    def __init__(self) -> None:
        self.failures = 0
        self._lock = threading.Lock()
        self._busy: set[int] = set()

    def run(self, contestant: Contestant, seed: int) -> None:
        """Run one trial; add its line to the row's file, or say why there is none."""
        core = self._take_core()
        command = [sys.executable, "-m", "benchmarks.learning.trial", contestant.title, str(seed)]
        if core is not None:
            command = [sys.executable, "-c", PINNED, str(core), *command]
        try:
            ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        finally:
            self._busy.discard(-1 if core is None else core)
        with self._lock:
            if ended.returncode != 0:
                self.failures += 1
                why = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
                print(f"{contestant.title}, seed {seed} failed: {why[-1]}", flush=True)
                return
            result = json.loads(ended.stdout.splitlines()[-1])
            keep(contestant, result)
            mean = sum(result["returns"]) / len(result["returns"])
            solved = "solved" if mean >= contestant.task.threshold else "not solved"
            print(f"{contestant.title}, seed {seed}: {mean:.2f}, {solved}, {result['cpu_seconds']:.1f} s", flush=True)

    def _take_core(self) -> int | None:
        with self._lock:
            core = quietest_core()
            if core is None:
                return None
            if core in self._busy:
                core = min(os.sched_getaffinity(0) - self._busy)
            self._busy.add(core)
            return core


# Before anything is imported that looks how many cores there are.
PINNED = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execv(sys.argv[2], sys.argv[2:])"


def missing(contestant: Contestant, seeds: Sequence[int]) -> list[int]:
    """The seeds without a result for the row's settings and steps."""
    there = {each["seed"] for each in read(contestant) if holds(each, contestant)}
    return [seed for seed in seeds if seed not in there]


def keep(contestant: Contestant, result: dict[str, Any]) -> None:
    """Add a result to the row's file, in the order of the seeds, without those of other settings."""
    results = {each["seed"]: each for each in read(contestant) if each["settings"] == result["settings"]}
    results[result["seed"]] = result
    lines = [json.dumps(each, ensure_ascii=False) + "\n" for _, each in sorted(results.items())]
    files.write(contestant.path, "".join(lines).encode())


def commit() -> str:
    """The last commit of the code that is measured, marked if that code was changed since."""
    git = ["git", "-C", str(ROOT)]
    last = [*git, "log", "-1", "--format=%H", "--", *MEASURED]
    try:
        head = subprocess.run(last, check=True, capture_output=True, text=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *MEASURED]).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head


def main() -> int:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose environment and name hold this")
    parser.add_argument("--seeds", type=int, metavar="N", help="the first N seeds of each row, or more than it has")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="trials at a time")
    parser.add_argument("--list", action="store_true", help="show the rows and run nothing")
    parser.add_argument("--report", action="store_true", help="write the report and run nothing")
    arguments = parser.parse_args()
    rows = [each for each in contestants() if arguments.only.lower() in each.title.lower()]
    if not rows:
        parser.error(f"no row's name holds {arguments.only!r}; --list shows them")

    def wanted(row: Contestant) -> Sequence[int]:
        return row.seeds if arguments.seeds is None else range(row.seeds.start, row.seeds.start + arguments.seeds)

    todo = [(row, seed) for row in rows for seed in missing(row, wanted(row))]
    if arguments.list:
        for row in rows:
            count = len(wanted(row))
            print(f"{row.title:<45} {count - len(missing(row, wanted(row))):>3} of {count} seeds, {row.steps:,} steps")
        return 0
    trials = Trials()
    if not arguments.report:
        one_thread_each()
        os.environ["UPRIGHT_COMMIT"] = commit()
        with ThreadPoolExecutor(arguments.processes) as pool:
            try:
                for future in [pool.submit(trials.run, *each) for each in todo]:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    write_report()
    return 1 if trials.failures else 0


if __name__ == "__main__":
    sys.exit(main())
