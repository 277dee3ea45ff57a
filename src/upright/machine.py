"""The machine: the memory that is free, the cores that this process may use, and a card that it may not know of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_nvidia_card() -> bool:
    """True if Linux's driver shows an NVIDIA card. No library is asked, so that it needs none."""
    return Path("/dev/nvidia0").exists() or any(Path("/proc/driver/nvidia/gpus").glob("*"))


def in_gib(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def available_bytes() -> int | None:
    """Memory free for this process, within its control group's limit; None where the system does not say."""
    candidates = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    candidates += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for group, limit_file, usage_file in _control_groups():
        try:
            limit, usage = ((group / name).read_text().strip() for name in (limit_file, usage_file))
            kinds = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit != "max":
            # Pages of files that are only cached count as used, but are given up when memory is asked for.
            used = int(usage) - int(kinds.get("total_inactive_file", kinds.get("inactive_file", 0)))
            candidates.append(max(0, int(limit) - used))
    return min(candidates) if candidates else None


def _control_groups() -> Iterator[tuple[Path, str, str]]:
    """The control groups of this process, and those above, whose limits hold too: folder, limit, usage."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    files = {
        "": (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
        "memory": (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    }
    for controllers, (root, limit_file, usage_file) in files.items():
        # A line is number:controllers:path; a container may see paths of its host's, and then only the root is there.
        paths = [
            line.split(":", 2)[2]
            for line in lines
            if line.count(":") > 1 and controllers in line.split(":")[1].split(",")
        ]
        for path in paths or ["/"]:
            group = root / path.lstrip("/")
            for each in (group, *group.parents):
                yield each, limit_file, usage_file
                if each == root:
                    break
