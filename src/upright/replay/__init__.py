"""Transitions in contiguous columns: folded over n steps, stored, and drawn uniformly or by priority."""

from upright.replay.nstep import NStep
from upright.replay.ring import (
    Batch,
    Columns,
    ReplayMemory,
    Ring,
    Transition,
    bytes_needed,
    check_memory,
    transition_forms,
)

__all__ = [
    "Batch",
    "Columns",
    "NStep",
    "ReplayMemory",
    "Ring",
    "Transition",
    "bytes_needed",
    "check_memory",
    "transition_forms",
]
