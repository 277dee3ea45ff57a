"""The machine that is measured on: what it is, its quietest core, one thread for each process."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """What the numbers were measured on, without its name."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = {
        key.strip(): value.strip() for key, _, value in (each.partition(":") for each in text.splitlines()) if value
    }
    flags = fields.get("flags", fields.get("Features", "")).split()
    known = [each for each in ("avx512f", "avx2", "fma", "sve", "asimd") if each in flags]
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "instruction_set": " ".join([platform.machine(), *known]),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def quietest_core() -> int | None:
    """The core that other programs leave alone most, or None where a process cannot be pinned to one."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    before = _idle()
    time.sleep(0.5)
    after = _idle()
    return max(os.sched_getaffinity(0), key=lambda core: (after.get(core, 0) - before.get(core, 0), core))


def _idle() -> dict[int, int]:
    """How long each core has been idle, in the system's ticks."""
    fields = [each.split() for each in Path("/proc/stat").read_text().splitlines()]
    return {int(each[0][3:]): int(each[4]) for each in fields if each[0][:3] == "cpu" and each[0] != "cpu"}


def one_thread_each() -> None:
    """Allow the sides, which inherit it, one thread each."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    os.environ["JAX_PLATFORMS"] = "cpu"
