"""The lines of metrics.jsonl, for `JsonLines`, which writes them, and for everything that reads them.

{"step": 37, "env": 0, "rollout/ep_rew": 37.0, "rollout/ep_len": 37}        an episode
{"step": 500, "rollout/ep_rew_mean": 21.3, …, "time/fps": 9000.0}           a record

A line is a JSON object with a step; one that has an environment is about an episode of it, any other is a record of the
run's metrics. The last line may be half written, and a resumed run may write records again that it had written before,
with the same values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright import files
from upright.errors import RunError
from upright.files import is_number

if TYPE_CHECKING:
    from upright.runs.metrics import Episode, Progress

STEP, ENVIRONMENT = "step", "env"
RETURN, LENGTH = "rollout/ep_rew", "rollout/ep_len"  # of an episode

Line = Mapping[str, Any]


def episode_line(episode: Episode) -> dict[str, Any]:
    """Return the line of an episode."""
    return {STEP: episode.step, ENVIRONMENT: episode.env, RETURN: episode.reward, LENGTH: episode.length}


def record_line(progress: Progress) -> dict[str, Any]:
    """Return the line of the metrics in a report."""
    return {STEP: progress.step, **progress.metrics}


def parse(text: bytes) -> Line | None:
    """Return a line, or None if the text is not one: if it is not a JSON object, or has no finite step."""
    try:
        return _checked(json.loads(text))
    except (ValueError, RecursionError):
        return None


def parse_many(text: bytes) -> list[Line | None]:
    """Return what `parse` returns for each of many lines, several times as fast."""
    try:
        return list(map(_checked, json.loads(b"[" + text.rstrip(b"\n").replace(b"\n", b",") + b"]")))
    except (ValueError, RecursionError):
        return [parse(line) for line in text.split(b"\n") if line.strip()]


def _checked(value: Any) -> Line | None:
    return value if isinstance(value, dict) and is_number(value.get(STEP)) else None


def whole_lines(content: bytes) -> bytes:
    """Return the content without a last line that is half written."""
    return content[: content.rfind(b"\n") + 1]


def is_episode(line: Line) -> bool:
    """Return True for an episode, False for a record."""
    return ENVIRONMENT in line


def numbers(line: Line) -> dict[str, float]:
    """Return a line's finite numbers by their tags; neither the step nor the environment is one of them."""
    return {tag: value for tag, value in line.items() if is_number(value) and tag != STEP and tag != ENVIRONMENT}


def looks_like_episode(text: bytes) -> bool:
    """Return what `is_episode` returns for a line that `JsonLines` wrote, without parsing it."""
    return f'"{ENVIRONMENT}"'.encode() in text[:40]


def values(tag: str, text: bytes) -> list[float]:
    """Return the values of a tag in many lines that `JsonLines` wrote, without parsing them."""
    found = re.findall(rb'"' + re.escape(tag).encode() + rb'": (-?\d[\d.eE+-]*)', text)
    try:
        return list(map(float, found))
    except ValueError:
        return []


def read(path: Path, tags: Sequence[str]) -> Iterator[dict[str, float]]:
    """Yield the step of each line in a metrics.jsonl, with the tags that are asked for where it has them.

    Raises RunError for a line that is not one, or in which one of these values is not a finite number.
    """
    for number, text in enumerate(whole_lines(files.read(path)).splitlines(), 1):
        line = parse(text)
        record = {} if line is None else {name: line[name] for name in (STEP, *tags) if name in line}
        if not record or not all(map(is_number, record.values())):
            raise RunError(f"{path} is damaged in line {number}, which is no record; remove that line.")
        yield record
