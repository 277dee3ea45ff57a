"""RESULTS.md, the README's table and the pictures, from the benchmark's files and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.learning.contestants import TASKS, Task, contestants
from benchmarks.learning.figures import Figures, read
from upright import files

FOLDER = Path(__file__).parents[1]
PAGE = FOLDER / "RESULTS.md"
README = FOLDER.parent / "README.md"
BEGIN, END = "<!-- benchmark: written by make benchmark -->", "<!-- end of the benchmark -->"
HEAD = [
    "", "seeds solved at the end", "interquartile mean", "worst seed", "steps to first solve", "seconds to first solve",
    "seconds", "steps",
]  # fmt: skip
SHORT_HEAD = ["environment, threshold", "", "seeds solved at the end", "interquartile mean", "seconds", "steps"]


def all_figures() -> list[Figures]:
    """The rows that have at least one seed."""
    every = [Figures(each, read(each)) for each in contestants()]
    return [each for each in every if each.count]


def write_report() -> None:
    """Write RESULTS.md, its pictures, and the README's table."""
    from benchmarks.learning.pictures import draw_all

    figures = all_figures()
    draw_all(figures, FOLDER / "pictures")
    files.write(PAGE, page(figures).encode())
    files.write(README, with_summary(README.read_text(encoding="utf-8"), figures).encode())


def page(figures: Sequence[Figures]) -> str:
    """RESULTS.md."""
    parts = [*_introduction(figures)]
    for task in TASKS.values():
        rows = [each for each in figures if each.contestant.task == task]
        if rows:
            parts += ["", f"## {task.env}", "", *_task(task, rows)]
    return "\n".join(parts) + "\n"


def with_summary(text: str, figures: Sequence[Figures]) -> str:
    """The README with its table written again between the two markers."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the README has no lines {BEGIN!r} and {END!r}")
    return "".join([before, BEGIN, "\n\n", "\n".join(summary(figures)), "\n\n", END, after])


def summary(figures: Sequence[Figures]) -> list[str]:
    """The README's table: for each environment, upright's default and the peer that solves it most reliably."""
    rows = []
    for task in TASKS.values():
        of_task = [each for each in figures if each.contestant.task == task]
        ours = [each for each in of_task if each.contestant.name == "upright default"]
        peers = [each for each in of_task if each.contestant.library != "upright"]
        best = max(peers, key=lambda each: (each.solved_interval[0], each.middle), default=None)
        for each in ours:
            best_there_is = "" if task.best is None else f"; the best policy reaches {task.best:g}"
            rows.append([f"{task.env}, {task.threshold:g}{best_there_is}", *_short(each)])
            if best is not None:
                rows.append(["", *_short(best)])
    return _table(SHORT_HEAD, rows)


def _short(each: Figures) -> list[str]:
    name = f"**{each.contestant.name}**" if each.contestant.library == "upright" else each.contestant.name
    return [name, _solved(each), _middle(each), _seconds(each.seconds), f"{each.steps:,}"]


def _task(task: Task, rows: Sequence[Figures]) -> list[str]:
    """The section of an environment."""
    lines = [
        f"Solved is a mean return of {task.threshold:g} or more over 100 greedy episodes of the final policy. "
        f"![Learning curves in {task.env}](pictures/{task.env}.svg)",
        "",
        *_table(HEAD, [_cells(each) for each in rows]),
    ]
    there = {each.contestant.name: each for each in rows}
    fewer = [
        f"{name} {each.count} of {len(each.contestant.seeds)} ({_seconds(each.seconds)} s a seed)"
        for name, each in there.items()
        if each.count < len(each.contestant.seeds)
    ]
    absent = [each.name for each in contestants() if each.task == task and each.name not in there]
    notes = []
    if task.best is not None:
        perfect = ", ".join(f"{each.perfect} of {each.count} seeds of {each.contestant.name}" for each in rows)
        notes.append(f"No policy is that good: the best reaches {task.best:g} in these episodes, as do {perfect}.")
    if all(each.contestant.library == "upright" for each in rows) and not absent:
        notes.append("No peer publishes settings for this environment.")
    if fewer:
        notes.append(f"Fewer seeds than planned: {', '.join(fewer)}.")
    if absent:
        notes.append(f"Not run: {', '.join(absent)}.")
    return [*lines, *(text for note in notes for text in ("", note))]


def _cells(each: Figures) -> list[str]:
    steps, seconds = zip(*each.first_solves, strict=True)
    return [
        f"**{each.contestant.name}**" if each.contestant.name == "upright default" else each.contestant.name,
        _solved(each),
        _middle(each),
        _return(each.contestant.task, min(each.finals)),
        _first(steps, lambda value: f"{value:,.0f}"),
        _first(seconds, _seconds),
        _seconds(each.seconds),
        f"{each.steps:,}",
    ]


def _solved(each: Figures) -> str:
    low, high = each.solved_interval
    return f"{each.solved} of {each.count} ({100 * low:.0f} to {100 * high:.0f} %)"


def _middle(each: Figures) -> str:
    task = each.contestant.task
    low, high = each.interval
    interval = "" if each.count == 1 else f" ({_return(task, low)} to {_return(task, high)})"
    return f"{_return(task, each.middle)}{interval}"


def _return(task: Task, value: float) -> str:
    places = 3 if abs(task.threshold) < 1 else 1 if task.best is None else 2
    return f"{value:.{places}f}".replace("-", "−")


def _seconds(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _first(values: Sequence[float], write: Callable[[float], str]) -> str:
    """The median, in which never is later than any value, and how often it was never."""
    never = sum(map(math.isinf, values))
    text = f"never in {never} of {len(values)}"
    middle = float(np.median(values))
    if math.isinf(middle):
        return text
    return f"{write(middle)} ({text})" if never else write(middle)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def _introduction(figures: Sequence[Figures]) -> list[str]:
    results = [result for each in figures for result in each.results]
    versions: dict[str, set[str]] = {}
    for result in results:
        for name, version in result["versions"].items():
            versions.setdefault(name, set()).add(version)
    machines = {
        f"{each['cpu']}, {each['instruction_set']}, {each['cores']} cores, {each['system']}"
        for each in (result["machine"] for result in results)
    }
    loads = [load[0] for result in results if (load := result["machine"]["load_average"])]
    busy = f", while other work was running (load average {min(loads):.0f} to {max(loads):.0f})" if loads else ""
    return [
        "# Results",
        "",
        "Written by `make benchmark` (`benchmarks/learning/benchmark.py`) from the files in `results/benchmark/`, "
        "which have one line per seed; `tests/benchmarks/test_benchmark.py` computes every figure again.",
        "",
        *_list(
            f"Machine: {'; '.join(sorted(machines))}. Each run had one thread on one core{busy}.",
            f"Versions: {', '.join(f'{name} {_either(each)}' for name, each in sorted(versions.items()))}.",
            f"Commits of upright: {_commits(figures)}.",
            *NOTES,
            *_sources(figures),
        ),
    ]


def _commits(figures: Sequence[Figures]) -> str:
    def of(rows: Sequence[Figures]) -> str:
        return _either({result["commit"] for each in rows for result in each.results})

    ours = [each for each in figures if each.contestant.library == "upright"]
    peers = [each for each in figures if each.contestant.library != "upright"]
    parts = [("its own rows", ours), ("peers' rows, in which it does not run", peers)]
    return "; ".join(f"{of(rows)} ({what})" for what, rows in parts if rows)


def _sources(figures: Sequence[Figures]) -> list[str]:
    names: dict[str, dict[str, None]] = {}
    for each in figures:
        if each.contestant.library != "upright":
            names.setdefault(each.contestant.source, {})[each.contestant.name] = None
    return [f"Settings of {' and '.join(each)}: {source}." for source, each in names.items()]


def _either(values: set[str]) -> str:
    return " or ".join(sorted(values))


def _list(*points: str) -> list[str]:
    return [f"- {point}" for point in points]


NOTES = [
    "**Solved at the end** counts the seeds whose *final* policy reaches the threshold, with Wilson's 95 % interval "
    "for that share. **Interquartile mean** is that of the final policies' mean returns, with its 95 % bootstrap "
    "interval. No policy is selected from a run afterwards.",
    "Final policies play 100 greedy episodes, with the same seeds for all contestants, in the plain environment of "
    "`gymnasium.make`. The curves have 20 points at equal steps, each the mean of 20 greedy episodes with other seeds. "
    "**First solve** is the first of these points at the threshold, as the median over the seeds; since it takes the "
    "first of several noisy means, luck can make it too early.",
    "**Seconds** are the processor seconds of the process while it trains, as the median over the seeds. They do not "
    "include the imports before training or the greedy episodes, but they include what a library loads or compiles "
    "while it trains. Wall-clock seconds are in the files.",
    "The rows of upright's default were measured again when ε began to fall at `learning_starts`, with fewer seeds and "
    "on a machine that other work kept busy: its seconds are about three times those of a quiet machine, on which all "
    "other rows were measured.",
    "**Steps** are environment steps. Their number is that of the published settings; they differ, so read the curves "
    "too. upright's default is the same configuration everywhere, except for that number. So are its presets, which "
    "are sized for classic control and are tested only there. The libraries of the stable-baselines3 family learn in "
    "whole rounds, and take up to one round more.",
    "The peers' settings are those that their own authors publish for that environment. A peer has no row if we know "
    "of none, as in FrozenLake-v1, CliffWalking-v1 and Taxi-v4. For LunarLander-v3 we use what the Zoo and tianshou "
    "have for v2. tianshou's examples stop when a test reaches a threshold; here they train for their full number of "
    "steps. Their tests explore with ε = 0.05, on LunarLander 0.01; here their policy is greedy, as all others are.",
    "Taxi-v4's threshold of 8 cannot be reached: the best policy reaches 7.93 over all its starts, and "
    f"{TASKS['Taxi-v4'].best} in these 100 episodes (value iteration). A seed with {TASKS['Taxi-v4'].best} plays "
    "perfectly, and does not count as solved. upright uses Taxi-v4's mask of allowed actions, in training and "
    "evaluation. sbx does not clip the gradient, where stable-baselines3 clips its norm at 10. CliffWalking-v1 has "
    "neither a threshold nor a time limit: −13 is its shortest path, and an episode ends after 1,000 steps.",
    "FrozenLake-v1's best policy reaches the goal in 74.4 % of all episodes. For that policy the mean of a "
    "curve's 20 episodes has a standard deviation of 0.1 and the 20 are the same at every point, so a curve below 0.7 "
    "shows nothing, and neither do the first solves. In the 100 final episodes, which are also the same for "
    "all seeds, the optimal policies that do not depend on the time score 0.74 or 0.78: in one square two actions are "
    "equally good, and the score depends on which one they take. Both are worth 0.740, and the row's interval says "
    "nothing about other episodes.",
]
