"""What a row came to: its figures, as a line on the terminal and as a page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.speed.rows import Row

TITLE = ("upright", "torch", "numpy", "gymnasium", "stable-baselines3", "sbx-rl", "jax", "tianshou")
# Seconds a unit of work, times this, is what a row shows; steps/s is the inverse.
UNITS = {"µs": 1e6, "s": 1.0, "s for 100,000 steps": 1e5}


def summary(
    row: Row, samples: dict[str, list[float]], counts: dict[str, int], reasons: dict[str, str], remark: str
) -> dict[str, Any]:
    """What a row came to, as it is written: medians, ratios, and what was asked of it."""
    ours, peer, peak = (samples.get(key, []) for key in ("upright", "peer", "peak"))
    ratios = [theirs / mine for mine, theirs in zip(ours, peer, strict=bool(ours and peer))]
    shares = [row.operations * each / mine for mine, each in zip(ours, peak, strict=bool(ours and peak))]
    figure = _figure(row, ours)
    asked: list[tuple[str, bool | None]] = []
    if row.bound is not None:
        rate = row.unit == "steps/s"
        reached = None if figure is None else figure >= row.bound if rate else figure <= row.bound
        asked.append((f"{'≥' if rate else '≤'} {row.bound:,g} {row.unit}", reached))
    if row.ratio is not None:
        asked.append((f"≥ {row.ratio:g}×", statistics.median(ratios) >= row.ratio if ratios else None))
    if row.share is not None:
        asked.append((f"≥ {100 * row.share:g} %", statistics.median(shares) >= row.share if shares else None))
    return {
        "row": row.name,
        "peer": row.against or None,
        "unit": row.unit,
        "upright": figure,
        "theirs": _figure(row, peer),
        "ratio": _spread(ratios),
        "operations": row.operations or None,
        "share_of_fma_peak": _spread(shares),
        "targets": [{"target": target, "reached": reached} for target, reached in asked],
        "remark": remark,
        "not_measured": reasons,
        "units_in_a_round": counts,
        "seconds_a_unit": {key: [rounded(each) for each in values] for key, values in samples.items()},
    }


def _figure(row: Row, samples: Sequence[float]) -> float | None:
    if not samples:
        return None
    seconds = row.average(samples)
    return rounded(1.0 / seconds if row.unit == "steps/s" else seconds * UNITS[row.unit])


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "median": rounded(statistics.median(values)),
        "min": rounded(min(values)),
        "max": rounded(max(values)),
    }


def rounded(value: float) -> float:
    """Four digits: more than any of these figures is good for."""
    return float(f"{value:.4g}")


def cells(result: dict[str, Any]) -> list[str]:
    """A row's cells as text: name, upright, peer, ratio, share of the peak, targets, remark."""
    unit, missing = result["unit"], result["not_measured"]

    def figure(key: str, side: str) -> str:
        if side in missing:
            return str(missing[side])
        value: float | None = result[key]
        return "" if value is None else f"{value:,.{max(0, 3 - len(str(int(value))))}f} {unit}"

    def spread(values: dict[str, float] | None, scale: float, mark: str) -> str:
        if values is None:
            return ""
        middle, least, most = (f"{scale * values[key]:.3g}" for key in ("median", "min", "max"))
        return f"{middle}{mark} ({least} to {most})"

    targets = [
        f"{each['target']}: {'not measured' if each['reached'] is None else 'reached' if each['reached'] else 'missed'}"
        for each in result["targets"]
    ]
    return [
        result["row"],
        figure("upright", "upright"),
        f"{result['peer']}: {figure('theirs', 'peer')}" if result["peer"] else "",
        spread(result["ratio"], 1, "×"),
        missing.get("peak") or spread(result["share_of_fma_peak"], 100, " %"),
        "; ".join(targets),
        result["remark"],
    ]


HEAD = ["workload", "upright", "peer", "ratio (range)", "of the FMA peak", "target", "remark"]
WIDTHS = [40, 28, 38, 24, 20, 0, 0]


def line(texts: Sequence[str]) -> str:
    """A row of the table on the terminal."""
    padded = [f"{text:<{width}}" for text, width in zip(texts, WIDTHS, strict=True)]
    return "  ".join(each for each in padded if each).rstrip()


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    machine, packages = report["machine"], report["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in TITLE if name in packages)
    peak = report["fma_peak_gflops"]
    tables = [HEAD, ["---"] * len(HEAD), *(cells(each) for each in report["rows"])]
    return "\n".join(
        [
            "# Speed",
            "",
            "Written by `make bench` (`benchmarks/speed/benchmark.py`), with every sample in `speed.json`. One thread "
            "each, in turn on the same core; medians, and ratios of the peer's time to upright's, round by round.",
            "",
            f"- {report['date']}, commit {report['commit']}",
            f"- {machine['cpu']}, {machine['instruction_set']}, {machine['cores']} cores, {machine['system']}",
            f"- Python {report['python']}, {versions}",
            f"- FMA peak of one core: {'not measured' if peak is None else f'{peak:,.1f} GFLOP/s'}",
            "",
            *("| " + " | ".join(row) + " |" for row in tables),
            "",
        ]
    )
