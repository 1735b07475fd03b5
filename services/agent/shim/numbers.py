"""Numbers as workers write them, and as JSON bears them.

Owns which texts are a number; knows no key and no datagram. `trainshed_client.not_finite` has the same turn for all others.
"""

from __future__ import annotations

import math

MAX_TEXT = 64
"""Characters of a text that may be a number."""
_SPELLED = {"nan": math.nan, "inf": math.inf, "infinity": math.inf}


def number(text: str) -> float | None:
    """What ``float()`` reads, NaN and the infinities included; None for every other text, and for what a float cannot hold.

    A NaN is always the same object.
    """
    if len(text) > MAX_TEXT:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    if math.isfinite(value):
        return value
    sign, name = text.strip().lower()[:1], text.strip().lower().lstrip("+-")
    spelled = _SPELLED.get(name)  # 1e400 is none of these: it was no infinity where it was written
    return -math.inf if spelled == math.inf and sign == "-" else spelled


def in_json(value: float) -> float | str:
    """The number, or the string that stands for one that JSON does not have."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
