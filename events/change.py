"""What one event did to the fold: runs before and after, nodes, ended attempts.

Owns these values, for whoever follows the fold; knows no rule and no event's fields.
"""

from __future__ import annotations

import msgspec

from events.config import RunConfig
from events.state import Active, Run
from events.types import AttemptRef
from trainshed_client.statuses import FailureReason, RunStatus


class RunChange(msgspec.Struct, frozen=True):
    """A run's value before (None: it was not live) and after."""

    before: Run | None
    after: Run


class EndedAttempt(msgspec.Struct, frozen=True):
    """An attempt that an event ended, and how."""

    run_id: str
    attempt: Active
    status: RunStatus
    reason: FailureReason | None


class Change(msgspec.Struct, frozen=True):
    """What one event did. Empty where it does not count; ``late`` is an end after the attempt's first.

    ``unreadable`` says why an event's content cannot be folded: it belongs in quarantine. ``config`` is that of a Submitted
    that counted, which was read to fold it.
    """

    runs: tuple[RunChange, ...] = ()
    nodes: tuple[str, ...] = ()
    ended: tuple[EndedAttempt, ...] = ()
    late: AttemptRef | None = None
    unreadable: str | None = None
    config: RunConfig | None = None


NOTHING = Change()
