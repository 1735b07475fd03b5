"""What an audit names: an invariant that does not hold, where, and what is wrong.

Owns this value and how many of them are named; knows no check.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from projections.audit.comparison import MAX_DIFFERENCES, Unlike
from projections.audit.setters import SetBy

MAX_VIOLATIONS = MAX_DIFFERENCES


class Violation(msgspec.Struct, frozen=True):
    """An invariant (I1, I2, I4, I6, I8, I9, I10, I11) that does not hold, at which sequence, and what is wrong.

    Of a row that differs also its table, key, the column (None: the row as a whole) and both values, and the event that set
    the log's (None: no event made such a row).
    """

    invariant: str
    seq: int
    message: str
    table: str | UnsetType = UNSET
    key: tuple[str | int, ...] | UnsetType = UNSET
    column: str | UnsetType | None = UNSET
    live: Any = UNSET
    replayed: Any = UNSET
    set_by: SetBy | UnsetType | None = UNSET


def of_row(seq: int, unlike: Unlike, set_by: SetBy | None) -> Violation:
    """I4 at ``seq``: a read model that is not what the log says."""
    if unlike.table is None:
        return Violation("I4", seq, unlike.message)
    message = unlike.message
    if set_by is not None:
        did = "set" if unlike.column is not None else "removed" if unlike.replayed is None else "made"
        message += f" ({did} by {set_by.type} at {set_by.seq})"
    return Violation(
        "I4",
        seq,
        message,
        unlike.table,
        unlike.key,
        unlike.column,
        unlike.live,
        unlike.replayed,
        set_by,
    )
