"""How fast one core is: upright and a peer in turn, medians of alternating rounds, as ratios.

    make bench                          every row but the long ones
    make bench BENCH=--long             those too: about half an hour
    python -m benchmarks.speed.benchmark [--only TEXT] [--rounds 7] [--seconds 0.5] [--engine torch]

Each side of a row is a process of its own, so that nothing which one imports slows the other. Both are pinned to the
same core with one thread each, and one works only while the other waits. A round is either the same number of steps on
both sides (whole steps, where the work changes with the policy) or as many calls as fill the same time. Where other
programs took time on that core, the last line says so: ratios stand that well enough, times do not.

The rows are in `rows.py`, upright's sides in `ours.py`, the peers' in `peers.py`. A run of all of them is written to
`benchmarks/results/`, with the machine and every version.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.speed.machine import describe, one_thread_each
from benchmarks.speed.measuring import measure
from benchmarks.speed.report import HEAD, cells, line, markdown, rounded
from benchmarks.speed.rows import Row, rows
from upright import Config

RESULTS = Path(__file__).parents[1] / "results"
QUIET = 0.95  # of its core, which a side has when nothing else runs


def commit() -> str:
    """The commit that was measured, marked if something in it was changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=RESULTS.parent, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> int:
    """Print the table, and write it down if no row was left out by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="also the rows that take minutes")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name or peer has this; writes nothing")
    parser.add_argument("--rounds", type=int, default=7, help="at least 5")
    parser.add_argument("--seconds", type=float, default=0.5, help="that a round of calls takes on each side")
    parser.add_argument("--engine", help="instead of upright's own choice")
    arguments = parser.parse_args()
    if arguments.rounds < 5 and not arguments.only:
        parser.error("a median of fewer than 5 rounds is not worth writing down; give --rounds 5, or --only")

    one_thread_each()
    report: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": describe(),
        "python": platform.python_version(),
        "packages": dict(
            sorted((each.name.lower().replace("_", "-"), each.version) for each in importlib.metadata.distributions())
        ),
        "settings": {"rounds": arguments.rounds, "seconds": arguments.seconds, "engine": arguments.engine},
        "fma_peak_gflops": None,
        "rows": [],
    }
    broken: list[str] = []
    print(line(HEAD), flush=True)
    for row in rows():
        if (row.long and not arguments.long) or arguments.only.lower() not in f"{row.name} {row.against}".lower():
            continue
        try:
            result = measure(_with_engine(row, arguments.engine), arguments.rounds, arguments.seconds)
        except RuntimeError as error:
            print(f"{row.name}: {error}", flush=True)
            broken.append(row.name)
            continue
        report["rows"].append(result)
        print(line(cells(result)), flush=True)
    peaks = [each for result in report["rows"] for each in result["seconds_a_unit"].get("peak", [])]
    if peaks:
        report["fma_peak_gflops"] = rounded(1e-9 / statistics.median(peaks))
        print(f"FMA peak of one core: {report['fma_peak_gflops']:,.1f} GFLOP/s")
    # A process that has only begun also waits for its files.
    shares = [each for result in report["rows"] if result["unit"] != "s" for each in result["share_of_core"].values()]
    if shares and (least := min(shares)) < QUIET:
        print(f"Other programs were at work: one of the sides had only {least:.0%} of its core.")
    if not arguments.only:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "speed.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (RESULTS / "speed.md").write_text(markdown(report), encoding="utf-8")
        print(f"Written to {RESULTS}.")
    return 1 if broken else 0


def _with_engine(row: Row, engine: str | None) -> Row:
    """The same row with another engine; what runs the command itself keeps its choice."""
    if engine is None:
        return row
    changed = tuple(each.override(engine=engine) if isinstance(each, Config) else each for each in row.arguments)
    return dataclasses.replace(row, arguments=changed)


if __name__ == "__main__":
    sys.exit(main())
