"""Learners: what turns batches into parameters, behind one contract.

An engine is what a learner computes with. `torch` is the reference, for any network on any device; `native` is the
package's own C++, for multilayer perceptrons on the CPU, and agrees with it within float32 rounding.
"""

from upright.learners.contract import Learner, NetworkSource, moments, parameter_forms
from upright.learners.engine import make_learner, obstacle_to_native, why_engine
from upright.learners.problem import Problem

__all__ = [
    "Learner",
    "NetworkSource",
    "Problem",
    "make_learner",
    "moments",
    "obstacle_to_native",
    "parameter_forms",
    "why_engine",
]
