"""Metrics that JSON has no number for: NaN and the infinities, as the strings that stand for them.

Owns that turn in both directions; knows no record. The shim, which imports nothing of this, has the same turn in its `numbers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Union

NotFinite = Literal["NaN", "Infinity", "-Infinity"]
JsonNumber = Union[float, NotFinite]
"""A metric as events, records and files bear it."""
_FLOATS: Mapping[str, float] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def in_json(value: float) -> JsonNumber:
    """The metric as JSON bears it: itself, or the string for one that is not finite."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def from_json(value: float | str) -> float:
    """The metric to compute with. Raises KeyError for any other string.

    A NaN is always the same object, so that two records of it compare as equal.
    """
    return _FLOATS[value] if isinstance(value, str) else value
