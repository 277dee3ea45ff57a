"""The engines that a test can run with here, and what auto takes for a perceptron."""

from __future__ import annotations

import importlib.util

import pytest

HAS_NATIVE = importlib.util.find_spec("upright._native") is not None
needs_native = pytest.mark.skipif(not HAS_NATIVE, reason="upright was installed without a C++ compiler")
ENGINES = [pytest.param("native", marks=needs_native), "torch"]
AUTO = "native" if HAS_NATIVE else "torch"
