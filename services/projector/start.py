"""Which trouble ends a projector's start, and which it waits out.

Owns that one rule, which is pure; knows no database and no error of one.
"""

from __future__ import annotations

import enum
from typing import assert_never

from trainshed_client.errors import ErrorCode


class Start(enum.Enum):
    """For whom a projector starts."""

    ALONE = "alone"
    """A service of its own: whoever asks is answered why, while it waits."""
    AWAITED = "awaited"
    """`up` begins, and somebody waits until it is ready."""
    AGAIN = "again"
    """`up` has been ready: it goes on for as long as it can, and so does what runs."""


class Hindrance(enum.Enum):
    """Why a database cannot be opened."""

    UNUSABLE = "unusable"
    """By somebody's hand alone it becomes usable: a folder in its place, no right to it, a path that is too long."""
    FULL = "full"
    """Its disk is full."""
    PASSING = "passing"
    """It may pass by itself: a lock, a server that does not answer yet."""


def ends(hindrance: Hindrance, start: Start) -> ErrorCode | None:
    """Whether this ends a projector that was never open yet, and as which error; None: it tries again until it can.

    The one rule of what is final and what is waited for. INVALID is not tried again by systemd either.
    """
    match hindrance:
        case Hindrance.UNUSABLE:
            return None if start is Start.AGAIN else ErrorCode.INVALID
        case Hindrance.FULL:
            return ErrorCode.UNAVAILABLE if start is Start.AWAITED else None
        case Hindrance.PASSING:
            return None
        case _ as never:
            assert_never(never)
