"""What `audit verify --decisions` checks: each grant is what the scheduler decides again from the grant's view (I11).

Owns the invariant's number; deciding again is services.dispatcher's.
"""

from __future__ import annotations

from collections.abc import Mapping

from events.codec import StoredEvent
from events.state import Run
from projections.audit.violation import Violation
from services.dispatcher.decided_again import DecidedAgain, GrantsAgain


class DecisionsCheck:
    """A check for `projections.audit.verify.verify`."""

    def __init__(self) -> None:
        self._grants = GrantsAgain()

    @property
    def result(self) -> DecidedAgain:
        """How many were decided again, and how they came out."""
        return self._grants.result

    def take(self, stored: StoredEvent, history: Mapping[str, Run]) -> None:
        """See AuditCheck."""
        self._grants.take(stored, history)

    async def violations(self) -> list[Violation]:
        """See AuditCheck."""
        return [Violation("I11", one.seq, str(one)) for one in self.result.differences]
