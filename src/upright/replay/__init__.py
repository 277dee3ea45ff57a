"""Transitions in contiguous columns: stored, drawn uniformly or by priority, and folded over n steps."""

from upright.replay.nstep import NStep
from upright.replay.prioritised import PrioritisedReplay, SumTree
from upright.replay.ring import Batch, Columns, ReplayMemory, Transition, bytes_needed, check_memory, columns_for

__all__ = [
    "Batch",
    "Columns",
    "NStep",
    "PrioritisedReplay",
    "ReplayMemory",
    "SumTree",
    "Transition",
    "bytes_needed",
    "check_memory",
    "columns_for",
]
