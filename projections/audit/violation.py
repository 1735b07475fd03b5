"""What an audit names: an invariant that does not hold, where, and what is wrong.

Owns this value and how many of them are named; knows no check.
"""

from __future__ import annotations

import msgspec

from projections.audit.comparison import MAX_DIFFERENCES

MAX_VIOLATIONS = MAX_DIFFERENCES


class Violation(msgspec.Struct, frozen=True):
    """An invariant (I1, I2, I4, I6, I8, I9) that does not hold, at which sequence, and what is wrong."""

    invariant: str
    seq: int
    message: str
