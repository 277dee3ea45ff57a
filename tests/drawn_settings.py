"""Hypothesis's strategies for settings, from the types and ranges of their fields."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from configurations import bounds


def values_of(cls: type, most: int = 40, **chosen: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any value of a class of settings: every word, every number in its range, whole numbers up to `most`.

    chosen: what some fields are drawn from instead, if the class has them; a number without a range is the default.
    """
    hints = get_type_hints(cls)
    drawn: dict[str, st.SearchStrategy[Any]] = {}
    for field in dataclasses.fields(cls):
        hint, found = hints[field.name], bounds(cls, field.name)
        if field.name in chosen:
            drawn[field.name] = chosen[field.name]
        elif hint is bool:
            drawn[field.name] = st.booleans()
        elif get_origin(hint) is Literal:
            drawn[field.name] = st.sampled_from(get_args(hint))
        elif found is not None:
            low, closed_below, high, closed_above = found
            if hint is int:
                drawn[field.name] = st.integers(math.ceil(low), int(min(high, most)))
            else:
                ends = [None if math.isinf(each) else each for each in (low, high)]
                drawn[field.name] = st.floats(
                    *ends,
                    allow_nan=False,
                    allow_infinity=False,
                    exclude_min=not closed_below and ends[0] is not None,
                    exclude_max=not closed_above and ends[1] is not None,
                )
    return st.builds(cls, **drawn)
